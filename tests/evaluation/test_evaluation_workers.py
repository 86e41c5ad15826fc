"""Several processes compute the cells that one computes; what happens to one of them leaves nothing half done."""

import os
import signal
from multiprocessing.process import BaseProcess

import pytest
from evaluation_toys import changed

from loragen.errors import ConfigError, LoragenError
from loragen.evaluation.cells import CELLS, CellFile
from loragen.evaluation.evaluate import evaluate_cells


def told(cells):
    return {cell.key: cell.model_dump(exclude={"seconds", "forgetting_seconds"}) for cell in cells}


def test_two_processes_compute_the_cells_of_one_and_a_lost_one_is_told(config, tmp_path, monkeypatch) -> None:
    one, two = (changed(config, out=tmp_path / str(n), generators=("mean", "topk"), workers=n) for n in (1, 2))
    _, wanted = evaluate_cells(one)
    started, start = [], BaseProcess.start

    def kept(self):
        start(self)
        started.append(self)

    monkeypatch.setattr(BaseProcess, "start", kept)

    def kill(stage: str, done: int, total: int) -> None:
        if done >= 6:
            os.kill(started[-1].pid, signal.SIGKILL)

    with pytest.raises(ConfigError, match="ended from outside"):
        evaluate_cells(two, kill)
    assert not any(one.is_alive() for one in started)
    assert len(started) == 2
    kept_before = list(CellFile(two.out / CELLS).read())
    assert len(kept_before) >= 6
    _, met = evaluate_cells(changed(two, workers=1))
    assert told(met) == told(wanted)
    assert [cell.key for cell in met] == [cell.key for cell in wanted]
    assert {cell.key: cell.seconds for cell in kept_before}.items() <= {cell.key: cell.seconds for cell in met}.items()


def test_an_error_of_a_process_is_raised_here(config, tmp_path) -> None:
    here = changed(config, out=tmp_path / "out", generators=("mean",), workers=2)

    def remove(stage: str, done: int, total: int) -> None:
        if not done:
            here.oracles.rename(here.oracles.with_name("gone"))

    try:
        with pytest.raises(LoragenError, match="zoo"):
            evaluate_cells(here, remove)
    finally:
        here.oracles.with_name("gone").rename(here.oracles)
