import numpy as np
import pytest

from loragen.evaluation.statistics import difference_interval
from loragen.evaluation.verdict import Comparison, resolution_note, verdict_of


def compared(won, lost, both=0, neither=0):
    """An adapter that alone gets ``won`` texts right, and the other method ``lost``."""
    own = [1.0] * won + [0.0] * lost + [1.0] * both + [0.0] * neither
    other = [0.0] * won + [1.0] * lost + [1.0] * both + [0.0] * neither
    return Comparison.of(np.array(own)[:, None], np.array(other)[:, None])


def shown(won, lost, both=0, neither=0):
    return f"{compared(won, lost, both, neither).difference:+.3f}"


def test_the_interval_is_the_bootstrap_over_texts():
    own, other = np.array([[1.0]] * 9 + [[0.0]] * 11), np.array([[0.0]] * 4 + [[1.0]] * 7 + [[0.0]] * 9)
    found = Comparison.of(own, other)
    assert found.difference == difference_interval(own, other, rng=np.random.default_rng(0))
    assert (found.texts, found.right) == (20, 9)


def test_better_worse_and_neither_are_said_with_the_interval():
    better, worse, neither = compared(12, 2, 20, 6), compared(2, 12, 20, 6), compared(5, 4, 10, 5)
    assert (
        verdict_of(better, {}) == f"This adapter is better than the base on these 40 texts: {better.difference:+.3f}."
    )
    assert verdict_of(worse, {}) == (
        f"This adapter is worse than the base on these 40 texts: {worse.difference:+.3f}. Use the base as it is."
    )
    told = f"No difference between this adapter and the base can be told from 24 texts: {neither.difference:+.3f}."
    assert verdict_of(neither, {}).startswith(told)


def test_methods_that_get_the_same_texts_right_are_said_to():
    same = compared(0, 0, 30, 10)
    assert verdict_of(same, {}) == "This adapter and the base get the same 30 of 40 texts right."
    assert not same.is_real


def test_equal_shares_of_other_texts_are_not_the_same():
    assert not compared(3, 3, 10).is_same


@pytest.mark.parametrize(("won", "is_ahead"), [(4, False), (5, False), (6, True), (9, True)])
def test_a_lead_of_few_texts_is_not_called_one_even_where_the_interval_leaves_zero_out(won, is_ahead):
    found = compared(won, 0, 12, 8 - min(won, 8))
    assert found.difference.low > 0
    assert found.is_ahead == is_ahead
    assert not found.is_behind


def test_a_lead_within_the_interval_is_not_called_one():
    found = compared(8, 5, 7, 4)
    assert found.difference.mean > 0 > found.difference.low
    assert not found.is_ahead


@pytest.mark.parametrize("texts", [12, 24, 60])
def test_methods_of_equal_skill_are_seldom_told_apart(texts):
    """At most one time in twenty: the promise behind every verdict."""
    rng, real = np.random.default_rng(texts), 0
    for _ in range(300):
        own, other = (rng.random((texts, 1)) < 0.6 for _ in range(2))
        real += Comparison.of(own.astype(float), other.astype(float)).is_real
    assert real <= 0.06 * 300


def test_a_classifier_fitted_to_the_labels_is_named_where_it_is_ahead():
    ahead, far_ahead = compared(2, 12, 20, 6), compared(1, 14, 20, 5)
    better = compared(12, 2, 20, 6)
    text = verdict_of(better, {"centroid": ahead, "logistic": far_ahead})
    difference = far_ahead.difference
    assert text.endswith(
        "With these labels, fitting does better: logistic over the bare base is ahead of this adapter by "
        f"{-difference.mean:+.3f} ({-difference.high:+.3f} to {-difference.low:+.3f}). To fit an adapter: "
        'loragen generate "…" --examples FILE --fit.'
    )
    assert text.startswith("This adapter is better than the base")


def test_a_classifier_whose_lead_cannot_be_told_is_not_named():
    assert "fitting" not in verdict_of(compared(12, 2, 20, 6), {"logistic": compared(4, 6, 20, 10)})


def test_worse_than_both_the_base_and_a_classifier_leads_to_fitting():
    text = verdict_of(compared(2, 12, 20, 6), {"logistic": compared(1, 14, 20, 5)})
    assert "Use the base" not in text
    assert "--fit" in text


# --- sizes that cannot be seen ---


def test_few_texts_are_said_to_be_few_with_the_smallest_difference():
    found = compared(5, 4, 10, 5)
    half = (found.difference.high - found.difference.low) / 2
    assert found.resolution == pytest.approx(max(half, 6 / 24))
    assert verdict_of(found, {}).endswith(f"24 texts are few: differences below about {half:.2f} cannot be seen.")
    assert resolution_note(found) is None, "the verdict has said it"


def test_a_narrow_interval_of_few_texts_cannot_see_less_than_six_of_them():
    assert compared(0, 0, 24).resolution == pytest.approx(6 / 24)


def test_less_than_six_texts_show_nothing():
    assert "5 texts are too few for any difference to be seen." in verdict_of(compared(3, 0, 1, 1), {})


def test_a_clear_result_of_few_texts_comes_with_a_note():
    assert resolution_note(compared(12, 2, 20, 6)).startswith("40 texts are few: differences below about 0.1")


def test_many_texts_are_not_called_few():
    found = compared(25, 20, 1500, 500)
    assert resolution_note(found) is None
    assert verdict_of(found, {}).endswith(
        f"With 2045 texts, differences below about {found.resolution:.2f} cannot be seen."
    )
