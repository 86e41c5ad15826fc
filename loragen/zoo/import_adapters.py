"""Adapters from elsewhere, brought into the frame of a zoo through their delta weights.

Ranks, alphas, rsLoRA and target modules may differ: what counts is the update. Over one frame it is a vector, and what
the frame cannot hold is told for each adapter, and refused where it is more than was allowed.
"""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.bases.architecture import Architecture
from loragen.bases.hub import local_model
from loragen.bases.open import objective_of
from loragen.bases.renaming import renamed
from loragen.errors import AdapterError, ConfigError, ZooError, shown
from loragen.files import atomic_folder, atomic_write
from loragen.locks import lock
from loragen.progress import Progress, silent
from loragen.recipes.expert import ExpertRecipe
from loragen.recipes.multitask import MultitaskRecipe
from loragen.zoo.card import CARD, EXPERTS, ZOO_MANIFEST, Imported, Manifest
from loragen.zoo.cards import refuse_packed
from loragen.zoo.changes import fingerprint_of, logged
from loragen.zoo.external_adapter import ExternalAdapter
from loragen.zoo.imported import brought as brought
from loragen.zoo.imported import card_of, expert_of, facts_of, refuse_losses
from loragen.zoo.shards import file_hash
from loragen.zoo.start import frame_of
from loragen.zoo.tidy import tidy
from loragen.zoo.zoo import Zoo


@dataclass(frozen=True, eq=False)
class ImportPlan:
    """Experts that an import would write, and the frame and manifest of their zoo."""

    manifest: Manifest
    frame: Frame
    adapters: tuple[ExternalAdapter, ...]
    imported: tuple[Imported, ...]
    """Facts of each adapter, in the same order."""
    is_checked: bool
    """True if sites and shapes were compared with the base's config; else they were with one another alone."""
    there: tuple[str, ...] = ()
    """Ids of experts that the zoo holds already, to the byte: an earlier import was interrupted."""
    zoo: str | None = None
    """Fingerprint of the zoo that the plan is for; None for a new one."""


def import_adapters(
    sources: Sequence[str],
    zoo: Path,
    *,
    descriptions: Sequence[str | None] | None = None,
    ids: Sequence[str | None] | None = None,
    base: str | None = None,
    rank: int | None = None,
    max_loss: float = 0.05,
    without_head: bool = False,
    progress: Progress = silent,
) -> ImportPlan:
    """Bring adapters from elsewhere into a zoo, new or there already; returns what was written.

    An import that was interrupted goes on where it was: experts that it has written already are kept.

    Args:
        sources: adapter folders, or ``hub:ORG/NAME@COMMIT/SUBFOLDER``, the last two where they are needed.
        zoo: folder of the zoo.
        descriptions: of the adapters, in the same order; by default what their cards say.
        ids: names of the experts, in the same order; by default those of the folders or repositories.
        base: name of the base; by default the one that the adapters name.
        rank: of a new zoo's frame; by default what the adapters need.
        max_loss: share of an adapter's squared norm that the frame may lose.
        without_head: read adapters of classifiers (SEQ_CLS, TOKEN_CLS, QUESTION_ANS) as adapters of the model inside.
        progress: called with the stage, the adapters done and their total.

    Raises:
        AdapterError: an adapter is missing or damaged, does not fit the base or the others, or loses more.
        TaskError: an adapter comes without a description.
        ConfigError: the numbers of adapters and of descriptions or ids differ, a number is out of range, or ``base`` is
            a path that is not here.
        ZooError: the zoo is of another base, has another expert of that name, or has a frame, so no rank can be
            asked for; or something that is no zoo lies there.
    """
    if not 0 <= max_loss <= 1:
        raise ConfigError(f"The share that may be lost is {shown(max_loss)}; a number from 0 to 1 was wanted.")
    if rank is not None and rank < 1:
        raise ConfigError(f"The rank of the frame is {shown(rank)}; at least 1 was wanted.")
    if base is not None:
        local_model(base)  # refuses a path that is not here
    told, named = _one_each(descriptions, sources, "descriptions"), _one_each(ids, sources, "ids")
    adapters = []
    for done, (source, description, name) in enumerate(zip(sources, told, named, strict=True)):
        progress("reading adapters", done, len(sources))
        one = ExternalAdapter.open(source, name=name, description=description, base=base, without_head=without_head)
        adapters.append(one)
    progress("reading adapters", len(sources), len(sources))
    plan = plan_import(adapters, zoo, name=Path(os.path.realpath(zoo)).name, rank=rank, max_loss=max_loss)
    write_import(plan, zoo, progress)
    return plan


def _one_each(values: Sequence[str | None] | None, sources: Sequence[str], kind: str) -> Sequence[str | None]:
    if values is not None and len(values) != len(sources):
        raise ConfigError(f"{len(values)} {kind} came with {len(sources)} adapters; give one for each, in order.")
    return [None] * len(sources) if values is None else values


