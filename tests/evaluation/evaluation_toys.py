"""A tiny evaluation, and generators whose every call is known, for the tests of this folder."""

import dataclasses
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

from loragen.adapters.adapter import Lora
from loragen.bases.scores import scores_of
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.bases.tokenised import Readout, TaskData
from loragen.evaluation.cells import Cell
from loragen.evaluation.config import EvaluateConfig
from loragen.evaluation.controls import RIGHT
from loragen.evaluation.evaluate import evaluate_cells
from loragen.evaluation.workspace import Workspace, shuffled
from loragen.generators.base import DescriptionGenerator, Generation, Generator
from loragen.recipes.expert import ExpertRecipe

EXPERTS = {"drinks": ("soup", "tea"), "meals": ("bread", "soup"), "weather": ("cold", "warm")}
NEAR = {"cups": ("tea", "warm")}
FAR = {"menus": ("cold", "soup"), "ovens": ("bread", "warm"), "plates": ("bread", "cold")}
FAMILY = {"drinks": "drink", "meals": "meal", "cups": "drink", "menus": "menu", "plates": "menu"}
"""Weather and ovens have none: each is its own."""
UNRELATED = {
    "cups": {"menus", "ovens", "plates"},
    "menus": {"cups", "ovens"},
    "ovens": {"cups", "menus", "plates"},
    "plates": {"cups", "ovens"},
}
RECIPE = ExpertRecipe(r=2, steps=12, batch_size=16, learning_rate=3e-2, window=4, snapshots=2)
SHORT = 20
"""Of the 40 texts of a test file."""


class Asked(NamedTuple):
    description: str
    seed: int
    adapter: Lora


class Recorded(DescriptionGenerator):
    """Passes on the adapters of another generator, and keeps the conditions."""

    name: ClassVar[str] = "recorded"

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.is_stochastic = generator.is_stochastic
        self.asked: list[Asked] = []

    def generate(self, condition, *, rng, num_samples=1):
        seed = rng.initial_seed()
        generated = self.generator.generate(condition, rng=rng, num_samples=num_samples)
        self.asked.append(Asked(condition.description, seed, generated[0].adapter))
        return generated


class Scripted(DescriptionGenerator):
    """Gives the adapter that a function of the description names."""

    name: ClassVar[str] = "scripted"
    is_stochastic: ClassVar[bool] = False

    def __init__(self, adapter_for) -> None:
        self.adapter_for = adapter_for

    def generate(self, condition, *, rng, num_samples=1):
        return [Generation(self.adapter_for(condition.description), ())] * num_samples


def changed(config: EvaluateConfig, **values) -> EvaluateConfig:
    return EvaluateConfig.model_validate(config.model_dump() | values)


class Evaluation(NamedTuple):
    workspace: Workspace
    cells: list[Cell]
    asked: dict[str, list[Asked]]
    """By generator, in the order of its cells."""
    steps: list[tuple[str, int, int]]
    """Calls of the progress callback."""

    def cell(self, task, method, control=RIGHT, seed=3):
        (found,) = (cell for cell in self.cells if cell.key == (task, method, control, seed))
        return found


def reopened(workspace: Workspace, config: EvaluateConfig) -> Workspace:
    pipelines = {name: workspace.pipelines[name] for name in config.generators}
    return dataclasses.replace(workspace, config=config, pipelines=pipelines)


def with_generators(monkeypatch, **generators):
    """Put generators in place of those of these names."""
    monkeypatch.setattr("loragen.generation.pipeline.open_generator", lambda name, *_, **__: generators[name])
    return {"generators": tuple(generators)}


def first_of(task, base, number=SHORT, **options) -> TaskData:
    """The first test texts, as they are in the file."""
    return base.prepare(shuffled(task).subset(range(number)), max_length=128, **options)


def direct(workspace, task, adapter, **options):
    """Scores on the whole test file and on the first texts, with nothing of the evaluation between."""
    data = workspace.base.prepare(shuffled(task), max_length=128, **options)
    readout = workspace.base.read(data, adapter)
    first = Readout(readout.texts[:SHORT], readout.logits[:SHORT], readout.targets[:SHORT])
    return scores_of(readout, clustering=True), scores_of(first)


def of(evaluation, method):
    return [cell for cell in evaluation.cells if cell.method == method]


def scaled(adapter, factor):
    return Lora(adapter.settings, adapter.lora_A, {site: factor * b for site, b in adapter.lora_B.items()})


def interrupt(_what, done, _total):
    if done:
        raise KeyboardInterrupt


def interrupt_after(known):
    """A progress callback that stops the run once there are more cells than these."""

    def stop(_what, done, _total):
        if done > known:
            raise KeyboardInterrupt

    return stop


def double(folder):
    adapter = Lora.load(folder)
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("adapter_")}
    scaled(adapter, 2.0).save(folder, extra_files=kept)


def replace_in(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def replace_all(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def evaluate_nothing(config):
    """Leave the settings beside no cell."""

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_cells(config, stop)


def timeless(cells):
    return [cell.model_copy(update={"seconds": 0.0, "forgetting_seconds": 0.0}) for cell in cells]


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def factors_of(adapter) -> bytes:
    return b"".join(f.numpy().tobytes() for site in adapter.sites for f in adapter.scaled_factors(site))


def recorded_reads(monkeypatch):
    """Every call of `Base.read` from now on: the adapter, by the bytes of its factors, and the token ids."""
    calls, read = [], LabelTextEncoder.read

    def record(base, data, adapter=None):
        calls.append((None if adapter is None else factors_of(adapter), tuple(map(tuple, data.ids))))
        return read(base, data, adapter)

    monkeypatch.setattr(LabelTextEncoder, "read", record)
    return calls
