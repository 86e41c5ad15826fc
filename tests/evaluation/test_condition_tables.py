import pytest
from report_toys import ACCURACY, KINDS, body_of, cell, make_cells, scores

from loragen.bases.scores import LanguageScores
from loragen.evaluation.cells import ALL, Cell
from loragen.evaluation.condition_tables import ConditionTables, rank_among
from loragen.evaluation.config import BASE, ORACLE, RANDOM, mean_output
from loragen.evaluation.controls import MADE_FOR, RIGHT
from loragen.evaluation.likeness import Likeness
from loragen.evaluation.markdown import control_table, markdown
from loragen.evaluation.markdown_sections import condition_section, likeness_table
from loragen.evaluation.report import make_report
from loragen.evaluation.report_model import TITLES, Report
from loragen.evaluation.summary import summarise

MEAN = mean_output("sg")
LEADS = {
    "cups": {"menus": 0.1, "ovens": 0.1},  # above both
    "menus": {"cups": 0.0, "ovens": -0.1},  # as good as one, below the other
    "ovens": {"cups": 0.0},
    "plates": {"menus": 0.2, "ovens": -0.2},
}
"""Task → other task → lead of sg's own adapter over the one made for the other; ranks are 1, .25, .5 and .5."""


def checked_cells():
    """Made-up cells with adapters made for other tasks, and rows that read no description."""
    yield from make_cells()
    for task, accuracy in zip(KINDS, ACCURACY["sg"], strict=True):
        for other, lead in LEADS[task].items():
            yield cell(task, "sg", accuracy - lead, control=f"{MADE_FOR}{other}")
        yield cell(task, MEAN, accuracy - 0.02)
        for seed in (0, 1):
            yield cell(task, RANDOM, accuracy - 0.05, seed=seed)


@pytest.fixture(scope="module")
def checked(report_workspace) -> Report:
    likenesses = (Likeness(method="sg", tasks=4, cosine=0.9, centred=-0.25),)
    return make_report(report_workspace, tuple(checked_cells()), likenesses=likenesses)


def row_of(report, group, method, score="accuracy"):
    rows = report.summary.condition.rows
    (found,) = (row for row in rows if (row.group, row.method, row.score) == (group, method, score))
    return found


# --- ranks ---


@pytest.mark.parametrize(
    ("own", "others", "rank"),
    [(0.5, [0.1, 0.2], 1), (0.5, [0.6], 0), (0.5, [0.5, 0.5], 0.5), (0.5, [0.5, 0.4, 0.6, 0.7], 0.375)],
)
def test_a_rank_is_the_share_of_others_that_are_beaten(own, others, rank):
    assert rank_among(own, others) == rank


def test_what_differs_by_rounding_alone_ties():
    assert rank_among(0.1 + 0.2, [0.3]) == 0.5


def test_ranks_are_means_over_tasks(checked):
    row = row_of(checked, ALL, "sg")
    assert row.rank.mean == pytest.approx((1 + 0.25 + 0.5 + 0.5) / 4)
    assert row.rank.low < row.rank.mean < row.rank.high
    assert (row.tasks, row.others) == (4, 1.75)
    assert row_of(checked, "near", "sg").rank.mean == pytest.approx(0.625)
    assert row_of(checked, ALL, "sg", "knn_accuracy").rank == row.rank, "a quarter of the accuracy, in the same order"


def test_of_bits_per_byte_less_is_better():
    def made(method, bits, control=RIGHT):
        known = LanguageScores(bits_per_byte=bits, perplexity=2**bits)
        whole = known if control == RIGHT else None
        return Cell(task="a", method=method, control=control, adapter="0" * 16, scores=whole, short=known, seconds=1)

    cells = [made(BASE, 3.0), made("sg", 2.0), made(RANDOM, 2.5), made(ORACLE, 1.0)]
    cells += [made("sg", bits, f"{MADE_FOR}{bits}") for bits in (1.5, 2.5, 3.0)]
    found = summarise(cells, {ALL: ["a"]}, base=BASE, oracle=ORACLE, rivals=(), generators=("sg",))
    (row,) = found.condition.rows
    assert row.rank.mean == pytest.approx(2 / 3)
    assert row.above[RANDOM].mean == pytest.approx(0.5)
    assert {one.method: one.below.lowest for one in found.below}["sg"] == pytest.approx(1.0)


