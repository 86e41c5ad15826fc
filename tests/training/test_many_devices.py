"""Trainings by two processes: they give what one gives with the same whole batches, or end together."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models import write_tiny_encoder
from safetensors.torch import load_file

from loragen.errors import ConfigError, GeneratorError
from loragen.generators import processes
from loragen.generators.icm.episodes import ICMTrainConfig
from loragen.generators.icm.model import ICM, ICMConfig
from loragen.generators.sg.fit import SGTrainConfig
from loragen.generators.sg.model import SG, SGConfig
from loragen.generators.train import LOSSES, RUN, TrainingResult, train_generator
from loragen.generators.trained import TrainConfig
from loragen.training.devices import Devices
from loragen.training.lightning_fit import fit
from loragen.training.ranks import Rank, normal_rows, this_rank
from loragen.training.schedule import Schedule

TWO = {"devices": 2, "strategy": "ddp"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return str(write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny", seed=1))


@pytest.fixture(scope="module")
def sg(tiny_zoo, encoder, tmp_path_factory) -> SGTrainConfig:
    return SGTrainConfig(
        generator="sg",
        zoo=tiny_zoo.root,
        encoder=encoder,
        out=tmp_path_factory.mktemp("generators") / "sg",
        sg=SGConfig(top_k=2, components=5, latent_size=3, hidden_size=8, dropout=0.3),
        epochs=2,
        steps_per_epoch=5,
        batch_size=6,
        learning_rate=0.01,
    )


@pytest.fixture(scope="module")
def icm(sg) -> ICMTrainConfig:
    """Three trainings, two of them judged on left-out tasks, of a network with batch normalisation."""
    small = {"channels": (4, 8), "latent_size": 3, "evidence": ("description",), "codec": "raw"}
    return ICMTrainConfig(
        generator="icm",
        zoo=sg.zoo,
        encoder=sg.encoder,
        reading_model=sg.encoder,
        out=sg.out.with_name("icm"),
        icm=ICMConfig.model_validate(small),
        folds=2,
        epochs=2,
        steps_per_epoch=3,
        batch_size=6,
        learning_rate=3e-3,
    )


def changed(config: TrainConfig, out: str, **values) -> TrainConfig:
    return type(config).model_validate(config.model_dump() | {"out": config.out.with_name(out)} | values)


@pytest.fixture(scope="module")
def trained(sg) -> TrainingResult:
    return train_generator(sg)


@pytest.fixture(scope="module")
def trained_icm(icm) -> TrainingResult:
    return train_generator(icm)


@pytest.fixture
def others(monkeypatch) -> list[subprocess.Popen]:
    """The processes that are started."""
    found = []

    class Watched(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            found.append(self)

    monkeypatch.setattr(processes.subprocess, "Popen", Watched)
    return found


def losses(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / LOSSES).read_text())


def assert_alike(one: Path, other: Path, *, tolerance: float) -> None:
    """The same curves and the same generator, up to the order in which numbers were added.

    What a normalisation takes away again has no gradient but that order's noise, which Adam makes steps of.
    """
    rows, others = losses(one), losses(other)
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, expected in zip(rows, others, strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=2e-5)
    tensors, expected = (load_file(folder / "generator.safetensors") for folder in (one, other))
    assert tensors.keys() == expected.keys()
    is_normed = any("running_mean" in name for name in tensors)
    for name, value in tensors.items():
        if "running_mean" in name or (re.fullmatch(r"network\.(encoder|decoder)\.[036]\.bias", name) and is_normed):
            continue
        torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m)


def assert_judged_alike(one: ICMTrainConfig, other: ICMTrainConfig) -> None:
    met, expected = (ICM.load(config.out).manifest for config in (one, other))
    assert met.left_out == pytest.approx(expected.left_out, abs=5e-3)
    assert met.model_copy(update={"left_out": expected.left_out}) == expected


# --- the same as in one process -------------------------------------------------------------------------------------


def test_two_processes_give_the_loss_curve_of_one_with_the_double_batch(sg, trained, others):
    """With dropout and drawn noise, each process on three rows of six."""
    steps = []
    config = changed(sg, "sg-2", **TWO)
    before = dict(os.environ), torch.get_num_threads(), torch.get_rng_state()
    result = train_generator(config, on_step=steps.append)
    assert (dict(os.environ), torch.get_num_threads(), this_rank()) == (*before[:2], Rank(0, 1))
    assert torch.equal(torch.get_rng_state(), before[2])
    assert [other.returncode for other in others] == [0]
    assert steps == list(range(1, 11))
    assert_alike(config.out, sg.out, tolerance=1e-4)
    assert losses(config.out)[0]["loss"] != pytest.approx(losses(config.out)[-1]["loss"], rel=0.01)
    assert result.final == pytest.approx(trained.final, rel=1e-4)
    assert SG.load(config.out).manifest == SG.load(sg.out).manifest
    assert not list(config.out.parent.glob(".*unfinished"))


def test_batch_normalisation_and_left_out_tasks_are_those_of_one_process(icm, trained_icm):
    config = changed(icm, "icm-2", **TWO)
    train_generator(config)
    assert_alike(config.out, icm.out, tolerance=1e-2)  # stored in bfloat16
    assert_judged_alike(config, icm)


# --- ends -----------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_in_parts_goes_on_where_it_was(icm, trained_icm, others):
    def stop(step: int) -> None:
        if step == 11:  # in the second epoch of the second fold
            raise KeyboardInterrupt

    config = changed(icm, "icm-stopped", devices=2, strategy="fsdp")
    with pytest.raises(KeyboardInterrupt):
        train_generator(config, on_step=stop)
    assert all(other.poll() is not None for other in others)
    assert not config.out.exists()
    steps = []
    train_generator(config, on_step=steps.append)
    assert steps == list(range(10, 19))
    assert_alike(config.out, icm.out, tolerance=1e-2)
    assert_judged_alike(config, icm)


def test_a_process_that_is_killed_ends_the_training_with_a_reason(sg, trained, others):
    def kill(step: int) -> None:
        if step == 7:
            others[0].kill()
            others[0].wait()

    config = changed(sg, "sg-killed", **TWO)
    with pytest.raises(GeneratorError, match="device 1 ended with signal 9"):
        train_generator(config, on_step=kill)
    steps = []
    train_generator(config, on_step=steps.append)
    assert steps == list(range(6, 11)), "the first epoch was kept"
    assert_alike(config.out, sg.out, tolerance=1e-4)


def test_what_another_process_says_is_told(sg, others, monkeypatch):
    monkeypatch.setattr(processes, "_PROGRAM", "raise SystemExit('no such thing')")
    with pytest.raises(GeneratorError, match="device 1 ended with status 1: no such thing"):
        train_generator(changed(sg, "sg-failing", **TWO))
    assert [other.returncode for other in others] == [1]


# --- torchrun -------------------------------------------------------------------------------------------------------


def test_torchrun_starts_them_as_well(sg, trained):
    config = changed(sg, "sg-torchrun")
    path = config.out.with_suffix(".yaml")
    path.write_text(config.to_yaml())
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "loragen", "train", path]
    done = subprocess.run(
        [sys.executable, *map(str, command), "--set", "devices=2", "--set", "strategy=ddp"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓") == 1, "the first process alone says it"
    assert_alike(config.out, sg.out, tolerance=1e-4)


# --- settings -------------------------------------------------------------------------------------------------------


def test_one_device_leaves_the_run_as_it_was_always_written(sg, trained):
    assert not {"devices", "strategy", "precision"} & set((sg.out / RUN).read_text().replace(":", " ").split())
    assert SGTrainConfig.from_yaml(sg.out / RUN) == sg


def test_precision_goes_through_to_the_products(sg, trained):
    config = changed(sg, "sg-bf16", precision="bf16-mixed")
    result = train_generator(config)
    assert "precision: bf16-mixed" in (config.out / RUN).read_text()
    assert result.final["loss"] != trained.final["loss"]
    assert result.final["loss"] == pytest.approx(trained.final["loss"], rel=0.1)
    assert all(parameter.dtype == torch.float32 for parameter in SG.load(config.out).network.parameters())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"devices": 0}, "devices"),
        ({"strategy": "dp"}, "strategy"),
        ({"precision": "8"}, "precision"),
        ({"devices": 4}, "A batch of 6 cannot be divided equally among 4 devices"),
        ({"devices": 2, "strategy": "fsdp", "precision": "16-mixed"}, "does not go with"),
    ],
)
def test_settings_that_do_not_fit_are_named(sg, values, named):
    with pytest.raises(ConfigError, match=named):
        SGTrainConfig.checked(sg.model_dump() | values, source="here")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_half_precision_without_a_gpu_is_refused(sg):
    with pytest.raises(ConfigError, match="needs a CUDA GPU"):
        train_generator(changed(sg, "sg-16", precision="16-mixed"))


def test_several_devices_in_one_process_are_refused():
    with pytest.raises(ConfigError, match=r"'devices: 2' was asked for in one process|this machine has"):
        fit(None, lambda _: [], Schedule(1, 1, 0.1), seed=0, devices=Devices(2))


# --- rows -----------------------------------------------------------------------------------------------------------


def test_ranks_share_all_rows():
    rows = list(range(12))
    assert [row for number in range(3) for row in rows[Rank(number, 3).rows(12)]] == rows
    with pytest.raises(ConfigError, match="among 5 devices"):
        Rank(0, 5).rows(12)


def test_one_process_draws_what_it_always_drew():
    like = torch.zeros(5, 7)
    torch.manual_seed(3)
    expected = torch.randn_like(like)
    torch.manual_seed(3)
    assert torch.equal(normal_rows(like), expected)
