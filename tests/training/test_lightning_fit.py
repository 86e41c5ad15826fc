import logging
import os
import random
import signal
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from loragen.training.lightning_fit import fit
from loragen.training.objective import Objective
from loragen.training.schedule import Schedule, warmup_cosine

SCHEDULE = Schedule(epochs=4, steps_per_epoch=3, learning_rate=0.1, weight_decay=0.01)


@dataclass(frozen=True)
class Points:
    x: Tensor

    def to(self, device: torch.device) -> "Points":
        return Points(self.x.to(device))


class Noisy(Objective):
    """Draws noise in its loss, as a variational objective does; a bias stays frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.bias = nn.Parameter(torch.ones(3), requires_grad=False)

    def loss(self, batch: Points) -> dict[str, Tensor]:
        distance = (self.weight + self.bias - batch.x - torch.randn(3)).square().sum()
        return {"loss": 2 * distance, "distance": distance}


class Interrupted(Exception):
    pass


def batches(epoch: int) -> list[Points]:
    rng = torch.Generator().manual_seed(epoch)
    return [Points(torch.randn(3, generator=rng)) for _ in range(SCHEDULE.steps_per_epoch)]


def run(**options):
    objective = Noisy()
    history = fit(objective, batches, SCHEDULE, **{"seed": 5} | options)
    return objective.weight.detach(), history


def stop_at(number, how=Interrupted):
    def stop(done):
        if done == number:
            raise how

    return stop


# --- what a run does ------------------------------------------------------------------------------------------------


def test_the_schedule_is_adamw_with_clipping_warm_up_and_cosine():
    weight = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.01)
    factor = warmup_cosine(12, 0.1)
    for epoch in range(4):
        torch.manual_seed(5 + epoch)
        for step, batch in enumerate(batches(epoch)):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * factor(3 * epoch + step)
            optimizer.zero_grad()
            (2 * (weight + 1 - batch.x - torch.randn(3)).square().sum()).backward()
            nn.utils.clip_grad_norm_([weight], 1.0)
            optimizer.step()
    torch.testing.assert_close(run()[0], weight.detach())


def test_the_history_has_a_row_a_step_with_every_loss():
    steps, epochs = [], []
    _, history = run(on_step=steps.append, on_epoch=epochs.append)
    assert steps == list(range(1, 13))
    assert epochs == [1, 2, 3, 4]
    assert len(history) == SCHEDULE.steps == 12
    assert all(row["loss"] == pytest.approx(2 * row["distance"]) for row in history)


def test_a_frozen_parameter_stays_as_it_is():
    objective = Noisy()
    fit(objective, batches, SCHEDULE, seed=0)
    assert torch.equal(objective.bias, torch.ones(3))
    assert not torch.equal(objective.weight, torch.zeros(3))


def test_the_seed_alone_decides_what_is_drawn():
    torch.manual_seed(1)
    one = run()
    torch.manual_seed(2)
    two = run()
    assert torch.equal(one[0], two[0])
    assert one[1] == two[1]
    assert not torch.equal(one[0], run(seed=6)[0])


def test_the_callers_world_stays_as_it_was(tmp_path):
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate(), signal.getsignal(signal.SIGINT), dict(os.environ)
    run(checkpoints=tmp_path / "state")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), signal.getsignal(signal.SIGINT), dict(os.environ)) == before[1:]


def test_lightning_is_silent(tmp_path, capfd, monkeypatch):
    records = []
    listener = logging.Handler()
    listener.emit = records.append
    monkeypatch.chdir(tmp_path)
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "py.warnings")]
    for logger in loggers:
        logger.addHandler(listener)
    try:
        with pytest.raises(Interrupted):
            run(checkpoints=tmp_path / "state", on_epoch=stop_at(3))
        run(checkpoints=tmp_path / "state")
        run()
    finally:
        for logger in loggers:
            logger.removeHandler(listener)
    assert records == []
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


# --- interruptions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 4, 8, 12])
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, step):
    weight, history = run()
    with pytest.raises(Interrupted):
        run(checkpoints=tmp_path, on_step=stop_at(step))
    seen = []
    resumed, resumed_history = run(checkpoints=tmp_path, on_step=seen.append)
    assert seen == list(range((step - 1) // 3 * 3 + 1, 13)), "it goes on after the last whole epoch"
    assert torch.equal(resumed, weight)
    assert resumed_history == history


def test_a_run_that_is_interrupted_again_and_again_ends_as_an_uninterrupted_one(tmp_path):
    for epoch in (2, 3, 4):
        with pytest.raises(Interrupted):
            run(checkpoints=tmp_path, on_epoch=stop_at(epoch))
    assert torch.equal(run(checkpoints=tmp_path)[0], run()[0])


def test_a_finished_run_is_not_run_again(tmp_path):
    weight, history = run(checkpoints=tmp_path)
    again, again_history = run(checkpoints=tmp_path, on_step=stop_at(1))
    assert again_history == history
    assert torch.equal(again, weight)


@pytest.fixture
def heeds_ctrl_c():
    """A process in the background of a shell ignores SIGINT from birth; this one shall not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_comes_out_as_such_and_leaves_a_state_to_go_on_from(tmp_path):
    def press(step):
        if step == 8:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoints=tmp_path, on_step=press)
    assert signal.getsignal(signal.SIGINT) is handler, "the next Ctrl-C is heard too"
    seen = []
    assert torch.equal(run(checkpoints=tmp_path, on_step=seen.append)[0], run()[0])
    assert seen[0] == 7


def test_an_exit_asked_for_stays_an_exit():
    with pytest.raises(SystemExit):
        run(on_step=stop_at(2, SystemExit))


# --- the learning rate ----------------------------------------------------------------------------------------------


@given(st.integers(2, 500), st.floats(0, 0.5))
def test_the_rate_rises_to_its_peak_and_falls_to_zero(steps, warmup_fraction):
    factor = warmup_cosine(steps, warmup_fraction)
    rates = [factor(step) for step in range(steps + 1)]
    peak = rates.index(max(rates))
    assert rates[peak] == 1
    assert rates[0] > 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert peak <= warmup_fraction * steps + 1


# --- damaged states -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [("state.ckpt",), ("state.ckpt", "before.ckpt")])
def test_a_state_that_was_cut_off_does_not_block_a_run(tmp_path, damaged):
    """The state before it, or else the beginning, gives the same end."""
    with pytest.raises(Interrupted):
        run(checkpoints=tmp_path, on_epoch=stop_at(3))
    for name in damaged:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert torch.equal(run(checkpoints=tmp_path)[0], run()[0])
    assert run(checkpoints=tmp_path)[1] == run()[1]


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    import lightning

    with pytest.raises(Interrupted):
        run(checkpoints=tmp_path, on_epoch=stop_at(2))
    kept = (tmp_path / "state.ckpt").read_bytes()

    def full(_trainer, path, *_rest, **_options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(lightning.Trainer, "save_checkpoint", full)
        with pytest.raises(OSError, match="No space left"):
            run(checkpoints=tmp_path)
    assert (tmp_path / "state.ckpt").read_bytes() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.ckpt"]
    assert torch.equal(run(checkpoints=tmp_path)[0], run()[0])
