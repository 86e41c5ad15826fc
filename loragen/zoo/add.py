"""Adds one expert to a zoo that is there: trained for a task, or an adapter from elsewhere."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from loragen.adapters.adapter import Lora
from loragen.bases.devices import DeviceName
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import AdapterError, ConfigError, LoragenError, ZooError, cut, shown
from loragen.locks import lock
from loragen.progress import Progress, silent
from loragen.zoo.card import Card
from loragen.zoo.external_adapter import ExternalAdapter
from loragen.zoo.import_adapters import checked
from loragen.zoo.imported import expert_of, facts_of, refuse_losses
from loragen.zoo.insert_expert import NO_FILES, Files, insert_expert
from loragen.zoo.start import frame_of
from loragen.zoo.tidy import tidy
from loragen.zoo.train_one import task_of, train_one
from loragen.zoo.zoo import SPLIT, Zoo


@dataclass(frozen=True)
class Added:
    """An expert that was added."""

    card: Card
    experts: int
    """Of the zoo as it is now."""
    fingerprint: str
    """Of the zoo as it is now."""
    is_drawn_on: bool
    """True if generators draw on it: it is of the split ``experts``."""
    notes: tuple[str, ...] = ()
    """Remarks on the folder of an adapter."""


def add_expert(
    source: str | Path,
    zoo: Zoo | Path | str,
    *,
    tasks: Path | None = None,
    split: str | None = None,
    score: bool = True,
    device: DeviceName = "cpu",
    description: str | None = None,
    name: str | None = None,
    licence: str | None = None,
    base: str | None = None,
    max_loss: float = 0.05,
    without_head: bool = False,
    encoder: TextEncoder | None = None,
    progress: Progress = silent,
) -> Added:
    """Add an expert to a zoo, in folders or packed; nothing else is built again.

    With ``tasks`` an expert is trained as a build of the zoo with this task would train it: same start, same seed.
    Else the source is an adapter, which is brought into the frame of the zoo as `import_adapters` brings it.

    The expert is there whole or not at all, with a line in the zoo's log. Generators of the zoo are then behind.

    Args:
        source: id of a task or, without ``tasks``, an adapter: its folder, or ``hub:ORG/NAME@COMMIT/SUBFOLDER``.
        zoo: the zoo, its folder, or the name of one.
        tasks: the task file that the source is a task of.
        split: of a trained expert; by default ``experts``, on which generators draw, or the split of the task file that
            the task is in.
        score: score a trained expert on the task's test file.
        device: to train on.
        description: of an adapter; by default what its card says.
        name: of an adapter; by default that of its folder or repository.
        licence: of an adapter's data; by default what its card says.
        base: name of an adapter's base; by default the one that it names.
        max_loss: share of an adapter's squared norm that the frame may lose.
        without_head: read the adapter of a classifier as one of the model inside.
        encoder: where a packed zoo keeps embeddings by it, the expert's is kept too.
        progress: called with the stage, the steps done and their total.

    Raises:
        ZooError: there is no such zoo, it has an expert of that name, or it cannot train experts.
        TaskError: there is no such task, its data cannot be used, or an adapter comes without a description.
        AdapterError: the adapter is missing or damaged, does not fit the zoo, or loses more.
        ConfigError: options do not go together, or another process writes there.
    """
    opened = zoo if isinstance(zoo, Zoo) else Zoo.open(Path(zoo))
    of_adapters = {"description": description, "name": name, "licence": licence, "base": base}
    if tasks is not None:
        _refuse_given(of_adapters, "an adapter, and `tasks` names a task file")
        card, adapter, files = _trained(str(source), opened, tasks, split, score, device, progress)
        notes: tuple[str, ...] = ()
    else:
        _refuse_given({"split": split}, "a task, and no task file is named by `tasks`")
        one = ExternalAdapter.open(
            str(source), name=name, description=description, base=base, without_head=without_head
        )
        one = one if licence is None else replace(one, licence=licence)
        progress("adding", 0, 1)
        card, adapter = _brought(one, opened, max_loss)
        files, notes = NO_FILES, one.notes
    now = insert_expert(opened, card, adapter, files=files, encoder=encoder)
    progress("adding", 1, 1)
    return Added(card, len(now), now.fingerprint, card.split == SPLIT, notes)


def _refuse_given(values: Mapping[str, str | None], what: str) -> None:
    if given := [option for option, value in values.items() if value is not None]:
        raise ConfigError(f"The option {given[0]!r} is for {what}; leave one of them out.")


def _trained(
    task_id: str,
    zoo: Zoo,
    tasks: Path,
    split: str | None,
    score: bool,
    device: DeviceName,
    progress: Progress,
) -> tuple[Card, Lora, Files]:
    """The expert of a task: card, adapter and its other files."""
    task, of_split = task_of(task_id, tasks, split)
    _refuse_taken(zoo, task.id, "remove it first, or rename the task.")
    progress("training the expert", 0, 1)
    made = train_one(zoo, task, tasks, of_split, score=score, device=device)
    progress("training the expert", 1, 1)
    return made


def _refuse_taken(zoo: Zoo, expert: str, way_out: str) -> None:
    """Refuse a name that is taken; an addition that was killed when it was done is put in order before."""
    if expert in zoo.cards:
        with suppress(LoragenError), lock(zoo.root):
            tidy(Zoo.open(zoo.root))
        raise ZooError(f"The zoo {cut(zoo.root)} has an expert {expert} already; {way_out}")


def _brought(one: ExternalAdapter, zoo: Zoo, max_loss: float) -> tuple[Card, Lora]:
    """An adapter in the frame of a zoo, with its card."""
    if not 0 <= max_loss <= 1:
        raise ConfigError(f"The share that may be lost is {shown(max_loss)}; a number from 0 to 1 was wanted.")
    _refuse_taken(zoo, one.id, "give another name with --id.")
    ((found,), _) = checked([one], zoo)
    # The experts of a packed zoo share their A: any one of them has the frame.
    ids = zoo.ids if zoo.sharded is None else zoo.ids[:1]
    adapters = [zoo.adapter(expert) for expert in ids]
    frame = frame_of(zoo, adapters)
    found = replace(found, adapter=_of_kind(found, adapters[0]))
    if unknown := [site for site in found.adapter.sites if site not in frame.lora_A]:
        raise AdapterError(
            f"The adapter {one.id} updates {unknown[0]!r}, which is not among the {len(frame.lora_A)} sites of the zoo "
            f"{cut(zoo.root)}; import it into a zoo of its own."
        )
    facts = facts_of(found, frame)
    refuse_losses([found], [facts], frame, max_loss)
    adapter, card = expert_of(found, facts, zoo.manifest, frame)
    return card, adapter


def _of_kind(one: ExternalAdapter, expert: Lora) -> Lora:
    """An adapter under the task type of a zoo's experts, where it states none.

    Raises:
        AdapterError: it states another, or its base keeps weights the other way round.
    """
    own, wanted = one.adapter.settings, expert.settings
    if own.task_type not in (None, wanted.task_type) or own.fan_in_fan_out != wanted.fan_in_fan_out:
        raise AdapterError(
            f"The adapter {one.id} has task_type {own.task_type} and fan_in_fan_out {own.fan_in_fan_out}, the experts "
            f"of the zoo {wanted.task_type} and {wanted.fan_in_fan_out}; correct its adapter_config.json, or import it "
            "into a zoo of its own."
        )
    return replace(one.adapter, settings=replace(own, task_type=wanted.task_type))
