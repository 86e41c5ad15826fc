import pytest
from report_toys import make_cells
from test_calibration import EXPECTED, GAINS, told

from loragen.evaluation.calibration_figure import calibration_figure
from loragen.evaluation.figures import evaluation_figures
from loragen.evaluation.report import make_report
from loragen.plotting import COLOURS


@pytest.fixture(scope="module")
def drawn(report_workspace):
    knows = {"topk": "texts", "sg": "labels"}
    cells = [
        one.model_copy(update={"expected": told(EXPECTED[one.task], knows=knows[one.method])})
        if one.method in knows and one.control == "right"
        else one
        for one in make_cells()
    ]
    report = make_report(report_workspace, cells)
    return report, calibration_figure(report)


def test_each_method_has_a_panel(drawn):
    _, figure = drawn
    assert [axes.get_title() for axes in figure.axes] == ["topk\nknows the texts", "sg\nknows the labels"]
    assert {(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes} == {("expected gain", "realised gain")}


def test_each_task_is_a_point_with_its_interval_a_colour_a_split(drawn):
    _, figure = drawn
    axes = figure.axes[1]
    near, far = (line for line in axes.lines if line.get_label().startswith(("near", "far")))
    assert (near.get_color(), far.get_color()) == COLOURS[:2]
    assert list(near.get_xdata()) == pytest.approx([EXPECTED["cups"], EXPECTED["menus"]])
    assert list(near.get_ydata()) == pytest.approx([GAINS["cups"], GAINS["menus"]])
    intervals = {round(line.get_ydata()[0], 6): line.get_xdata() for line in axes.lines if line.get_alpha()}
    assert list(intervals[GAINS["plates"]]) == pytest.approx([EXPECTED["plates"] - 0.1, EXPECTED["plates"] + 0.1])
    assert any(getattr(line, "get_slope", lambda: None)() == 1 for line in axes.lines), "the diagonal"


def test_it_is_drawn_where_something_was_expected_alone(drawn, report):
    with_it, figure = drawn
    assert "calibration" in evaluation_figures(with_it)
    assert calibration_figure(report) is None
    assert list(evaluation_figures(report)) == ["gains", "similarity", "slopes", "map"]
    figure.draw_without_rendering()
    bounds, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(bounds.x0, bounds.y0) >= 0
    assert (bounds.x1 <= width, bounds.y1 <= height) == (True, True)


def test_every_panel_has_numbers_on_both_axes(drawn):
    _, figure = drawn
    figure.draw_without_rendering()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            assert any(tick.label1.get_visible() and tick.label1.get_text() for tick in axis.get_major_ticks())
