from report_toys import ACCURACY, TOLD, body_of, make_cells, tables_of

from loragen.evaluation.cells import ALL
from loragen.evaluation.config import BASE, MULTITASK, ORACLE
from loragen.evaluation.controls import NONSENSE, OTHER, SHUFFLED
from loragen.evaluation.markdown import behaviour_table, control_table, main_table, markdown, score_table, span
from loragen.evaluation.report import make_report
from loragen.evaluation.report_model import TITLES
from loragen.evaluation.statistics import Interval
from loragen.evaluation.summary import MAIN


def test_every_table_is_whole(report):
    tables = tables_of(markdown(report))
    # A table a main score in all four groups; other scores, and tasks below the base, in all but the kind; controls by
    # main score; behaviour.
    assert len(tables) == 4 * 2 + 2 * 3 + 2 + 1
    for head, rule, *rows in tables:
        assert set(rule) == {"---"}
        assert {len(row) for row in (rule, *rows)} == {len(head)}
        assert len(set(head)) == len(head)


def test_every_method_stands_once_in_every_table(report):
    generated = ["topk", "sg"]
    for head, _, *rows in tables_of(markdown(report)):
        but_base = head[0] == "adapter" or head[0].endswith("against the base")
        wanted = list(ACCURACY)[1:] if but_base else generated if "right" in head[0] else list(ACCURACY)
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
        "## Another text in place of the description",
        "## Forgetting and novelty",
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


def test_without_controls_nothing_is_said_of_them(report_workspace):
    text = markdown(make_report(report_workspace, tuple(make_cells(with_controls=False))))
    assert "Another text in place" not in text
    assert len(tables_of(text)) == 4 * 2 + 2 * 3 + 1


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
