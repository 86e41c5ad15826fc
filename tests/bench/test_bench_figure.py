from xml.etree import ElementTree

import pytest
from test_bench_summary import by_rate, cells_of, summary_of

from loragen.bench.figure import curves, write_curves


def many(number):
    others = {f"recipe{i}": cells_of(by_rate(0.3, 0.5 + i / 100, 0.4), by_rate(3.0, 1.0, 2.0)) for i in range(number)}
    return summary_of(lora_both=cells_of(by_rate(0.5, 0.8, 0.6), by_rate(3.0, 1.0, 2.0)), **others)


def test_each_of_sixteen_recipes_has_a_panel_with_plain_lora_in_grey():
    figure = curves(many(15))
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title(loc="left").split()[0] for panel in panels] == [
        "lora_both",
        *(f"recipe{i}" for i in range(15)),
    ]
    for number, panel in enumerate(panels[1:]):
        grey, own = panel.lines[:2]
        assert list(grey.get_ydata()) == pytest.approx([0.5, 0.8, 0.6])
        assert list(own.get_ydata()) == pytest.approx([0.3, 0.5 + number / 100, 0.4])
        assert panel.get_xscale() == "log"
    assert len({panel.get_ylim() for panel in panels}) == 1
    assert figure.get_figheight() < 9


def test_a_rate_that_diverged_is_a_cross_at_the_bottom():
    gone = cells_of(by_rate(0.5, 0.6, None), by_rate(2.0, 1.0, None))
    figure = curves(summary_of(lora_both=gone))
    line, best, crosses = figure.axes[0].lines
    assert list(line.get_xdata()) == [0.001, 0.01]
    assert list(best.get_xdata()) == [0.01]
    assert list(crosses.get_xdata()) == [0.1]
    assert list(crosses.get_ydata()) == [figure.axes[0].get_ylim()[0]]


def test_both_files_are_the_same_each_time(tmp_path):
    first = [path.read_bytes() for path in write_curves(many(4), tmp_path / "curves")]
    again = [path.read_bytes() for path in write_curves(many(4), tmp_path / "curves")]
    assert first == again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "curves.svg"]
    assert ElementTree.parse(tmp_path / "curves.svg").getroot().tag.endswith("svg")