# --- rivals that read no description ---


def test_a_generator_is_compared_with_its_own_mean_and_with_chance(checked):
    above = row_of(checked, ALL, "sg").above
    assert list(above) == [MEAN, RANDOM]
    assert above[MEAN].mean == pytest.approx(0.02)
    assert above[RANDOM].mean == pytest.approx(0.05)
    topk = row_of(checked, ALL, "topk")
    assert (list(topk.above), topk.rank) == ([RANDOM], None), "the mean is another's"


def test_rivals_of_one_generator_are_not_those_of_all(checked):
    assert checked.summary.row(ALL, "topk", "accuracy").above.keys().isdisjoint({MEAN, RANDOM})
    assert checked.summary.row(ALL, MEAN, "accuracy").mean.mean == pytest.approx(0.58)


def test_adapters_made_for_others_are_no_controls(checked, report):
    assert checked.summary.controls == report.summary.controls
    assert control_table(checked.summary, ALL) == control_table(report.summary, ALL)
    assert checked.summary.paraphrases == report.summary.paraphrases


# --- the section ---


def test_the_section_has_cosines_and_a_table_a_group_and_score(checked):
    text = "\n\n".join(condition_section(checked))
    assert body_of(text)["sg"] == {
        "cosine between adapters of two tasks": "sg",
        "tasks": "4",
        "as they are": "0.900",
        "less the mean expert": "-0.250",
    }
    near, row = body_of(text, 1), row_of(checked, "near", "sg")
    assert near["sg"] == {
        f"near, {TITLES['accuracy']}": "sg",
        "rank among other tasks' adapters": f"0.62 ({row.rank.low:.2f} to {row.rank.high:.2f})",
        "above the mean of its outputs": f"+0.020 ({row.above[MEAN].low:+.3f} to {row.above[MEAN].high:+.3f})",
        f"above {RANDOM}": f"+0.050 ({row.above[RANDOM].low:+.3f} to {row.above[RANDOM].high:+.3f})",
    }
    assert list(near) == ["topk", "sg"]
    assert list(near["topk"].values())[1:3] == ["", ""]
    assert next(iter(body_of(text, 6)["sg"])) == f"all, {TITLES['knn_accuracy']}"
    assert text in markdown(checked)


def test_a_cosine_that_there_is_not_is_left_blank():
    text = likeness_table((Likeness(method="mean", tasks=4, cosine=1.0, centred=None),))
    assert list(body_of(text)["mean"].values()) == ["mean", "4", "1.000", ""]


def test_the_time_of_other_tasks_adapters_stands_apart(checked, report):
    assert "other tasks' adapters" in markdown(checked).split("## Time")[1]
    assert "other tasks' adapters" not in markdown(report).split("## Time")[1]


def test_without_any_there_is_no_section(report):
    assert report.summary.condition == ConditionTables()
    assert "Does the condition matter" not in markdown(report)


def test_the_report_comes_back_from_json(checked):
    assert Report.model_validate_json(checked.model_dump_json()) == checked


def test_reports_of_before_are_read(checked, report):
    values = report.model_dump(mode="json")
    for name in ("below", "condition", "calibration"):
        del values["summary"][name]
    del values["config"]["condition"]
    met = Report.model_validate(values)
    assert met.summary.rows == report.summary.rows
    assert met.cells[0].expected is None
    assert scores(0.5) == met.cells[0].scores


def test_the_terminal_shows_the_ranks_where_there_are_some(checked, report, capsys):
    from loragen.cli.evaluate import _show_summary

    _show_summary(checked)
    shown = capsys.readouterr().out
    assert shown.count("chance: .5") == 3, "near, far and all"
    assert "0.56 (0." in shown
    _show_summary(report)
    assert "chance: .5" not in capsys.readouterr().out
