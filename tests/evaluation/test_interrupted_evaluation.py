import dataclasses
import shutil

import pytest
from evaluation_toys import changed, evaluate_nothing, reopened, state, timeless

from loragen.bases.text_encoder import LabelTextEncoder
from loragen.evaluation.cells import CELLS, CellFile
from loragen.evaluation.config import BASE, INSTRUCTED, MULTITASK, ORACLE, EvaluateConfig
from loragen.evaluation.evaluate import evaluate_cells
from loragen.evaluation.workspace import Workspace

# --- interrupted ---


@pytest.fixture
def few(whole, config, tmp_path, monkeypatch) -> EvaluateConfig:
    """Two tasks and two generators, over a base whose numbers also depend on how many texts are embedded together."""
    workspace = dataclasses.replace(whole.workspace, tasks=whole.workspace.tasks[:2])
    monkeypatch.setattr(Workspace, "open", lambda config: reopened(workspace, config))

    read = LabelTextEncoder.read

    def drifting(base, data, adapter=None):
        readout = read(base, data, adapter)
        drift = 1e-3 * len(data.ids)
        return dataclasses.replace(readout, texts=readout.texts + drift, logits=readout.logits * (1 + drift))

    monkeypatch.setattr(LabelTextEncoder, "read", drifting)
    return changed(config, out=tmp_path / "few", generators=("mean", "sg"))


def test_interrupted_at_every_cell_it_ends_as_if_nothing_had_been(few):
    _, wanted = evaluate_cells(few)
    again, known = changed(few, out=few.out.parent / "again"), 0
    file = CellFile(again.out / CELLS)

    def stop(_what, done, _total):
        if done > known:
            raise KeyboardInterrupt

    while known < len(wanted):
        before = file.path.read_bytes() if known else b""
        with pytest.raises(KeyboardInterrupt):
            evaluate_cells(again, stop)
        known += 1
        assert file.path.read_bytes().startswith(before), "what was there is as it was"
        assert len(list(file.read())) == known, "and there is one cell more"
    assert timeless(file.read()) == timeless(wanted)
    _, cells = evaluate_cells(again)
    assert cells == list(file.read())


def test_cells_that_were_kept_are_not_computed_again(whole, config, here, monkeypatch):
    lines, kept = (config.out / CELLS).read_bytes().splitlines(keepends=True), 70
    evaluate_nothing(here)
    (here.out / CELLS).write_bytes(b"".join(lines[:kept]))
    for pipeline in whole.workspace.pipelines.values():
        monkeypatch.setattr(pipeline.generator, "asked", [])
    _, cells = evaluate_cells(here)
    for method, pipeline in whole.workspace.pipelines.items():
        assert len(pipeline.generator.asked) == len([cell for cell in whole.cells[kept:] if cell.method == method])
    assert timeless(cells) == timeless(whole.cells)
    assert cells[:kept] == whole.cells[:kept], "seconds and all"


def test_a_finished_evaluation_computes_nothing(whole, config, here, monkeypatch):
    evaluate_nothing(here)
    shutil.copy(config.out / CELLS, here.out / CELLS)
    monkeypatch.setattr(LabelTextEncoder, "read", None)
    reports = []
    _, cells = evaluate_cells(here, lambda *step: reports.append(step))
    assert cells == whole.cells
    assert reports == [("adapters", len(cells), len(cells))]


def test_a_line_that_was_cut_off_is_computed_again(whole, config, here):
    evaluate_nothing(here)
    (here.out / CELLS).write_bytes((config.out / CELLS).read_bytes()[:-30])
    _, cells = evaluate_cells(here)
    assert timeless(cells) == timeless(whole.cells)
    assert len(list(CellFile(here.out / CELLS).read())) == len(whole.cells)


# --- more rows and fewer ---


def test_rows_that_come_later_are_added_to_those_that_are_there(whole, here, monkeypatch):
    _, few = evaluate_cells(changed(here, generators=("nearest",), instructed=None))
    before = (here.out / CELLS).read_bytes()
    monkeypatch.setattr(
        whole.workspace.pipelines["nearest"].generator, "generate", None
    )  # what is there is not made again
    _, cells = evaluate_cells(changed(here, generators=("sg", "nearest")))
    assert (here.out / CELLS).read_bytes().startswith(before)
    wanted = [cell for cell in whole.cells if cell.method not in ("mean", "topk")]
    assert sorted(timeless(cells), key=lambda cell: cell.key) == sorted(timeless(wanted), key=lambda cell: cell.key)
    assert list(dict.fromkeys(cell.method for cell in cells)) == [BASE, MULTITASK, INSTRUCTED, "sg", "nearest", ORACLE]
    assert {cell.key for cell in few} < {cell.key for cell in cells}


def test_rows_that_are_no_longer_asked_for_stay_on_disk(whole, config, monkeypatch):
    monkeypatch.setattr(Workspace, "open", lambda config: reopened(whole.workspace, config))
    monkeypatch.setattr(LabelTextEncoder, "read", None)
    before = state(config.out)
    _, cells = evaluate_cells(changed(config, generators=("topk",), instructed=None))
    assert cells == [cell for cell in whole.cells if cell.method in (BASE, MULTITASK, "topk", ORACLE)]
    assert state(config.out) == before, "and what they are worth beside them"
