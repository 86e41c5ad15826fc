"""Evaluates generators on tasks their zoo has not seen: every rival, every control, one cell an adapter."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, field_validator, model_validator

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.devices import DeviceName, DtypeName, choose_dtype
from loragen.bases.scores import AnyScores, main_score, measure, read_task, scores_of
from loragen.bases.tokenised import TaskData
from loragen.conditions.condition import Conditioner
from loragen.conditions.text_encoder import TextEncoder
from loragen.config import StrictModel
from loragen.errors import ConfigError
from loragen.evaluation.cells import ALL, Cell, CellFile, Key
from loragen.evaluation.controls import RIGHT, controls
from loragen.evaluation.novelty import Reference
from loragen.files import atomic_write
from loragen.generators.base import Generator
from loragen.generators.registry import open_generator
from loragen.generators.trained import MANIFEST
from loragen.recipes.few_shot import FewShotRecipe, fit_examples
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.zoo import SPLIT, Zoo

BASE, MULTITASK, INSTRUCTED, ORACLE = "base", "multi-task LoRA", "instructed LoRA", "oracle"
CELLS, RUN = "cells.jsonl", "run.yaml"
Report = Callable[[str, int, int], None]


class FewShot(StrictModel):
    """Adapters that are fitted to a few labelled examples of the task, drawn from its train file anew for each seed.

    Beside them stands the multi-task LoRA, fitted to the same examples in the same way.
    """

    shots: int = Field(8, ge=1)
    """Examples of each class."""
    generators: tuple[str, ...] = ("sg",)
    """Whose adapters are fitted, of those that are evaluated."""
    recipe: FewShotRecipe = FewShotRecipe()

    def row(self, method: str) -> str:
        """Name of the row of a method that is fitted."""
        return f"{method}, {self.shots} a class"


class EvaluateConfig(StrictModel):
    """What `loragen evaluate` is told."""

    zoo: Path
    tasks: Path
    tasks_root: Path | None = None
    """Where the tasks' files lie, if not where that file says."""
    splits: tuple[str, ...] = Field(min_length=1)
    """Of the tasks; nothing in them may have served in training."""
    unseen_families: tuple[str, ...] = ()
    """Splits of which not even a task of the same family may have served."""
    generators: tuple[str, ...] = ("mean", "nearest", "uniform", "topk", "ridge", "sg", "icm")
    """By name, or by folder."""
    multitask: Path | None = None
    """The one LoRA for all experts' tasks; by default the one that the zoo's experts started from."""
    instructed: Path | None = None
    """A multi-task LoRA that was trained with the descriptions in sight, and is judged so."""
    few_shot: FewShot | None = None
    """`None` leaves its rows out."""
    oracles: Path
    """A zoo that holds an adapter trained on each of the tasks."""
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    out: Path
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    with_controls: bool = True
    short: int = Field(100, ge=20)
    """Test texts on which controls are compared."""
    unrelated: int = Field(5, ge=0)
    """Tasks of other families on which forgetting is measured."""
    unrelated_texts: int = Field(50, ge=20)
    """Test texts of each of those."""
    dtype: DtypeName = "auto"
    device: DeviceName = "cpu"

    @field_validator("splits")
    @classmethod
    def _names(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if ALL in splits:
            raise ValueError(f"a split cannot be called {ALL!r}, the name of the table of all tasks")
        return splits

    @model_validator(mode="after")
    def _fitted_are_evaluated(self) -> Self:
        if self.few_shot and (unknown := set(self.few_shot.generators) - set(self.generators)):
            raise ValueError(f"'few_shot' names {', '.join(sorted(unknown))}, not among 'generators'")
        return self


class Run(StrictModel):
    """What the cells beside it are worth: a row may come or go, but what it was measured with may not change."""

    settings: dict[str, Any]
    """Those of the config that bear on every row."""
    facts: dict[str, str]
    """What the config names by place, by content."""
    rows: dict[str, str]
    """Method → digest of what it generates with, or of its adapters."""

    def differences(self, other: "Run") -> list[str]:
        """Names of settings, facts and common rows that are not the same."""
        pairs = ((self.settings, other.settings), (self.facts, other.facts))
        names = [name for mine, theirs in pairs for name in mine | theirs if mine.get(name) != theirs.get(name)]
        return names + [name for name in self.rows if other.rows.get(name, self.rows[name]) != self.rows[name]]


@dataclass(frozen=True, eq=False)
class Bench:
    """What an evaluation works on."""

    config: EvaluateConfig
    zoo: Zoo
    oracles: Zoo
    tasks: tuple[Task, ...]
    split_of: Mapping[str, str]
    base: Base
    generators: Mapping[str, Generator]
    encoder: TextEncoder
    conditioners: Mapping[str, Conditioner]
    reference: Reference
    tokenised: dict[str, TaskData] = field(default_factory=dict)
    accuracies: dict[tuple[str, str], float] = field(default_factory=dict)
    """(Digest of an adapter, unrelated task) → first main score on its first texts."""

    @classmethod
    def open(cls, config: EvaluateConfig) -> "Bench":
        """Open everything and check that no evaluated task has served in training.

        Raises:
            ConfigError: a task, or its family where that is asked for, is among the experts, or zoo, oracles and base
                do not go together.
            TaskError: there is no such split.
            ZooError: an oracle is missing.
            GeneratorError: there is no such generator.
        """
        task_set = TaskSet.from_yaml(config.tasks, root=config.tasks_root)
        zoo, oracles = Zoo.open(config.zoo), Zoo.open(config.oracles)
        split_of = {task.id: split for split in config.splits for task in task_set.split(split)}
        tasks = tuple(task_set[task_id] for task_id in split_of)
        _refuse_mixture(tasks)
        for split in config.unseen_families:
            task_set.split(split)  # a slip of the pen must not switch the check off
        refuse_leaks(zoo, tasks, split_of, config.unseen_families)
        for task in tasks:
            oracles.card(task.id)
        if oracles.manifest.base_hash != zoo.manifest.base_hash:
            raise ConfigError(
                f"The oracles of {config.oracles} adapt other weights ({oracles.manifest.base_hash[:12]}) than the zoo "
                f"{config.zoo} ({zoo.manifest.base_hash[:12]}); train them with the zoo's base."
            )
        base = zoo.load_base(dtype=choose_dtype(config.dtype), device=config.device)
        encoder = TextEncoder.load(config.encoder)
        generators = {name: open_generator(name, zoo, encoder) for name in config.generators}
        return cls(
            config,
            zoo,
            oracles,
            tasks,
            split_of,
            base,
            generators,
            encoder,
            {name: Conditioner.of(generator, encoder) for name, generator in generators.items()},
            Reference.of(zoo.select(splits={SPLIT})),
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """Every row of the tables, the base first and the oracle last."""
        rivals = [MULTITASK] + ([INSTRUCTED] if self.config.instructed else [])
        return (BASE, *rivals, *self.generators, *self.fitted, ORACLE)

    @cached_property
    def fitted(self) -> dict[str, str]:
        """Row → the method whose adapters are fitted to examples there."""
        few = self.config.few_shot
        return {few.row(method): method for method in (MULTITASK, *few.generators)} if few else {}

    @property
    def rivals(self) -> tuple[str, ...]:
        """Rows that all others are compared with: of those fitted to examples, the multi-task LoRA's is one."""
        return ("topk", MULTITASK, *(row for row, method in self.fitted.items() if method == MULTITASK))

    @cached_property
    def multitask(self) -> Lora:
        """The one LoRA for all experts' tasks."""
        place = self.config.multitask
        return self.zoo.multitask() if place is None else Lora.load(place)

    def data(self, task: Task, *, instruction: str | None = None) -> TaskData:
        """A task's test file, tokenised once, in the order of `shuffled`."""
        if instruction is not None:
            return self._tokenise(task, instruction)
        if task.id not in self.tokenised:
            self.tokenised[task.id] = self._tokenise(task, None)
        return self.tokenised[task.id]

    def _tokenise(self, task: Task, instruction: str | None) -> TaskData:
        length = self.zoo.manifest.recipe.score_length
        return TaskData.of(task, shuffled(task), self.base, max_length=length, instruction=instruction)


def _refuse_mixture(tasks: Sequence[Task]) -> None:
    kinds = {bool(task.labels): task.id for task in tasks}
    if len(kinds) > 1:
        raise ConfigError(
            f"Task {kinds[True]} has labels and {kinds[False]} has none: their scores are of two kinds; "
            "evaluate them apart."
        )


def shuffled(task: Task) -> Examples:
    """A task's test examples, always in the same random order, so that the first of them are of all classes."""
    examples = task.load_test()
    return examples.subset(torch.randperm(len(examples), generator=_rng(task, "order")))


def refuse_leaks(zoo: Zoo, tasks: Sequence[Task], split_of: Mapping[str, str], unseen_families: Sequence[str]) -> None:
    """Check that what is evaluated has not served in training.

    Raises:
        ConfigError: it has.
    """
    experts = list(zoo.select(splits={SPLIT}))
    ids, families = {card.id for card in experts}, {card.family or card.id for card in experts}
    seen = [task.id for task in tasks if task.id in ids]
    if seen:
        raise ConfigError(
            f"{', '.join(seen)}: trained on, for the experts of {zoo.root} hold these very tasks; leave them out of "
            "the evaluation, or build a zoo without them."
        )
    related = [t.id for t in tasks if split_of[t.id] in unseen_families and (t.family or t.id) in families]
    if related:
        raise ConfigError(
            f"{', '.join(related)}: of a family that the experts of {zoo.root} hold, though the split is said to have "
            "unseen families alone; correct the split, or build a zoo without that family."
        )


def evaluate(config: EvaluateConfig, report: Report = lambda _what, _done, _total: None) -> tuple[Bench, list[Cell]]:
    """Compute every cell; those that an earlier run left are kept, also where the config has gained rows since.

    Raises:
        ConfigError: other settings, tasks or adapters left cells there.
    """
    bench = Bench.open(config)
    file = CellFile(config.out / CELLS)
    _settle(bench, file)
    known = {cell.key: cell for cell in file.read()}
    plan = {key: None for task in bench.tasks for key in _keys(bench, task)}
    report("adapters", len(known.keys() & plan.keys()), len(plan))
    for task in bench.tasks:
        for cell in _cells(bench, task, known):
            file.append(cell)
            known[cell.key] = cell
            report("adapters", len(known.keys() & plan.keys()), len(plan))
    return bench, [known[key] for key in plan]


def _settle(bench: Bench, file: CellFile) -> None:
    """Keep what the cells are worth beside them, and refuse to add to those of other settings."""
    path, wanted = bench.config.out / RUN, _run(bench)
    if file.path.exists():
        met = Run.from_yaml(path) if path.exists() else None
        differing = met.differences(wanted) if met else [f"{RUN} is missing"]
        if differing:
            raise ConfigError(
                f"{bench.config.out} holds an evaluation with other settings, tasks or adapters "
                f"({', '.join(differing)}); give another 'out' or remove it."
            )
        if met:
            wanted = wanted.model_copy(update={"rows": met.rows | wanted.rows})
    file.mend()
    atomic_write(path, wanted.to_yaml())


def _run(bench: Bench) -> Run:
    config = bench.config
    shared = {"splits", "unseen_families", "seeds", "with_controls", "short", "unrelated", "unrelated_texts"}
    texts = [task.load_test() for task in bench.tasks]
    facts = {
        "zoo": bench.zoo.fingerprint,
        "encoder": bench.encoder.fingerprint,
        "tasks": _sha256(json.dumps([task.model_dump(mode="json") for task in bench.tasks]).encode()),
        "test files": _sha256(json.dumps([(each.texts, each.pairs, each.labels) for each in texts]).encode()),
        "dtype": str(next(bench.base.model.parameters()).dtype).removeprefix("torch."),
    }
    rows = {MULTITASK: _digest(bench.multitask, None), ORACLE: bench.oracles.fingerprint}
    if config.instructed is not None:
        rows[INSTRUCTED] = _digest(Lora.load(config.instructed), None)
    for name in config.generators:
        folders = (Path(name), bench.zoo.root / "generators" / name)
        folder = next((folder for folder in folders if (folder / MANIFEST).is_file()), None)
        if folder is None:
            rows[name] = "a merge"  # which the zoo and the encoder settle
            continue
        files = [folder / MANIFEST, *sorted(folder.glob("*.safetensors"))]
        rows[name] = _sha256(b"".join(file.read_bytes() for file in files))
    for row, method in bench.fitted.items():
        assert config.few_shot is not None
        told = config.few_shot.model_dump(mode="json", include={"shots", "recipe"})
        rows[row] = _sha256(json.dumps([rows[method], told]).encode())
    return Run(settings=config.model_dump(mode="json", include=shared), facts=facts, rows=rows)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _keys(bench: Bench, task: Task) -> Iterator[Key]:
    for method in bench.methods:
        generator = bench.generators.get(method)
        is_stochastic = method in bench.fitted or (generator is not None and generator.is_stochastic)
        for seed in bench.config.seeds if is_stochastic else bench.config.seeds[:1]:
            yield task.id, method, RIGHT, seed
        if generator is not None and bench.config.with_controls:
            for control in _told(bench, task):
                yield task.id, method, control, bench.config.seeds[0]


def _told(bench: Bench, task: Task) -> dict[str, str]:
    return controls(task, bench.tasks, rng=_rng(task, "controls"))


def _rng(task: Task, purpose: str) -> torch.Generator:
    """Randomness of a task's own: leaving another task out changes nothing."""
    digest = hashlib.sha256(f"{purpose} {task.id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))


def _cells(bench: Bench, task: Task, known: Mapping[Key, Cell]) -> Iterator[Cell]:
    keys, told = tuple(_keys(bench, task)), _told(bench, task)
    # By adapter, on the whole test file and on its first texts: nearest, for example, often gives one adapter for
    # several descriptions.
    scored: dict[str, tuple[AnyScores | None, AnyScores]] = {}
    for cell in (known[key] for key in keys if key in known):
        if cell.scores is not None or cell.adapter not in scored:
            scored[cell.adapter] = cell.scores, cell.short
    for key in keys:
        if key in known:
            continue
        _, method, control, seed = key
        begun = time.monotonic()
        adapter = _adapter(bench, task, method, told.get(control, task.description), seed)
        instruction = task.description if method == INSTRUCTED else None
        is_right, digest = control == RIGHT, _digest(adapter, instruction)
        if digest not in scored or (is_right and scored[digest][0] is None):
            scored[digest] = _scores(bench, task, adapter, instruction, whole=is_right)
        scores, short = scored[digest]
        facts: dict[str, Any] = {}
        if is_right and seed == bench.config.seeds[0] and adapter is not None:
            if method in bench.generators:
                facts["novelty"] = bench.reference.novelty(adapter)
            forgetting_begun = time.monotonic()
            facts["forgetting"] = _forgetting(bench, task, adapter, instruction)
            facts["forgetting_seconds"] = round(time.monotonic() - forgetting_begun, 3)
        yield Cell(
            task=task.id,
            method=method,
            control=control,
            seed=seed,
            adapter=digest,
            scores=scores if is_right else None,
            short=short,
            seconds=round(time.monotonic() - begun, 3),
            **facts,
        )


def _adapter(bench: Bench, task: Task, method: str, description: str, seed: int) -> Lora | None:
    if method == BASE:
        return None
    if method == MULTITASK:
        return bench.multitask
    if method == INSTRUCTED:
        assert bench.config.instructed is not None
        return Lora.load(bench.config.instructed)
    if method == ORACLE:
        return bench.oracles.adapter(task.id)
    if method in bench.fitted:
        begun = _adapter(bench, task, bench.fitted[method], description, seed)
        assert begun is not None
        return _fitted(bench, task, begun, seed)
    generator = bench.generators[method]
    condition = bench.conditioners[method].condition(description)
    return generator.generate(condition, rng=torch.Generator().manual_seed(seed))[0].adapter


def _fitted(bench: Bench, task: Task, adapter: Lora, seed: int) -> Lora:
    """An adapter fitted to a few labelled examples of a task; whatever the method, a seed draws the same ones."""
    few = bench.config.few_shot
    assert few is not None
    examples = task.load_train().few(few.shots, rng=_rng(task, f"examples {seed}"))
    data = TaskData.of(task, examples, bench.base, max_length=few.recipe.max_length)
    return fit_examples(adapter, data, bench.base, few.recipe)


def _digest(adapter: Lora | None, instruction: str | None) -> str:
    digest = hashlib.sha256((instruction or "").encode())
    for site in adapter.sites if adapter is not None else ():
        digest.update(site.encode())
        for factor in adapter.scaled_factors(site) if adapter is not None else ():
            digest.update(factor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _scores(
    bench: Bench, task: Task, adapter: Lora | None, instruction: str | None, *, whole: bool
) -> tuple[AnyScores | None, AnyScores]:
    """Scores on the whole test file, where that is asked for, and on its first texts."""
    data, short = bench.data(task, instruction=instruction), bench.config.short
    if data.is_open or not whole:
        return _measured(bench, adapter, data) if whole else None, _measured(bench, adapter, data.first(short))
    readout = read_task(bench.base, adapter, data)
    return scores_of(readout, clustering=True), scores_of(readout.first(short))


def _measured(bench: Bench, adapter: Lora | None, data: TaskData) -> AnyScores:
    if data.is_open:
        return measure(bench.base, adapter, data)
    return scores_of(read_task(bench.base, adapter, data))


def _forgetting(bench: Bench, task: Task, adapter: Lora, instruction: str | None) -> float | None:
    """Mean change of the first main score on tasks of other families, the adapter used as it is on its own."""
    strangers = [other for other in bench.tasks if (other.family or other.id) != (task.family or task.id)]
    order = torch.randperm(len(strangers), generator=_rng(task, "unrelated"))[: bench.config.unrelated]
    changes = [
        _accuracy(bench, strangers[i], adapter, instruction) - _accuracy(bench, strangers[i], None, None)
        for i in order.tolist()
    ]
    return round(sum(changes) / len(changes), 5) if changes else None


def _accuracy(bench: Bench, task: Task, adapter: Lora | None, instruction: str | None) -> float:
    key = _digest(adapter, instruction), task.id
    if key not in bench.accuracies:
        data = bench.data(task, instruction=instruction).first(bench.config.unrelated_texts)
        bench.accuracies[key] = main_score(_measured(bench, adapter, data))
    return bench.accuracies[key]
