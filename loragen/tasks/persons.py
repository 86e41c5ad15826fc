"""Synthetic persons, made from tasks by rule: which domains a person writes about, and which labels it prefers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Domain:
    """A task that persons may write about."""

    name: str
    group: str
    """A person's domains are of one group."""
    labels: int
    """Number of its labels."""


@dataclass(frozen=True)
class Person:
    """A person: domains, the share of each among its texts, and of each label within its domain."""

    domains: tuple[str, ...]
    shares: tuple[float, ...]
    """Of the domains, summing to 1: 1, 1/2, 1/3 … in a random order."""
    tastes: tuple[tuple[float, ...], ...]
    """For each domain the shares of its labels, summing to 1: likewise."""

    @classmethod
    def draw(cls, domains: Sequence[Domain], *, fewest: int, most: int, rng: torch.Generator) -> Self:
        """A person of ``fewest`` to ``most`` domains of one group, or of all where the group has fewer.

        The group is that of a domain drawn at random, so that large groups come up more often.
        """
        group = domains[int(torch.randint(len(domains), (), generator=rng))].group
        own = [domain for domain in domains if domain.group == group]
        number = min(len(own), int(torch.randint(fewest, most + 1, (), generator=rng)))
        chosen = [own[at] for at in torch.randperm(len(own), generator=rng)[:number].tolist()]
        return cls(
            tuple(domain.name for domain in chosen),
            _preferences(number, rng),
            tuple(_preferences(domain.labels, rng) for domain in chosen),
        )

    def draw_texts(self, labels: Sequence[Sequence[int]], number: int, *, rng: torch.Generator) -> Tensor:
        """Rows that the person writes, ``number`` of them or all there are, none twice.

        Args:
            labels: for each of its domains the labels of the texts there are, in the order of the rows.
            number: of texts.
            rng: the only source of randomness.

        Returns:
            Positions among the rows of all its domains, those of the first domain first.
        """
        weights = torch.cat(
            [
                share * _row_shares(own, taste)
                for share, own, taste in zip(self.shares, labels, self.tastes, strict=True)
            ]
        )
        number = min(number, int((weights > 0).sum()))
        return torch.multinomial(weights, number, generator=rng)


def _preferences(number: int, rng: torch.Generator) -> tuple[float, ...]:
    """1, 1/2, 1/3 …, scaled to a sum of 1, in a random order."""
    shares = 1 / torch.arange(1, number + 1, dtype=torch.float64)
    return tuple((shares / shares.sum())[torch.randperm(number, generator=rng)].tolist())


def _row_shares(labels: Sequence[int], taste: Sequence[float]) -> Tensor:
    """The chance of each row: its label's share, divided among the rows of that label; summing to 1."""
    at = torch.tensor(labels)
    counts = torch.bincount(at, minlength=len(taste)).clamp_min(1)
    shares = (torch.tensor(taste, dtype=torch.float64) / counts)[at]
    return shares / shares.sum()
