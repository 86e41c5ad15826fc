"""What the texts of each expert look like to the bare base, and how far other texts are from that.

The descriptors are those of SEMA (Wang et al., arXiv 2403.18886): a linear auto-encoder an expert, with the mean and
deviation of its reconstruction errors. Its optimum is known, the principal components of what it reads (Baldi and
Hornik, 1989), so that nothing is trained. It reads mean-pooled states of the base at unit length.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from loragen.adapters.tensor_file import read_tensors
from loragen.bases.base import Base
from loragen.confidence.coverage import Coverage, Reference
from loragen.confidence.left_out import FEWEST
from loragen.config import StrictModel
from loragen.errors import ConfigError, TaskError, ZooError, cut
from loragen.files import atomic_write
from loragen.tasks.examples import Examples
from loragen.training.threads import few_threads
from loragen.values import PartName

DESCRIPTORS = "descriptors.safetensors"
"""File of a zoo that holds them."""
Rule = Literal["means", "errors"]
"""Distances of texts from an expert's: between the means of both, or, as in SEMA, the mean over the texts of
|error - mean| / deviation, under its auto-encoder."""
COMPONENTS = 8
"""Width of the auto-encoders."""
_NAMES = ("centres", "directions", "facts", "own", "left_out")


def features(examples: Examples, base: Base, *, max_length: int) -> Tensor:
    """Mean-pooled states of texts by the bare base, at unit length, (n, d).

    Raises:
        TaskError: the examples are images.
    """
    if examples.images is not None:
        raise TaskError("The examples are images; how a zoo covers a task is read from texts alone.")
    ids = base.tokenize(examples.texts, examples.pairs, max_length=max_length)
    with few_threads(base.number_of_parameters):
        return F.normalize(base.encode_states(ids, pooling="mean"), dim=1)


@dataclass(frozen=True, eq=False)
class Descriptor:
    """An expert's texts."""

    centre: Tensor
    """Mean of their features, (d,)."""
    directions: Tensor
    """Orthonormal rows, (k, d): the auto-encoder gives back centre + (x - centre) Wᵀ W."""
    spread: float
    """Mean squared distance of a text's features from the centre."""
    texts: int
    mean: float
    """Of the squared reconstruction errors of texts that the auto-encoder had not seen."""
    deviation: float

    @classmethod
    def fit(cls, seen: Tensor, *, components: int = COMPONENTS) -> Self:
        """Describe the features (n, d) of some texts; errors are those of each half under a fit to the other."""
        half = len(seen) // 2
        halves = ((seen[:half], seen[half:]), (seen[half:], seen[:half]))
        errors = torch.cat([squared_errors(other, *principal(one, components)) for one, other in halves])
        centre, directions = principal(seen, components)
        spread, deviation = float((seen - centre).square().sum(1).mean()), float(errors.std())
        return cls(centre, directions, spread, len(seen), float(errors.mean()), max(deviation, 1e-6))