def plan_import(
    adapters: Sequence[ExternalAdapter], root: Path, *, name: str, rank: int | None = None, max_loss: float = 0.05
) -> ImportPlan:
    """Check adapters and find their places in the frame of a zoo, or in one of their own where there is no zoo yet.

    Args:
        adapters: of one base.
        root: folder of the zoo.
        name: of the zoo, where it is new.
        rank: of a new zoo's frame; the smallest that keeps enough of every adapter where it is not given.
        max_loss: share of an adapter's squared norm that may be lost.

    Raises:
        AdapterError: an adapter does not fit the base or the others, or loses more.
        ZooError: the zoo is of another base, has another expert of that name, or has a frame, so no rank can be
            asked for; or something that is no zoo lies there.
    """
    if not adapters:
        raise ZooError("There is no adapter to import; name at least one folder.")
    counts = Counter(one.id for one in adapters)
    if repeated := sorted(name for name, count in counts.items() if count > 1):
        raise ZooError(f"Several adapters would be called {', '.join(repeated)}; give names with --id.")
    refuse_packed(root)
    zoo = Zoo.open(root) if (root / ZOO_MANIFEST).is_file() else None
    if zoo is None and root.exists() and (root.is_file() or any(root.iterdir())):
        raise ZooError(
            f"{root} is there already and is no zoo (it has no {ZOO_MANIFEST}); name another folder with --zoo."
        )
    adapters, is_checked = checked(adapters, zoo)
    frame = _new_frame(adapters, rank, max_loss) if zoo is None else _frame_of(zoo, adapters, rank)
    imported = tuple(facts_of(one, frame) for one in adapters)
    there = _there(zoo, adapters, imported, frame) if zoo is not None else ()
    refuse_losses(adapters, imported, frame, max_loss)
    if zoo is None:
        return ImportPlan(_manifest(adapters, frame, name), frame, tuple(adapters), imported, is_checked)
    return ImportPlan(zoo.manifest, frame, tuple(adapters), imported, is_checked, there, zoo.fingerprint)


def write_import(plan: ImportPlan, root: Path, progress: Progress = silent) -> None:
    """Write a plan: a new zoo whole or not at all, and into one that is there one whole expert after another.

    ``progress`` is called with "writing experts", the number done, and their total.

    Raises:
        ZooError: the zoo was changed since it was planned for.
        ConfigError: another process writes there, or has written there.
    """
    if plan.zoo is not None:
        with lock(root):
            zoo = Zoo.open(root)
            if zoo.fingerprint != plan.zoo:
                raise ZooError(f"The zoo {root} was changed while the adapters were read; import them again.")
            tidy(zoo)
            _write_experts(plan, root, progress, dict(zoo.hashes))
        return
    with atomic_folder(root, replace=False) as folder:
        atomic_write(folder / ZOO_MANIFEST, plan.manifest.to_yaml())
        _write_experts(plan, folder, progress, None)


def _write_experts(plan: ImportPlan, root: Path, progress: Progress, hashes: dict[str, str] | None) -> None:
    """Write experts; into a zoo that is there, whose ``hashes`` are known, each with a line in its log."""
    for done, (one, imported) in enumerate(zip(plan.adapters, plan.imported, strict=True), 1):
        if one.id not in plan.there:
            adapter, card = expert_of(one, imported, plan.manifest, plan.frame)
            with nullcontext() if hashes is None else _logged(root, hashes, one.id, file_hash(adapter)):
                adapter.save(root / EXPERTS / one.id, extra_files={CARD: card.to_yaml()})
        progress("writing experts", done, len(plan.adapters))


def _logged(root: Path, hashes: dict[str, str], expert: str, sha256: str) -> AbstractContextManager[None]:
    """The line of an expert that comes, whose hash is then among ``hashes``."""
    before = fingerprint_of(hashes)
    hashes[expert] = sha256
    return logged(root, "added", expert, sha256, before=before, after=fingerprint_of(hashes))


def _there(
    zoo: Zoo, adapters: Sequence[ExternalAdapter], imported: Sequence[Imported], frame: Frame
) -> tuple[str, ...]:
    """Ids of adapters that the zoo holds as an import would write them.

    Raises:
        ZooError: it holds another expert of such a name.
    """
    known = [(one, facts) for one, facts in zip(adapters, imported, strict=True) if one.id in zoo.cards]
    others = []
    for one, facts in known:
        files = brought(one.adapter, frame, zoo.manifest.base).files()
        card = card_of(one, facts, zoo.manifest).to_yaml().encode()
        folder = zoo.root / EXPERTS / one.id
        if any((folder / name).read_bytes() != content for name, content in {**files, CARD: card}.items()):
            others.append(one.id)
    if others:
        raise ZooError(f"The zoo {zoo.root} has {', '.join(others)} already; give other names with --id.")
    return tuple(one.id for one, _ in known)


