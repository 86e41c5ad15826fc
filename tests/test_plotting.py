import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loragen.plotting import apart, loss_curves, pushed_apart, short_name


@given(hnp.arrays(float, st.integers(1, 20), elements=st.floats(0, 1, width=16)), st.floats(0.01, 0.04))
def test_labels_keep_their_order_and_distance(values, gap):
    placed = apart(values, gap, 0.0, 1.0)
    order = np.argsort(values, kind="stable")
    assert (np.diff(placed[order]) >= gap - 1e-9).all()
    assert placed.min() >= -1e-9
    assert placed.max() <= 1 + 1e-9
    if len(values) == 1 or np.diff(np.sort(values)).min() >= gap:
        assert placed == pytest.approx(values)


def test_labels_move_as_little_as_possible():
    assert apart(np.array([5.0, 1.0, 5.0]), 2.0, 0.0, 10.0) == pytest.approx([4.0, 1.0, 6.0])
    assert apart(np.array([5.0, 5.0, 5.0]), 2.0, 0.0, 6.0) == pytest.approx([2.0, 4.0, 6.0])
    assert apart(np.array([0.5, 0.5, 0.5]), 2.0, 0.0, 1.0) == pytest.approx([0.0, 2.0, 4.0])  # no room


def test_points_are_pushed_off_each_other_and_off_fixed_ones():
    points, fixed = np.full((12, 2), 50.0), np.array([[50.0, 50.0], [58.0, 50.0]])
    low, high = np.zeros(2), np.full(2, 100.0)
    placed = pushed_apart(points, 10.0, low, high, fixed=fixed, clearance=6.0)
    assert (np.linalg.norm(placed[:, None] - placed[None], axis=-1) + 1e9 * np.eye(12)).min() >= 10
    assert np.linalg.norm(placed[:, None] - fixed[None], axis=-1).min() >= 6
    assert np.linalg.norm(placed - 50, axis=-1).max() < 35


def test_points_with_room_stay_and_none_leaves_the_box():
    points, nothing = np.array([[1.0, 1.0], [50.0, 50.0], [99.0, 99.0], [99.0, 98.0]]), np.empty((0, 2))
    placed = pushed_apart(points, 10.0, np.zeros(2), np.full(2, 100.0), fixed=nothing, clearance=6.0)
    assert placed[:2] == pytest.approx(points[:2], abs=0.011)
    assert placed.max() <= 100
    assert np.linalg.norm(placed[2] - placed[3]) >= 10


def test_long_names_keep_both_ends():
    assert short_name("hwu_going_out") == "hwu_going_out"
    assert short_name("runs/ablations/sg_without_prior", limit=21) == "runs/ablat…hout_prior"
    assert short_name("a$b") == r"a\$b"


def test_losses_are_drawn_where_they_were_measured(tmp_path):
    loss_curves([{"step": 1, "loss": 2.0, "a": 1.0}, {"step": 2, "loss": 1.0}], tmp_path / "losses.png")
    loss_curves([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}], tmp_path / "other.png")
    written = (tmp_path / "losses.png").read_bytes()
    assert written[:4] == b"\x89PNG"
    assert written != (tmp_path / "other.png").read_bytes()