def principal(seen: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Mean (d,) and first principal directions (k, d) of rows: the linear auto-encoder with the least squared error."""
    centre = seen.mean(0)
    return centre, torch.linalg.svd(seen - centre, full_matrices=False).Vh[:components]


def squared_errors(rows: Tensor, centre: Tensor, directions: Tensor) -> Tensor:
    """Squared distances of rows (n, d) from what an auto-encoder gives back of them, (n,)."""
    centred = rows - centre
    return (centred - (centred @ directions.T) @ directions).square().sum(1)


class _Stated(StrictModel):
    """What a file of them states of its rows."""

    base_hash: str
    ids: tuple[PartName, ...]


@dataclass(frozen=True, eq=False)
class Descriptors:
    """Those of a zoo's experts, with how far the zoo's own texts are from them."""

    base_hash: str
    of: Mapping[str, Descriptor]
    """By id."""
    own: Mapping[Rule, Mapping[str, float]]
    """Id → distance of held-out texts of an expert from the nearest expert."""
    left_out: Mapping[Rule, Mapping[str, float]]
    """The same from the nearest expert of another family."""

    @classmethod
    def fit(
        cls, seen: Mapping[str, Tensor], held_out: Mapping[str, Tensor], families: Mapping[str, str], base: str
    ) -> Self:
        """Describe experts by the features of their texts, and measure how far those held out are.

        Raises:
            ZooError: the experts are of fewer than five families, so that none can be left out.
        """
        if len(set(families.values())) < FEWEST:
            raise ZooError(
                f"The experts with texts are of {len(set(families.values()))} families; at least {FEWEST} are wanted, "
                "to measure how far a family is that the zoo lacks. Give texts of more tasks."
            )
        made = {name: Descriptor.fit(rows) for name, rows in seen.items()}
        own: dict[Rule, dict[str, float]] = {"means": {}, "errors": {}}
        left: dict[Rule, dict[str, float]] = {"means": {}, "errors": {}}
        for name, rows in held_out.items():
            for rule in own:
                found = {other: distance(rows, each, rule) for other, each in made.items()}
                own[rule][name] = min(found.values())
                left[rule][name] = min(value for other, value in found.items() if families[other] != families[name])
        return cls(base, made, own, left)

    def coverage(self, rows: Tensor, experts: Sequence[str], *, rule: Rule = "means", top: int = 3) -> Coverage:
        """How some experts cover a task with these features of texts, (n, d)."""
        found = {name: distance(rows, self.of[name], rule) for name in experts if name in self.of}
        nearest = sorted(found.items(), key=lambda pair: (pair[1], pair[0]))[:top]
        own, left_out = ([-value for value in part[rule].values()] for part in (self.own, self.left_out))
        reference = Reference.of(left_out, own)
        return reference.coverage(-nearest[0][1], "texts", nearest, undescribed=len(experts) - len(found))

    def save(self, root: Path) -> None:
        """Write them into a zoo, in half precision."""
        each = list(self.of.values())
        facts = [(one.spread, float(one.texts), one.mean, one.deviation) for one in each]
        distances = {
            name: torch.tensor([[part["means"][i], part["errors"][i]] for i in self.of])
            for name, part in (("own", self.own), ("left_out", self.left_out))
        }
        tensors = {
            "centres": torch.stack([one.centre for one in each]).half(),
            "directions": torch.stack([one.directions for one in each]).half(),
            "facts": torch.tensor(facts),
            **distances,
        }
        metadata = {"of": json.dumps({"base_hash": self.base_hash, "ids": list(self.of)})}  # one: they have no order
        atomic_write(root / DESCRIPTORS, save(tensors, metadata=metadata))

    @classmethod
    def load(cls, root: Path) -> Self:
        """Read those of a zoo.

        Raises:
            ZooError: it has none, or they are damaged.
        """
        if not (root / DESCRIPTORS).is_file():
            raise ZooError(
                f"The zoo in {cut(root)} does not know what its experts' texts look like; say the task in words alone, "
                "or give it the texts: loragen zoo describe TASKS.yaml --zoo ZOO."
            )
        tensors, metadata = read_tensors(root / DESCRIPTORS)
        (ids, base_hash), parts = _of(metadata), [tensors.get(name, torch.empty(0)).float() for name in _NAMES]
        n, (d, k) = len(ids), (part.shape[1] if part.ndim > 1 else 0 for part in parts[:2])
        wanted = ((n, d), (n, k, d), (n, 4), (n, 2), (n, 2))
        if not n or any(part.shape != shape for part, shape in zip(parts, wanted, strict=True)):
            raise ZooError(
                f"{cut(root / DESCRIPTORS)} does not hold what it should; make it again: loragen zoo describe."
            )
        centres, directions, facts, own, left = parts
        made = {
            name: Descriptor(centres[i], directions[i], float(f[0]), int(f[1]), float(f[2]), max(float(f[3]), 1e-6))
            for i, (name, f) in enumerate(zip(ids, facts, strict=True))
        }
        return cls(base_hash, made, _by_rule(ids, own), _by_rule(ids, left))


def distance(rows: Tensor, descriptor: Descriptor, rule: Rule) -> float:
    """Distance of texts with these features (n, d) from an expert's.

    By ``means`` it is squared, and 0 on average for texts drawn like the expert's own, so that it may be below 0: what
    two draws of these sizes differ by is taken off.
    """
    if rule == "errors":
        errors = squared_errors(rows, descriptor.centre, descriptor.directions)
        return float(((errors - descriptor.mean).abs() / descriptor.deviation).mean())
    centre = rows.mean(0)
    spread = float((rows - centre).square().sum()) / max(len(rows) - 1, 1)
    apart = float((centre - descriptor.centre).square().sum())
    return apart - spread / len(rows) - descriptor.spread / (descriptor.texts - 1)


def _by_rule(ids: Sequence[str], values: Tensor) -> dict[Rule, dict[str, float]]:
    means, errors = values.T.tolist()
    return {"means": dict(zip(ids, means, strict=True)), "errors": dict(zip(ids, errors, strict=True))}


def _of(metadata: Mapping[str, str]) -> tuple[list[str], str]:
    """Ids and hash of the base; no ids where they are damaged."""
    try:
        stated = _Stated.checked(json.loads(metadata.get("of", "")), source=DESCRIPTORS)
    except (ConfigError, ValueError, RecursionError):
        return [], ""
    return (list(stated.ids), stated.base_hash) if len(set(stated.ids)) == len(stated.ids) else ([], "")
