"""Everything that an evaluation works on, opened and checked: zoo, tasks, base, generators, oracles."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.bases.base import Base
from loragen.bases.devices import choose_dtype
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.confidence.expected import ExpectedGain
from loragen.errors import ConfigError, GeneratorError, cut
from loragen.evaluation.below_base import FALL_BACK
from loragen.evaluation.composed_rows import ComposedForTasks
from loragen.evaluation.config import (
    BASE,
    INSTRUCTED,
    MULTITASK,
    ORACLE,
    RANDOM,
    TOLD,
    TOPK,
    EvaluateConfig,
    mean_output,
)
from loragen.evaluation.expectation import expected_gain, expects
from loragen.evaluation.novelty import Reference
from loragen.generation import Pipeline
from loragen.generators.hyper.model import Hyper
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.zoo import SPLIT, Zoo


@dataclass(frozen=True, eq=False)
class Workspace:
    """The opened parts of an evaluation."""

    config: EvaluateConfig
    zoo: Zoo
    oracles: Zoo
    tasks: tuple[Task, ...]
    split_of: Mapping[str, str]
    """Task → its split."""
    base: Base
    encoder: TextEncoder
    pipelines: Mapping[str, Pipeline]
    """By the generator's name."""
    reference: Reference
    """The experts that novelty is measured against."""

    @classmethod
    def open(cls, config: EvaluateConfig) -> "Workspace":
        """Open everything and check that no expert was trained on an evaluated task.

        Raises:
            ConfigError: a task, or its family where that is checked, is among the experts, or zoo, oracles and base
                do not go together.
            TaskError: there is no such split.
            ZooError: an oracle is missing.
            GeneratorError: there is no such generator, or it was trained on experts that the zoo no longer has.
        """
        task_set = TaskSet.from_yaml(config.tasks, root=config.tasks_root)
        zoo, oracles = Zoo.open(config.zoo), Zoo.open(config.oracles)
        split_of = {task.id: split for split in config.splits for task in task_set.split(split)}
        tasks = tuple(task_set[task_id] for task_id in split_of)
        _refuse_mixture(tasks)
        for split in config.unseen_families:
            task_set.split(split)  # a mistyped name must not switch the check off
        refuse_leaks(zoo, tasks, split_of, config.unseen_families)
        _check_oracles(oracles, zoo, tasks)
        base = zoo.load_base(dtype=choose_dtype(config.dtype), device=config.device)
        encoder = TextEncoder.load(config.encoder)
        pipelines = {name: Pipeline.open(name, zoo, encoder) for name in config.generators}
        refuse_gone(pipelines)
        refuse_learnt(pipelines, split_of)
        reference = Reference.of(zoo.select(splits={SPLIT}))
        return cls(config, zoo, oracles, tasks, split_of, base, encoder, pipelines, reference)

    @property
    def methods(self) -> tuple[str, ...]:
        """Every method, the base first and the oracle last."""
        told = [TOLD] if self.base.writes_text else []
        rivals = [*told, MULTITASK] + ([INSTRUCTED] if self.config.instructed else [])
        return (
            BASE,
            *rivals,
            *self.pipelines,
            *self.falling_back,
            *self.unconditional,
            *self.composed,
            *self.fitted,
            ORACLE,
        )

    @property
    def composed(self) -> tuple[str, ...]:
        """Rows of dynamic compositions."""
        return self.config.compose.rows if self.config.compose else ()

    @cached_property
    def compositions(self) -> ComposedForTasks:
        """The compositions of these rows."""
        assert self.config.compose is not None
        return ComposedForTasks(self.config.compose, self.zoo, self.experts, self.encoder)

    @cached_property
    def fitted(self) -> dict[str, str]:
        """Method that is fitted to examples → the method whose adapters it starts from."""
        few = self.config.few_shot
        return {few.method(start): start for start in (MULTITASK, *few.generators)} if few else {}

    @property
    def unconditional(self) -> tuple[str, ...]:
        """Methods whose direction no description bears on: the mean outputs, and experts drawn at random."""
        check = self.config.condition
        if check is None:
            return ()
        return (*map(mean_output, check.means), *([RANDOM] if check.random_experts else []))

    @cached_property
    def experts(self) -> Zoo:
        """The experts that generators draw on."""
        return self.zoo.select(splits={SPLIT})

    @cached_property
    def mean_outputs(self) -> dict[str, Lora]:
        """Method → the mean of what its generator makes for each expert's description, exact on delta weights.

        A generator that draws at random draws for each expert with a seed of its own, its place in the zoo.
        """
        check = self.config.condition
        return {mean_output(name): self._mean_output(self.pipelines[name]) for name in (check.means if check else ())}

    def _mean_output(self, pipeline: Pipeline) -> Lora:
        made = [
            pipeline.generate(Evidence(card.description), seed=place)[0].adapter
            for place, card in enumerate(self.experts)
        ]
        return weighted_sum(made, [1 / len(made)] * len(made))

    def expects(self, method: str) -> bool:
        """True if `expect` has something to say of a method's adapters."""
        return method in self._expecting

    @cached_property
    def _expecting(self) -> frozenset[str]:
        return frozenset(name for name, pipeline in self.pipelines.items() if expects(pipeline))

    @property
    def falling_back(self) -> dict[str, str]:
        """Method that gives out a safer adapter where little is expected → the generator that it goes back on."""
        if not self.config.fallback:
            return {}
        return {f"{name}{FALL_BACK}": name for name in self.pipelines if name in self._expecting}

    def expect(self, method: str, task: Task, adapter: Lora) -> ExpectedGain | None:
        """The gain that is expected of an adapter before its test texts are looked at.

        Args:
            method: one of the generators.
            task: the task that the adapter was made for.
            adapter: made from the task's own description.
        """
        return expected_gain(self.pipelines[method], task, adapter)

    @property
    def rivals(self) -> tuple[str, ...]:
        """Methods that all others are compared with: topk, and the multi-task LoRA as it is and fitted."""
        return (TOPK, MULTITASK, *(method for method, start in self.fitted.items() if start == MULTITASK))

    @cached_property
    def multitask(self) -> Lora:
        """The one LoRA for all experts' tasks."""
        folder = self.config.multitask
        return self.zoo.multitask() if folder is None else Lora.load(folder)

    @cached_property
    def instructed(self) -> Lora:
        """The multi-task LoRA that was trained with the description before every text."""
        assert self.config.instructed is not None
        return Lora.load(self.config.instructed)

    def unrelated(self, task: Task) -> list[Task]:
        """The evaluated tasks of other families; a task without a family is a family of its own."""
        return [other for other in self.tasks if (other.family or other.id) != (task.family or task.id)]