def checked(adapters: Sequence[ExternalAdapter], zoo: Zoo | None) -> tuple[Sequence[ExternalAdapter], bool]:
    """Adapters under the names of their base, and whether that was at hand to compare with."""
    bases = {str(one.base): one.id for one in adapters}
    if len(bases) > 1:
        told = ", ".join(f"{base} ({expert})" for base, expert in bases.items())
        raise AdapterError(
            f"Adapters of one zoo must be of one base; met {told}. If they are one, name it with --base."
        )
    (base,) = bases
    if zoo is not None and base != zoo.manifest.base:
        raise ZooError(
            f"The zoo {zoo.root} is of the base {zoo.manifest.base}, the adapters of {base}; name another --zoo or, "
            "if that is the same base, its name with --base."
        )
    kinds = {(one.adapter.settings.task_type, one.adapter.settings.fan_in_fan_out) for one in adapters}
    if len(kinds) > 1:
        raise AdapterError(
            f"Adapters of one zoo must agree on task_type and fan_in_fan_out; met {sorted(map(str, kinds))}. Correct "
            "their adapter_config.json, or import them into two zoos."
        )
    sites = {site for one in adapters for site in one.adapter.sites}
    architecture = Architecture.at_hand(base, sites, adapters[0].adapter.settings.task_type)
    if architecture is None:
        return adapters, False
    found = [replace(one, adapter=renamed(one.adapter, architecture)) for one in adapters]
    for one in found:
        if faults := architecture.faults(one.adapter):
            raise AdapterError(f"The adapter {one.id} does not fit {base}. {' '.join(faults)}")
    return found, True


def _new_frame(adapters: Sequence[ExternalAdapter], rank: int | None, max_loss: float) -> Frame:
    loras = [one.adapter for one in adapters]
    if rank is not None:
        return Frame.fit(loras, r=rank).rounded()
    ranks: Counter[str] = Counter()
    for lora in loras:
        ranks.update({site.name: site.r for site in lora.spec.sites})
    whole = Frame.fit(loras, r=max(ranks.values()))
    return _cut(whole, smallest_rank(whole, loras, max_loss)).rounded()


def smallest_rank(frame: Frame, adapters: Sequence[Lora], max_loss: float) -> int:
    """The fewest leading rows of an orthonormal frame that lose at most ``max_loss`` of the energy of each adapter.

    A tenth of the loss allowed is left for what storing in bfloat16 takes.
    """
    longest = max(len(a) for a in frame.lora_A.values())
    needed = 1
    for adapter in adapters:
        energies = torch.zeros(longest, dtype=torch.float64)
        for site in adapter.sites:
            a, b = (factor.double() for factor in adapter.scaled_factors(site))
            mixed = a @ frame.lora_A[site].double().T
            energies[: mixed.shape[1]] += (mixed * (b.T @ b @ mixed)).sum(0)  # squared columns of b @ mixed
        kept = energies.cumsum(0) / energies.sum()
        needed = max(needed, 1 + int((kept < 1 - 0.9 * max_loss).sum()))
    return min(needed, longest)


def _cut(frame: Frame, rank: int) -> Frame:
    return Frame({site: a[:rank].contiguous() for site, a in frame.lora_A.items()}, frame.out_features)


def _frame_of(zoo: Zoo, adapters: Sequence[ExternalAdapter], rank: int | None) -> Frame:
    if rank is not None:
        raise ZooError(f"The zoo {zoo.root} has its frame already, and --rank is for new ones; leave it out.")
    frame = frame_of(zoo, [zoo.adapter(expert) for expert in zoo.ids])
    for one in adapters:
        if unknown := [site for site in one.adapter.sites if site not in frame.lora_A]:
            raise AdapterError(
                f"The adapter {one.id} updates {unknown[0]!r}, which is not among the {len(frame.lora_A)} sites of the "
                f"zoo {zoo.root}; import all adapters at once into a new zoo."
            )
    return frame


def _manifest(adapters: Sequence[ExternalAdapter], frame: Frame, name: str) -> Manifest:
    endings = tuple(sorted({site.rpartition(".")[2] for site in frame.lora_A}))
    task_type = adapters[0].adapter.settings.task_type
    return Manifest(
        name=name,
        base=adapters[0].base,
        base_hash="",
        frame="fitted",
        start="elsewhere",
        recipe=ExpertRecipe(
            objective=objective_of(task_type), r=max(len(a) for a in frame.lora_A.values()), target_modules=endings
        ),
        multitask=MultitaskRecipe(),
    )
