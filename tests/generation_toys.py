"""A toy zoo with one adapter for all tasks, and with models of gains that say what a test wants them to say."""

import shutil
from pathlib import Path

from loragen.adapters.combine import weighted_sum
from loragen.confidence.confidence import CONFIDENCE, Confidence
from loragen.confidence.gain_model import Figure, GainModel
from loragen.zoo.card import MULTITASK_FOLDER
from loragen.zoo.zoo import SPLIT, Zoo

ENDS = {"generated": ("description", "labels"), "shared": ("description", "labels"), "adapted": ("texts",)}


def constant(gain: float, *, weights: dict[str, float] | None = None) -> GainModel:
    """A model that expects one gain of every task, or one that follows a figure too."""
    figures = tuple(
        Figure(name=name, mean=0.0, deviation=1.0, least=-10.0, most=10.0, weight=weight)
        for name, weight in (weights or {}).items()
    )
    return GainModel(figures=figures, offset=gain, below=-0.1, above=0.1, tasks=50, correlation=0.5)


def with_confidence(toys: Path, folder: Path, *, generator: str = "topk", **gains: float) -> Path:
    """A copy of the toy zoo in which gains of ``generated``, ``shared`` and ``adapted`` are foretold as given."""
    shutil.copytree(toys / "zoo", folder)
    zoo = Zoo.open(folder)
    weighted_sum([zoo.adapter(name) for name in zoo.ids], [1 / len(zoo)] * len(zoo)).save(folder / MULTITASK_FOLDER)
    add_confidence(folder, generator=generator, **gains)
    return folder


def add_confidence(folder: Path, *, generator: str, **gains: float) -> None:
    """Let a zoo foretell the gains of a generator's adapters as given."""
    zoo = Zoo.open(folder)
    models = {name: {knows: constant(gains[name]) for knows in ENDS[name]} for name in gains}
    confidence = Confidence(
        generator=generator, zoo_hash=zoo.select(splits={SPLIT}).fingerprint, **({"generated": {}} | models)
    )
    (folder / CONFIDENCE).mkdir()
    (folder / CONFIDENCE / f"{generator}.yaml").write_text(confidence.to_yaml())
