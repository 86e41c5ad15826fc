"""What an edit of a generator is trained on: descriptions of the expert to forget, and of those that remain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from loragen.conditions.condition import Condition
from loragen.conditions.text_encoder import TextEncoder
from loragen.continual.forget.bounds import bound_of, spread_of
from loragen.continual.forget.described import Conditions, similarities
from loragen.continual.forget.settings import ForgetSettings
from loragen.generators.edits import EditableGenerator
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import Zoo


@dataclass(frozen=True, eq=False)
class Described:
    """Descriptions of one expert as a network reads them, and what was generated for them."""

    inputs: Tensor
    """Without the expert to forget in what is looked up, (p, i)."""
    prototype: Tensor
    """Mean of the codes that the generator gave for them before, (k,)."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """One generator, the expert that it is to forget, and remaining experts."""

    generator: EditableGenerator
    """Without the expert in what it looks up, its network as it was."""
    expert: str
    forgotten: Described
    code: Tensor
    """Of the expert's adapter, (k,)."""
    spread: float
    """Mean squared distance of experts' codes from their mean: an error of 1."""
    bound: float
    """BND, an error."""
    remaining: Mapping[str, Described]

    @classmethod
    def of(
        cls,
        generator: EditableGenerator,
        expert: str,
        experts: Zoo,
        encoder: TextEncoder,
        settings: ForgetSettings,
    ) -> Self:
        """Read the experts' descriptions and adapters.

        Args:
            generator: as it is.
            expert: to forget.
            experts: those that the generator draws on, this one among them.
            encoder: of descriptions.
            settings: of the edit.

        Raises:
            GeneratorError: the generator does not know the expert, knows no other, or reads no descriptions.
            ZooError: the zoo does not have the expert, or no other.
        """
        near = similarities(expert, experts, ExpertIndex.of(experts, encoder), encoder)
        others = _remaining(near, settings)
        left, read = generator.without(expert), Conditions(generator, experts, encoder)
        texts = {name: read.of(name) for name in (expert, *others)}
        codes = generator.codes([experts.adapter(name) for name in texts])
        spread, bound = spread_of(codes), settings.bound
        if bound is None:
            bound = bound_of(generator, expert, near, experts, settings) / spread
        trained = max(1, len(texts[expert]) - settings.spared)
        return cls(
            left,
            expert,
            _described(generator, left, texts[expert][:trained]),
            codes[0],
            spread,
            bound,
            {name: _described(generator, left, texts[name]) for name in others},
        )

    def error(self, codes: Tensor, target: Tensor) -> Tensor:
        """Squared distances of codes (n, k) to a target, (k,) or (n, k), in units of the spread, (n,)."""
        return (codes - target).square().sum(-1) / self.spread


def _described(before: EditableGenerator, left: EditableGenerator, conditions: Sequence[Condition]) -> Described:
    """Conditions of one expert, as a generator reads them and as it does without the expert to forget."""
    with torch.no_grad():
        read = before.inputs(conditions)
        given = before.drafts(read, torch.zeros(len(read), before.noise_size))
        return Described(left.inputs(conditions), given.mean(0))


def _remaining(near: Mapping[str, float], settings: ForgetSettings) -> list[str]:
    """Experts that take part, of all by similarity, the nearest first: the nearest half, and others at random."""
    names, half = list(near), -(-settings.remaining // 2)
    rest = torch.randperm(max(0, len(names) - half), generator=torch.Generator().manual_seed(settings.seed))
    return names[:half] + [names[half + at] for at in rest[: settings.remaining - half].tolist()]
