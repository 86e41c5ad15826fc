"""Compositions made: experts by id or folder, a method, and what it wants; an adapter or a composition comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from loragen.adapters.combine import combined, common_task_type
from loragen.bases.base import Base
from loragen.bases.open import objective_of, open_base
from loragen.combination import on_one_base
from loragen.compose.composed import Composed
from loragen.compose.composition import Composition
from loragen.compose.experts import Experts
from loragen.compose.given import GivenExpert, examples_of, given_experts, similarities
from loragen.compose.registry import Row, row_named
from loragen.compose.settings import ComposeSettings, Made, Making
from loragen.errors import AdapterError, ConfigError, shown
from loragen.generation.pipeline import ENCODER
from loragen.inference import Adapter
from loragen.progress import Progress, silent
from loragen.tasks.examples import Examples
from loragen.tasks.words import listed
from loragen.training.threads import few_threads, one_thread
from loragen.values import checked_seed
from loragen.yaml_text import parse_yaml
from loragen.zoo.zoo import Zoo


@dataclass(frozen=True, eq=False)
class Composing:
    """What came of composing experts."""

    adapter: Adapter | Composed
    """An ordinary adapter where the method is static, else a composition."""
    method: str
    is_dynamic: bool
    experts: tuple[str, ...]
    weights: tuple[float, ...] | None
    """Of the experts, where the method is static."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """What was met on the way."""
    notes: tuple[str, ...] = ()


def compose_experts(
    experts: Sequence[Adapter | Path | str] | None = None,
    *,
    method: str = "mora",
    description: str | None = None,
    top_k: int = 4,
    data: Sequence[Path | str | Examples] | None = None,
    tasks: Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] | None = None,
    zoo: Zoo | Path | None = None,
    encoder: str = ENCODER,
    base: str | Base | None = None,
    rank: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Composing:
    """Compose experts of one base by a method.

    Args:
        experts: ids of a zoo's experts, or adapter folders; by default the ``top_k`` that are nearest to the
            description.
        method: one of `list_methods`.
        description: the task in words.
        top_k: how many experts the description finds.
        data: labelled texts of each expert's task, in the experts' order, for methods that learn from such.
        tasks: in place of ``data``, a file of tasks (as ``configs/tasks/public.yaml``) that names the experts' tasks by
            their ids; their train files are read.
        settings: of the method, by name, or as texts like ``k=8``.
        zoo: where ids are looked up; by default the bundled one.
        encoder: text encoder of descriptions.
        base: stands in for the base that the adapters name; or it itself, loaded.
        rank: largest rank of a site of a static composition; by default what an exact sum takes.
        seed: of all that is drawn.
        progress: called with the stage, the steps done and their total.

    Raises:
        ConfigError: there is no such method or setting, or the method wants what was not given.
        AdapterError: adapters do not go together.
        ZooError: the zoo has no such expert.
        TaskError: the texts have no labels, or are too few.
    """
    row, seed = row_named(method), checked_seed(seed)
    chosen = row.settings.checked(_values(settings or {}), source=f"The settings of {method}")
    name = base.name if isinstance(base, Base) else base
    given, opened_zoo = given_experts(experts, description, zoo, encoder, top_k=top_k, base=name)
    _refuse_missing(row, chosen, description, data, tasks)
    if rank is not None and row.is_dynamic:
        raise ConfigError(f"--rank bears on static methods alone, and {method} is dynamic; leave it out.")
    loras = on_one_base(
        [one.adapter.lora for one in given],
        common_task_type([one.adapter.lora for one in given], [one.name for one in given]),
        None if isinstance(base, Base) else base,
    )
    targets = {one.adapter.label_targets for one in given}
    if len(targets) > 1:
        raise AdapterError(
            "Some experts were trained against label texts under the adapter and some against frozen ones; compose "
            "experts of one kind."
        )
    wants_examples = row.needs_with(chosen) == "examples"
    making = Making(
        Experts.of(loras, [one.name for one in given]),
        lambda: base if isinstance(base, Base) else _opened(given[0].adapter),
        examples_of(given, data, tasks) if wants_examples else None,
        None
        if row.needs_with(chosen) != "description"
        else similarities(given, description or "", encoder, opened_zoo),
        seed,
        progress,
    )
    # so that the bytes do not depend on the number of threads, unless the base is large
    with few_threads(making.base.number_of_parameters) if wants_examples else one_thread():
        made = row.make(making, chosen)
    return _composing(row, chosen, made, given, description, making, rank)


def _values(settings: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Settings by name, from a mapping or from texts.

    Raises:
        ConfigError: a text has no '='.
    """
    if isinstance(settings, Mapping):
        return dict(settings)
    found = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise ConfigError(f"The setting {shown(setting)} has no '='; write --set key=value.")
        found[key] = parse_yaml(text, f"The value of {shown(key)}")
    return found


def _refuse_missing(
    row: Row,
    settings: ComposeSettings,
    description: str | None,
    data: Sequence[Path | str | Examples] | None,
    tasks: Path | None,
) -> None:
    needs = row.needs_with(settings)
    if needs == "description" and not (description or "").strip():
        raise ConfigError(f"The method {row.name} weighs experts by the task in words; give it with --description.")
    if needs == "examples" and data is None and tasks is None:
        raise ConfigError(
            f"The method {row.name} learns from labelled texts of the experts' tasks; give a file for each with --data "
            "a.csv,b.csv, or a file of tasks with --tasks."
        )
    if needs != "examples" and (data is not None or tasks is not None):
        raise ConfigError(f"The method {row.name} reads no labelled texts with these settings; leave them out.")


def _opened(adapter: Adapter) -> Base:
    task_type = adapter.lora.settings.task_type
    return open_base(
        adapter.base,
        objective=objective_of(task_type),
        prompt=adapter.wording,
        may_fetch=adapter.may_fetch_base,
        label_targets=adapter.label_targets,
    )


def _composing(
    row: Row,
    settings: ComposeSettings,
    made: Made,
    given: Sequence[GivenExpert],
    description: str | None,
    making: Making,
    rank: int | None,
) -> Composing:
    first = given[0].adapter
    labels = (
        tuple(dict.fromkeys(label for one in given for label in one.labels)) if all(g.labels for g in given) else ()
    )
    known: dict[str, Any] = {
        "labels": labels,
        "description": description or f"Tasks of {listed(made.experts.names, most=10)}.",
        "notes": tuple(dict.fromkeys(note for one in given for note in one.adapter.notes)),
        "wording": first.wording,
        "may_fetch_base": first.may_fetch_base,
        "label_targets": first.label_targets,
    }
    adapter: Adapter | Composed
    if made.weights is not None:
        merged = combined(made.experts.loras, list(made.weights), rank=rank, rng=torch.Generator())
        adapter = Adapter(merged.adapter, first.base, **known)
    else:
        loaded = making.__dict__.get("base")
        adapter = Composed(
            Composition(row.name, settings, made.experts, made.tensors),
            first.base,
            **known,
            base_hash=None if loaded is None else loaded.fingerprint,
            facts=made.facts,
        )
    weights = None if made.weights is None else tuple(round(weight, 6) for weight in made.weights)
    notes = known["notes"]
    if row.experimental:
        notes = (
            *notes,
            f"The method {row.name} is experimental: it came out below equal shares where it was measured.",
        )
    return Composing(adapter, row.name, row.is_dynamic, made.experts.names, weights, made.facts, notes)
