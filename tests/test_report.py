import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from models import word_task, write_tiny_encoder

from loragen.bases.scores import Scores
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.conditions.text_encoder import TextEncoder
from loragen.evaluation.cells import ALL, Cell
from loragen.evaluation.controls import NONSENSE, OTHER, PARAPHRASE, RIGHT, SHUFFLED
from loragen.evaluation.evaluate import BASE, MULTITASK, ORACLE, Bench, EvaluateConfig
from loragen.evaluation.novelty import Novelty
from loragen.evaluation.report import (
    MARKDOWN,
    REPORT,
    TITLES,
    EvaluatedTask,
    Report,
    behaviour_table,
    control_table,
    groups_of,
    main_table,
    make_report,
    markdown,
    score_table,
    span,
    write_report,
)
from loragen.evaluation.statistics import Interval
from loragen.evaluation.summary import MAIN

SPLITS = {
    "near": {"cups": ("tea", "warm"), "menus": ("cold", "soup")},
    "far": {"ovens": ("bread", "warm"), "plates": ("bread", "cold")},
}
KINDS = {"cups": "drink", "menus": "food", "ovens": "food", "plates": "food"}
ACCURACY = {
    BASE: (0.5, 0.4, 0.6, 0.3),
    MULTITASK: (0.6, 0.6, 0.6, 0.5),
    "topk": (0.6, 0.7, 0.7, 0.6),
    "sg": (0.7, 0.7, 0.6, 0.4),
    ORACLE: (0.9, 0.8, 0.8, 0.7),
}
"""Method → accuracy of cups, menus, ovens and plates; the base has 0.45 on average, the oracle 0.8."""
TOLD = (NONSENSE, SHUFFLED, OTHER, f"{PARAPHRASE} 1")


def scores(accuracy, *, short=False):
    return Scores(
        accuracy=accuracy,
        macro_f1=accuracy / 2,
        cross_entropy=2 - accuracy,
        knn_accuracy=accuracy / 4,
        v_measure=None if short else accuracy / 8,
    )


def cell(task, method, accuracy, *, seed=0, control=RIGHT, **facts):
    whole = scores(accuracy) if control == RIGHT else None
    short = scores(accuracy, short=True)
    return Cell(
        adapter="0" * 16,
        task=task,
        method=method,
        control=control,
        seed=seed,
        scores=whole,
        short=short,
        seconds=0.04,
        **facts,
    )


def make_cells(with_controls=True):
    for task, by_method in zip(KINDS, zip(*ACCURACY.values(), strict=True), strict=True):
        for method, accuracy in zip(ACCURACY, by_method, strict=True):
            facts = {"forgetting": -0.125} if method != BASE else {}
            if method in ("topk", "sg"):
                facts["novelty"] = Novelty(0.5, 0.25, 0.125, "bank", (("bank", 0.75), ("mood", 0.25)), method == "topk")
            yield cell(task, method, accuracy, **facts)
            if method == "sg":
                yield cell(task, method, accuracy, seed=1)
            if method in ("topk", "sg") and with_controls:
                yield from (cell(task, method, accuracy - 0.1, control=control) for control in TOLD)


@pytest.fixture(scope="module")
def bench(tiny_zoo, tmp_path_factory) -> Bench:
    """What a report is made from: a zoo whose descriptions are known, and tasks; there is nothing to generate with."""
    root = tmp_path_factory.mktemp("bench")
    folder = str(write_tiny_encoder(root / "base"))
    split_of = {task: split for split, tasks in SPLITS.items() for task in tasks}
    tasks = [
        word_task(root, name, words=words).model_copy(update={"kind": KINDS[name], "family": f"{name}-family"})
        for split in SPLITS.values()
        for name, words in split.items()
    ]
    config = EvaluateConfig(
        zoo=tiny_zoo.root,
        tasks=root / "tasks.yaml",
        splits=tuple(SPLITS),
        generators=("topk", "sg"),
        oracles=tiny_zoo.root,
        out=root / "out",
        seeds=(0, 1),
    )
    encoder = TextEncoder.load(folder)
    return Bench(
        config,
        tiny_zoo,
        tiny_zoo,
        tuple(tasks),
        split_of,
        LabelTextEncoder.load(folder),
        {},
        encoder,
        {},
        reference=None,
    )


@pytest.fixture(scope="module")
def report(bench) -> Report:
    return make_report(bench, tuple(make_cells()))


def tables_of(text):
    """Each table of a Markdown text as rows of cells, head first."""
    tables, lines = [], []
    for line in [*text.split("\n"), ""]:
        if line.startswith("|"):
            lines.append([part.strip() for part in line.split("|")[1:-1]])
            assert line.endswith("|")
        elif lines:
            tables.append(lines)
            lines = []
    return tables