def task_rng(task: Task, purpose: str) -> torch.Generator:
    """Random source of one task and purpose: leaving another task out changes nothing."""
    digest = hashlib.sha256(f"{purpose} {task.id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))


def shuffled(task: Task) -> Examples:
    """A task's test examples, always in the same random order, so that the first of them are of all classes."""
    examples = task.load_test()
    return examples.subset(torch.randperm(len(examples), generator=task_rng(task, "order")))


def refuse_leaks(zoo: Zoo, tasks: Sequence[Task], split_of: Mapping[str, str], unseen_families: Sequence[str]) -> None:
    """Check that no expert was trained on an evaluated task.

    Args:
        zoo: the experts.
        tasks: those to evaluate.
        split_of: the split of each.
        unseen_families: splits for which no expert may be of the same family either.

    Raises:
        ConfigError: an expert was.
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
            f"{', '.join(related)}: of a family that the experts of {zoo.root} hold, though 'unseen_families' says "
            "that the split has none such; correct the split, or build a zoo without that family."
        )


def refuse_gone(pipelines: Mapping[str, Pipeline]) -> None:
    """Refuse generators that have learnt from experts which are gone: an evaluated task may be among them."""
    for name, pipeline in pipelines.items():
        if pipeline.behind is not None and pipeline.behind.gone:
            raise GeneratorError(
                f"The generator {name} was trained on {cut(', '.join(pipeline.behind.gone[:3]))}, which the zoo no "
                "longer has, so that it may have seen the tasks; train it again with `loragen train`."
            )


def refuse_learnt(pipelines: Mapping[str, Pipeline], tasks: Collection[str]) -> None:
    """Refuse generators that have learnt from the texts of an evaluated task without there being an expert of it."""
    for name, pipeline in pipelines.items():
        generator = pipeline.generator
        if isinstance(generator, Hyper) and (learnt := set(generator.manifest.more_tasks) & set(tasks)):
            raise GeneratorError(
                f"The generator {name} was trained on the texts of {cut(', '.join(sorted(learnt)[:3]))} "
                "('more_tasks'); leave these tasks out of the evaluation, or train it without them."
            )


def _refuse_mixture(tasks: Sequence[Task]) -> None:
    kinds = {bool(task.labels): task.id for task in tasks}
    if len(kinds) > 1:
        raise ConfigError(
            f"Task {kinds[True]} has labels and {kinds[False]} has none: their scores are of two kinds; "
            "evaluate them apart."
        )


def _check_oracles(oracles: Zoo, zoo: Zoo, tasks: Sequence[Task]) -> None:
    for task in tasks:
        oracles.card(task.id)
    if oracles.manifest.base_hash != zoo.manifest.base_hash:
        raise ConfigError(
            f"The oracles of {oracles.root} adapt other weights ({oracles.manifest.base_hash[:12]}) than the zoo "
            f"{zoo.root} ({zoo.manifest.base_hash[:12]}); train them with the zoo's base."
        )
