import pytest
from report_toys import ACCURACY, KINDS, cell, make_cells, tables_of

from loragen.evaluation.below_base import FALL_BACK, below_base, below_rows
from loragen.evaluation.cells import ALL
from loragen.evaluation.config import BASE, MULTITASK, ORACLE
from loragen.evaluation.markdown_sections import below_table
from loragen.evaluation.report import make_report
from loragen.evaluation.score_tables import ScoreTables

GROUPS = {"near": ["cups", "menus"], ALL: list(KINDS)}
ZERO = dict.fromkeys("abcd", 0.5)


def rows_of(cells):
    rows = below_rows(ScoreTables.of(cells), GROUPS, score="accuracy", base=BASE)
    return {(row.group, row.method): row for row in rows}


def with_fall_back():
    """Cells in which sg goes back on the base for plates, where it would be below."""
    cells = [one for one in make_cells() if one.method not in (BASE, "sg")]
    lower = zip(KINDS, ACCURACY[BASE], (0.4, 0.5, 0.55, 0.1), (0.5, 0.5, 0.55, 0.3), strict=True)
    for task, base, before, after in lower:
        cells += [cell(task, BASE, base), cell(task, "sg", before), cell(task, f"sg{FALL_BACK}", after)]
    return cells


# --- the count ---


def test_tasks_below_the_base_are_counted():
    met = below_base({"a": 0.6, "b": 0.5, "c": 0.4, "d": 0.2}, ZERO)
    assert (met.tasks, met.share, met.lowest_task) == (4, 0.5, "d")
    assert met.lowest == pytest.approx(-0.3)


@pytest.mark.parametrize(("score", "share"), [(0.5, 0), (0.49, 0), (0.4899, 1), (0.51, 0)])
def test_a_hundredth_does_not_count(score, share):
    assert below_base({"a": score}, ZERO).share == share


def test_the_margin_is_an_argument():
    scores = {"a": 0.48, "b": 0.44}
    assert [below_base(scores, ZERO, margin=margin).share for margin in (0.0, 0.05, 0.1)] == [1, 0.5, 0]


def test_where_nothing_is_below_the_lowest_is_above():
    met = below_base({"a": 0.6, "b": 0.8}, ZERO)
    assert (met.share, met.lowest_task) == (0, "a")
    assert met.lowest == pytest.approx(0.1)


# --- the rows ---


def test_every_method_but_the_base_has_a_row_in_every_group():
    found = rows_of(list(make_cells()))
    assert list(found) == [(group, method) for group in GROUPS for method in (MULTITASK, "topk", "sg", ORACLE)]
    assert all(row.with_fall_back is None for row in found.values())
    assert found[ALL, "sg"].below.lowest == pytest.approx(0.0)


def test_seeds_are_averaged_before_tasks_are_counted():
    cells = [one for one in make_cells() if one.method != "sg"]
    for task, base in zip(KINDS, ACCURACY[BASE], strict=True):
        low = base - 0.1 if task == "cups" else base
        cells += [cell(task, "sg", low), cell(task, "sg", base + 0.02, seed=1)]
    row = rows_of(cells)[ALL, "sg"]
    assert row.below.share == 0.25
    assert row.below.lowest == pytest.approx(-0.04)
    assert row.below.lowest_task == "cups"


def test_a_fall_back_stands_beside_what_it_goes_back_on():
    found = rows_of(with_fall_back())
    assert (ALL, f"sg{FALL_BACK}") not in found
    before, after = found[ALL, "sg"].below, found[ALL, "sg"].with_fall_back
    assert (before.share, before.lowest_task) == (0.75, "plates")
    assert before.lowest == pytest.approx(-0.2)
    assert (after.share, after.lowest_task) == (0.25, "ovens")
    assert after.lowest == pytest.approx(-0.05)


def test_a_fall_back_that_stands_alone_has_a_row_of_its_own():
    alone = [one for one in with_fall_back() if one.method != "sg"]
    found = rows_of(alone)
    assert found[ALL, f"sg{FALL_BACK}"].with_fall_back is None
    assert found[ALL, f"sg{FALL_BACK}"].below.share == 0.25


# --- as Markdown ---


def test_the_table_shows_both_side_by_side(report_workspace):
    (table,) = tables_of(below_table(make_report(report_workspace, with_fall_back()).summary, ALL))
    head, _, *rows = table
    assert head[1:4] == ["tasks below by more than 0.01", "lowest difference", "on"]
    assert head[4:] == [f"{name}{FALL_BACK}" for name in head[1:4]]
    body = {row[0]: row[1:] for row in rows}
    assert body["sg"] == ["75%", "-0.200", "plates", "25%", "-0.050", "ovens"]
    assert body["topk"][3:] == ["", "", ""]
    assert list(body) == [MULTITASK, "topk", ORACLE, "sg"]