def body_of(text, number=0):
    """The rows of a table by their first cell, as mappings from its head."""
    head, _, *rows = tables_of(text)[number]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


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


def test_where_the_oracle_gains_nothing_the_report_comes_back_all_the_same(bench):
    flat = [
        one.model_copy(update={"scores": scores(0.5)}) if one.method in (BASE, ORACLE) else one for one in make_cells()
    ]
    report = make_report(bench, flat)
    assert report.summary.row(ALL, "sg", "accuracy").gain is None
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert body_of(main_table(report.summary, ALL))["sg"]["recovered gain"] == ""
    assert "nan" not in markdown(report).split()


def test_reports_are_written_beside_the_cells(bench, report, monkeypatch):
    drawn = SimpleNamespace(evaluation_plots=lambda _report, folder: [folder / "gains.png"])
    monkeypatch.setitem(sys.modules, "loragen.evaluation.figures", drawn)
    met, files = write_report(bench, tuple(make_cells()))
    assert met == report
    assert files == [bench.config.out / name for name in (REPORT, MARKDOWN, "gains.png")]
    assert Report.model_validate_json((bench.config.out / REPORT).read_text()) == report
    assert (bench.config.out / MARKDOWN).read_text() == markdown(report)


def test_without_matplotlib_there_are_no_figures(bench, monkeypatch):
    monkeypatch.delitem(sys.modules, "loragen.evaluation.figures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _, files = write_report(bench, tuple(make_cells()))
    assert [file.name for file in files] == [REPORT, MARKDOWN]
    assert all(file.exists() for file in files)


# --- what it holds ---


def test_tasks_are_described_as_they_are(report, bench):
    for met, task in zip(report.tasks, bench.tasks, strict=True):
        assert (met.id, met.split, met.kind, met.family) == (
            task.id,
            "near" if task.id in SPLITS["near"] else "far",
            KINDS[task.id],
            f"{task.id}-family",
        )
        assert (met.labels, met.texts) == (2, 40)


def test_the_nearest_expert_is_the_one_whose_descriptions_are_nearest(report, bench, tiny_zoo):
    experts = {}
    for card in tiny_zoo:
        if card.split == "experts":
            experts[card.id] = torch.nn.functional.normalize(bench.encoder.encode(card.descriptions).mean(0), dim=0)
    for met, task in zip(report.tasks, bench.tasks, strict=True):
        own = bench.encoder.encode([task.description])[0]
        cosines = {name: float(own @ vector) for name, vector in experts.items()}
        assert met.nearest == max(cosines, key=cosines.get)
        assert met.similarity == pytest.approx(cosines[met.nearest], abs=1e-4)


def test_the_map_holds_tasks_and_the_experts_that_were_learnt_from(report, tiny_zoo):
    assert {place.id for place in report.experts} == {card.id for card in tiny_zoo if card.split == "experts"}
    places = [(place.x, place.y) for place in (*report.experts, *report.tasks)]
    assert len(set(places)) == 7 + 4
    assert all(map(math.isfinite, sum(places, ())))


def test_the_map_is_the_same_each_time(report, bench):
    again = make_report(bench, tuple(make_cells()))
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


# --- Markdown ---


def test_every_table_is_whole(report):
    tables = tables_of(markdown(report))
    # A table a main score in all four groups, other scores in all but the kind, controls by main score, behaviour.
    assert len(tables) == 4 * 2 + 3 + 2 + 1
    for head, rule, *rows in tables:
        assert set(rule) == {"---"}
        assert {len(row) for row in (rule, *rows)} == {len(head)}
        assert len(set(head)) == len(head)


def test_every_method_stands_once_in_every_table(report):
    generated = ["topk", "sg"]
    for head, _, *rows in tables_of(markdown(report)):
        wanted = {"adapter": list(ACCURACY)[1:]}.get(head[0], generated if "right" in head[0] else list(ACCURACY))
        assert [row[0] for row in rows] == wanted


def test_every_group_has_its_heading(report):
    text = markdown(report)
    headings = [line for line in text.split("\n") if line.startswith("#")]
    assert headings == [
        "# Evaluation",
        "## near (2 tasks)",
        "## far (2 tasks)",
        "## all (4 tasks)",
        "## kind: food (3 tasks)",
        "## Told something else",
        "## What the adapters are like",
        "## Time",
    ]
    assert "4 tasks of near, far, seeds 0, 1." in text
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_the_main_table_says_what_the_summary_does(report):
    row = report.summary.row(ALL, "sg", "accuracy")
    body = body_of(main_table(report.summary, ALL))
    assert body["sg"] == {
        TITLES["accuracy"]: "sg",
        "mean": f"0.600 ({row.mean.low:.3f} to {row.mean.high:.3f})",
        "recovered gain": f"0.43 ({row.gain.low:.2f} to {row.gain.high:.2f})",
        "above topk": f"-0.050 ({row.above['topk'].low:+.3f} to {row.above['topk'].high:+.3f})",
        f"above {MULTITASK}": f"+0.025 ({row.above[MULTITASK].low:+.3f} to {row.above[MULTITASK].high:+.3f})",
        "beats topk": "38%",  # won, equal, lost, lost
        f"beats {MULTITASK}": "62%",  # won, won, equal, lost
    }
    assert body[BASE]["recovered gain"] == "0.00 (0.00 to 0.00)"
    assert body[ORACLE]["recovered gain"] == "1.00 (1.00 to 1.00)"
    assert (body["topk"]["above topk"], body["topk"]["beats topk"]) == ("", ""), "not with itself"


def test_each_main_score_has_a_table_of_its_own(report):
    text = main_table(report.summary, "near")
    assert [head[0] for head, *_ in tables_of(text)] == [TITLES[score] for score in MAIN]
    accuracy, knn = (body_of(text, number)[ORACLE]["mean"] for number in (0, 1))
    assert accuracy.startswith("0.850 ")
    assert knn.startswith("0.21")


def test_the_other_scores_stand_as_means(report):
    body = body_of(score_table(report.summary, "far"))
    assert body["topk"] == {"other scores": "topk", "macro-F1": "0.325", "cross-entropy": "1.350", "V-measure": "0.081"}


def test_controls_stand_with_what_they_cost(report):
    text = control_table(report.summary, ALL)
    for number, cost in ((0, "+0.100 (+0.100 to +0.100)"), (1, "+0.025 (+0.025 to +0.025)")):
        body = body_of(text, number)
        assert list(body) == ["topk", "sg"]
        for row in body.values():
            assert [row[name] for name in (NONSENSE, SHUFFLED, OTHER)] == [cost] * 3
            assert row["spread over wordings"] == cost.replace("+", ""), "of the description and its paraphrase"
            assert len(row) == 5, "a paraphrase is no control"


def test_what_adapters_are_like_stands_with_signs_and_shares(report):
    body = body_of(behaviour_table(report.summary))
    assert body["topk"] == {
        "adapter": "topk",
        "on unrelated tasks": "-0.125 (-0.125 to -0.125)",
        "to mean": "0.50",
        "to nearest expert": "0.25",
        "to best mixture": "0.12",
        "replays": "100%",
    }
    assert body["sg"]["replays"] == "0%"
    assert list(body[ORACLE].values())[2:] == [""] * 4


def test_without_controls_nothing_is_said_of_them(bench):
    text = markdown(make_report(bench, tuple(make_cells(with_controls=False))))
    assert "Told something else" not in text
    assert len(tables_of(text)) == 4 * 2 + 3 + 1


def test_what_took_the_time_is_said_by_part_and_by_row_the_slowest_first(report):
    def timed(cell):
        forgetting = 0.0 if cell.forgetting is None else 2.0
        return cell.model_copy(update={"seconds": 10.0, "forgetting_seconds": forgetting})

    cells = [timed(cell) for cell in report.cells]
    text = markdown(report.model_copy(update={"cells": tuple(cells), "seconds": {"topk": 160.0, "sg": 200.0}}))
    parts, _, rows = text.split("## Time\n\n")[1].partition(". By row, controls and forgetting included: ")
    forgetting, controls = 2 * len([cell for cell in cells if cell.forgetting]), 10 * 8 * len(TOLD)
    rest = 10 * len(cells) - forgetting - controls
    minutes = round(10 * len(cells) / 60)
    assert (
        parts
        == f"{minutes} minutes: scores on the test files {rest} s, forgetting {forgetting} s, controls {controls} s"
    )
    assert rows == "sg 200 s, topk 160 s.\n"


def test_all_tasks_have_no_table_of_their_own_where_there_is_one_split(report):
    one = report.model_copy(update={"config": report.config.model_copy(update={"splits": ("near",)})})
    assert "## all" not in markdown(one)
    assert "## near" in markdown(one)


def test_a_span_shows_its_number_and_its_ends():
    interval = Interval(0.12345, -0.1, 0.3)
    assert span(interval) == "0.123 (-0.100 to 0.300)"
    assert span(interval, digits=1, signed=True) == "+0.1 (-0.1 to +0.3)"
