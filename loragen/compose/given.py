"""The experts that a composition is made of, as they are named: by id in a zoo, by folder, or by a description."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import AdapterError, ConfigError, ZooError, named, shown
from loragen.inference import Adapter
from loragen.paths import as_path, is_dir
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import TaskSet
from loragen.values import checked_part
from loragen.zoo.card import Card
from loragen.zoo.expert_index import ExpertIndex, mean_direction, search
from loragen.zoo.zoo import Zoo


@dataclass(frozen=True, eq=False)
class GivenExpert:
    """One expert."""

    name: str
    adapter: Adapter
    card: Card | None = None
    """Where it is of a zoo."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its task's labels, where they are known."""
        return self.adapter.labels

    @property
    def descriptions(self) -> tuple[str, ...]:
        """Its task in words, where that is known."""
        if self.card is not None:
            return tuple(self.card.descriptions)
        return () if self.adapter.description is None else (self.adapter.description,)


def given_experts(
    experts: Sequence[Adapter | Path | str] | None,
    description: str | None,
    zoo: Zoo | Path | None,
    encoder: str,
    *,
    top_k: int,
    base: str | None,
) -> tuple[list[GivenExpert], Zoo | None]:
    """The experts, and the zoo that was opened for them.

    Args:
        experts: adapters, their folders, or ids of a zoo's experts; `None` takes those nearest to the description.
        description: the task in words.
        zoo: where ids are looked up; by default the bundled one.
        encoder: text encoder of descriptions.
        top_k: how many experts the description finds.
        base: stands in for the base that they name.

    Raises:
        ConfigError: neither experts nor a description were given, or two experts have one name.
        ZooError: there is no such expert.
        AdapterError: a folder holds none.
    """
    if experts is None and not (description or "").strip():
        raise ConfigError(
            "Neither experts nor a task were given; name experts with --experts a,b,c, or give the task with "
            "--description, which finds the nearest."
        )
    if experts is None:
        opened = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
        found = search(description or "", opened, top_k=top_k, encoder=encoder)
        return [_of_zoo(card.id, opened, base) for card, _ in found], opened
    if isinstance(experts, str):
        raise ConfigError(f"The experts are one text, {shown(experts)}; give a list of names.")
    if not experts:
        raise ConfigError("No expert was named; give at least one with --experts a,b,c.")
    place: Zoo | None = zoo if isinstance(zoo, Zoo) else None
    made = []
    for number, expert in enumerate(experts, 1):
        if isinstance(expert, Adapter):
            made.append(GivenExpert(f"expert-{number}", expert if base is None else expert.over(base)))
        elif isinstance(expert, Path) or _is_folder(expert):
            made.append(_of_folder(Path(expert), base))
        else:
            place = place or Zoo.open(zoo if isinstance(zoo, Path) else None)
            made.append(_of_zoo(expert, place, base))
    names = [one.name for one in made]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"Two experts are called {shown(twice[0])}; name each once, or rename a folder.")
    return made, place


def _is_folder(text: str) -> bool:
    path = as_path(text)
    return path is not None and is_dir(path)


def _of_folder(folder: Path, base: str | None) -> GivenExpert:
    name = folder.resolve().name
    try:
        checked_part(name)
    except ValueError as error:
        raise ConfigError(f"The folder {named(str(folder))} cannot name an expert: {error}; rename it.") from error
    return GivenExpert(name, Adapter.load(folder, base=base))


def _of_zoo(expert: str, zoo: Zoo, base: str | None) -> GivenExpert:
    try:
        card = zoo.card(expert)
    except ZooError as error:
        raise ZooError(f"{error} If a folder was meant, there is none at {shown(expert)}.") from error
    recipe = zoo.manifest.recipe
    adapter = Adapter(
        zoo.adapter(expert),
        zoo.manifest.base,
        description=card.description,
        labels=tuple(card.labels),
        wording=recipe.wording,
        label_targets=recipe.label_targets,
    )
    return GivenExpert(expert, adapter if base is None else adapter.over(base), card)


def similarities(experts: Sequence[GivenExpert], description: str, encoder: str, zoo: Zoo | None) -> Tensor:
    """Cosine of the task's description with the mean direction of each expert's, (n,).

    Raises:
        AdapterError: an expert has no description.
    """
    if silent := [one.name for one in experts if not one.descriptions]:
        raise AdapterError(
            f"The expert {silent[0]} has no description in its card, by which it would be weighed; write one into "
            "card.yaml, or take another method."
        )
    text_encoder = TextEncoder.load(encoder)
    query = text_encoder.encode([description])[0]
    if zoo is not None and all(one.card is not None for one in experts):  # whose embeddings are kept
        index = ExpertIndex.of(zoo, text_encoder).index
        place = {name: at for at, name in enumerate(index.ids)}
        return torch.stack([index.vectors[place[one.name]] @ query for one in experts]).float()
    return torch.stack([mean_direction(text_encoder.encode(list(one.descriptions))) @ query for one in experts])


def examples_of(
    experts: Sequence[GivenExpert], data: Sequence[Path | str | Examples] | None, tasks: Path | None
) -> tuple[Examples, ...]:
    """Labelled texts of each expert's task.

    Raises:
        ConfigError: both are given, or not one file an expert.
        TaskError: a file cannot be used, or there is no task of an expert's name.
    """
    if data is not None and tasks is not None:
        raise ConfigError("Both --data and --tasks give labelled texts; give one of them.")
    if tasks is not None:
        known = TaskSet.from_yaml(tasks)
        return tuple(known[one.name].load_train() for one in experts)
    given = data or ()
    if len(given) != len(experts):
        raise ConfigError(
            f"{len(given)} files of labelled texts were given for {len(experts)} experts; give one for each, in the "
            "experts' order."
        )
    return tuple(
        one if isinstance(one, Examples) else Examples.from_file(one, known=expert.labels)
        for one, expert in zip(given, experts, strict=True)
    )
