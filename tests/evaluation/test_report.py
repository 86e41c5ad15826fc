import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from report_toys import ACCURACY, KINDS, SPLITS, TOLD, body_of, make_cells, scores

from loragen.bases.scores import Scores
from loragen.evaluation.cells import ALL
from loragen.evaluation.config import BASE, MULTITASK, ORACLE
from loragen.evaluation.markdown import main_table, markdown
from loragen.evaluation.report import groups_of, make_report, write_report
from loragen.evaluation.report_model import MARKDOWN, REPORT, EvaluatedTask, Report
from loragen.evaluation.statistics import Interval

# --- there and back ---


def test_a_report_comes_back_from_json_as_it_was(report):
    text = report.model_dump_json()
    assert Report.model_validate_json(text) == report
    met = Report.model_validate_json(text)
    assert isinstance(met.cells[0].short, Scores)
    assert isinstance(met.summary.rows[0].mean, Interval)
    assert met.cells == tuple(make_cells())


def test_the_json_is_of_the_kind_that_browsers_read(report):
    def refuse(constant):
        raise AssertionError(constant)

    values = json.loads(report.model_dump_json(), parse_constant=refuse)
    assert values["config"]["splits"] == ["near", "far"]


def test_where_the_oracle_gains_nothing_the_report_comes_back_all_the_same(report_workspace):
    flat = [
        one.model_copy(update={"scores": scores(0.5)}) if one.method in (BASE, ORACLE) else one for one in make_cells()
    ]
    report = make_report(report_workspace, flat)
    assert report.summary.row(ALL, "sg", "accuracy").gain is None
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert body_of(main_table(report.summary, ALL))["sg"]["recovered gain"] == ""
    assert "nan" not in markdown(report).split()


def test_reports_are_written_beside_the_cells(report_workspace, report, monkeypatch):
    drawn = SimpleNamespace(evaluation_plots=lambda _report, folder: [folder / "gains.png"])
    monkeypatch.setitem(sys.modules, "loragen.evaluation.figures", drawn)
    files = write_report(report, report_workspace.config.out)
    assert files == [report_workspace.config.out / name for name in (REPORT, MARKDOWN, "gains.png")]
    assert Report.model_validate_json((report_workspace.config.out / REPORT).read_text()) == report
    assert (report_workspace.config.out / MARKDOWN).read_text() == markdown(report)


def test_without_matplotlib_there_are_no_figures(report, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "loragen.evaluation.figures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    files = write_report(report, tmp_path)
    assert [file.name for file in files] == [REPORT, MARKDOWN]
    assert all(file.exists() for file in files)


# --- what it holds ---


def test_tasks_are_described_as_they_are(report, report_workspace):
    for met, task in zip(report.tasks, report_workspace.tasks, strict=True):
        assert (met.id, met.split, met.kind, met.family) == (
            task.id,
            "near" if task.id in SPLITS["near"] else "far",
            KINDS[task.id],
            f"{task.id}-family",
        )
        assert (met.labels, met.texts) == (2, 40)


def test_the_nearest_expert_is_the_one_whose_descriptions_are_nearest(report, report_workspace, tiny_zoo):
    experts = {}
    for card in tiny_zoo:
        if card.split == "experts":
            experts[card.id] = torch.nn.functional.normalize(
                report_workspace.encoder.encode(card.descriptions).mean(0), dim=0
            )
    for met, task in zip(report.tasks, report_workspace.tasks, strict=True):
        own = report_workspace.encoder.encode([task.description])[0]
        cosines = {name: float(own @ vector) for name, vector in experts.items()}
        assert met.nearest == max(cosines, key=cosines.get)
        assert met.similarity == pytest.approx(cosines[met.nearest], abs=1e-4)


def test_the_map_holds_tasks_and_the_experts_that_were_learnt_from(report, tiny_zoo):
    assert {place.id for place in report.experts} == {card.id for card in tiny_zoo if card.split == "experts"}
    places = [(place.x, place.y) for place in (*report.experts, *report.tasks)]
    assert len(set(places)) == 7 + 4
    assert all(map(math.isfinite, sum(places, ())))


def test_the_map_is_the_same_each_time(report, report_workspace):
    again = make_report(report_workspace, tuple(make_cells()))
    assert (again.tasks, again.experts) == (report.tasks, report.experts)


def test_seconds_are_those_of_all_of_a_methods_cells(report):
    of_base, of_sg = 4 * 0.04, 4 * (2 + len(TOLD)) * 0.04
    assert report.seconds[BASE] == pytest.approx(of_base, abs=0.05)
    assert report.seconds["sg"] == pytest.approx(of_sg, abs=0.05)
    assert list(report.seconds) == list(ACCURACY)


def test_methods_are_compared_with_topk_and_the_multitask_lora(report):
    row = report.summary.row(ALL, "sg", "accuracy")
    assert row.above.keys() == {"topk", MULTITASK}
    assert row.gain.mean == pytest.approx((0.6 - 0.45) / (0.8 - 0.45))
    assert report.summary.row(ALL, BASE, "accuracy").gain.mean == 0
    assert report.summary.row(ALL, ORACLE, "accuracy").gain.mean == 1


# --- groups ---


def evaluated(name, split, kind):
    return EvaluatedTask(
        id=name, split=split, kind=kind, family="", labels=2, texts=9, similarity=0.5, nearest="bank", x=0, y=0
    )


def test_groups_are_splits_then_all_then_kinds_of_three_tasks():
    tasks = [
        evaluated("a", "near", "topic"),
        evaluated("b", "far", "intent"),
        evaluated("c", "near", "intent"),
        evaluated("d", "far", "topic"),
        evaluated("e", "far", "intent"),
        evaluated("f", "near", "topic"),
        evaluated("g", "near", "other"),
        evaluated("h", "near", "other"),
    ]
    groups = groups_of(tasks)
    assert list(groups.items()) == [
        ("near", ["a", "c", "f", "g", "h"]),
        ("far", ["b", "d", "e"]),
        (ALL, list("abcdefgh")),
        ("kind: intent", ["b", "c", "e"]),
        ("kind: topic", ["a", "d", "f"]),
    ]


def test_tasks_of_no_stated_kind_make_no_group():
    assert set(groups_of([evaluated(name, "near", "") for name in "abcd"])) == {"near", ALL}
