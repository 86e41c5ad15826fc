"""Expected gains in an evaluation, and rows of what is given out because of them."""

import shutil

import pytest
from evaluation_toys import changed
from generation_toys import add_confidence

from loragen.evaluation.config import BASE, MULTITASK
from loragen.evaluation.evaluate import evaluate_generators
from loragen.evaluation.run_record import record_of
from loragen.evaluation.workspace import Workspace

ROW = "sg, with fall-back"


@pytest.fixture
def evaluated(config, workshop, tmp_path):
    """Evaluates with gains foretold as given, under one seed, without controls."""

    def run(**gains):
        shutil.copytree(workshop / "zoo", tmp_path / "zoo")
        if gains:
            add_confidence(tmp_path / "zoo", generator="sg", **gains)
        places = {"zoo": tmp_path / "zoo", "out": tmp_path / "out", "generators": ("topk", "sg"), "instructed": None}
        few = changed(config, **places, seeds=(3,), with_controls=False, unrelated=0, fallback=True)
        return evaluate_generators(few), few

    return run


def adapters(report, method):
    return {cell.task: cell.adapter for cell in report.cells if cell.method == method}


def test_what_was_expected_is_in_the_cells_and_its_calibration_in_the_report(evaluated):
    report, config = evaluated(generated=0.2, shared=0.1)
    expected = {cell.method: cell.expected for cell in report.cells}
    assert (expected["sg"].gain, expected["sg"].knows) == (0.2, "labels")
    assert expected["topk"] is None
    assert "Expected and realised gain" in (config.out / "report.md").read_text()
    assert adapters(report, ROW) == adapters(report, "sg")


def test_the_row_with_fall_back_holds_the_adapter_for_all_tasks_where_that_is_given_out(evaluated):
    report, _ = evaluated(generated=-0.2, shared=0.1)
    assert adapters(report, ROW) == adapters(report, MULTITASK)


def test_it_holds_the_base_where_none_is_given_out(evaluated):
    report, _ = evaluated(generated=-0.2, shared=-0.1)
    assert adapters(report, ROW) == adapters(report, BASE)
    sg = {cell.task: cell.expected.gain for cell in report.cells if cell.method == "sg"}
    assert set(sg.values()) == {-0.2}


def test_without_models_there_is_no_such_row(evaluated):
    report, _ = evaluated()
    assert ROW not in {cell.method for cell in report.cells}
    assert not any(cell.expected for cell in report.cells)


def test_cells_of_other_models_are_not_mixed(evaluated, tmp_path):
    _, config = evaluated(generated=0.2, shared=0.1)
    before = record_of(Workspace.open(config))
    shutil.rmtree(tmp_path / "zoo" / "confidence")
    add_confidence(tmp_path / "zoo", generator="sg", generated=0.3, shared=0.1)
    assert before.differences(record_of(Workspace.open(config))) == [ROW]
