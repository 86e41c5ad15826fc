import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loragen.adapters.adapter import Lora
from loragen.bases.architecture import Architecture
from loragen.cli.app import app
from loragen.zoo.zoo import Zoo

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import large_zoo

TINY = large_zoo.Shape(layers=2, hidden=64, heads=4, kv_heads=2, intermediate=96, vocabulary=128)
BRIEFLY = ["epochs=2", "steps_per_epoch=3", "batch_size=4"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the benchmark's stages leave, here all in this process."""
    root = tmp_path_factory.mktemp("large")
    large_zoo.write_base(root / "base", TINY)
    adapters = large_zoo.write_adapters(root, TINY, 6)
    for name, arguments in large_zoo.stages(root, adapters, BRIEFLY).items():
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (name, done.output, done.exception)
    return root


def test_no_weights_of_the_base_are_anywhere(root) -> None:
    assert [file.name for file in (root / "base").rglob("*")] == ["config.json"]
    weights = {file.relative_to(root).parts[0] for file in root.rglob("*.safetensors")}
    assert weights == {"adapters", "zoo", "made"}


def test_the_zoo_holds_most_of_every_adapter_but_not_all(root) -> None:
    zoo = Zoo.open(root / "zoo")
    assert sorted(card.description for card in zoo) == sorted(large_zoo.descriptions(6))
    assert all(0.9 < card.provenance.energy_kept < 1 for card in zoo)
    assert [fault for _, fault in zoo.check()] == [None] * 6


@pytest.mark.parametrize("kind", ["sg", "icm"])
def test_what_is_generated_fits_the_base(root, kind) -> None:
    base = str(root / "base")
    made = Lora.load(root / "made" / kind)
    assert Architecture.of(base, "CAUSAL_LM", is_local=True).faults(made) == ()
    assert made.settings.base_model_name_or_path == base
    assert made.sites == tuple(TINY.sites)
    assert {site.r for site in made.spec.sites} == {16}
    assert 0.1 < made.norm() / Zoo.open(root / "zoo").adapter("expert-00").norm() < 10


def test_every_adapter_is_told_apart_in_words() -> None:
    number = len(large_zoo.ACTIONS) * len(large_zoo.SUBJECTS)
    assert len(set(large_zoo.descriptions(number))) == number
