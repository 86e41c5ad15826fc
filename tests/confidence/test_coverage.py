"""States of tasks from how near they are, against those of left-out families."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loragen.confidence.coverage import COVERED, NEW, Coverage, NearExpert, Reference, decide, lesser

TEN = Reference.of([0.3, 0.1, 0.2, 0.5, 0.4, 0.6, 0.9, 0.8, 0.7, 1.0])
NEAREST = [("bank", 0.51234), ("card", 0.4)]


@pytest.mark.parametrize(
    ("nearness", "figure", "state"),
    [(0.05, 0.0, "new"), (0.5, 0.4, "new"), (0.55, 0.5, "near"), (0.95, 0.9, "covered"), (2.0, 1.0, "covered")],
)
def test_the_figure_is_the_share_of_left_out_tasks_that_are_farther(nearness, figure, state):
    made = TEN.coverage(nearness, "texts", NEAREST, undescribed=2)
    assert (made.figure, made.state, made.knows, made.undescribed) == (figure, state, "texts", 2)
    assert made.nearest == (NearExpert(id="bank", value=0.5123), NearExpert(id="card", value=0.4))


def test_a_covered_task_is_as_near_as_the_zoos_own():
    own = Reference.of([0.1], own=[0.5 + at / 100 for at in range(40)])
    # Two of forty may be missed: the third is the least that counts.
    states = [own.coverage(nearness, "texts", NEAREST).state for nearness in (0.51, 0.519, 0.52)]
    assert states == ["near", "near", "covered"]
    assert {own.coverage(nearness, "texts", NEAREST).figure for nearness in (0.51, 0.52)} == {1.0}


@given(st.lists(st.floats(-1, 1), min_size=1), st.lists(st.floats(-1, 1)), st.floats(-2, 2), st.floats(0, 1))
def test_a_nearer_task_is_never_less_covered(left_out, own, nearness, more):
    order = ("new", "near", "covered")
    reference = Reference.of(left_out, own)
    one, other = (reference.coverage(each, "texts", NEAREST) for each in (nearness, nearness + more))
    assert one.figure <= other.figure
    assert order.index(one.state) <= order.index(other.state)
    assert (one.figure < NEW) == (one.state == "new")
    assert one.state != "covered" or one.figure >= COVERED


def test_left_out_tasks_themselves_are_new_by_half_and_covered_by_a_tenth():
    reference = Reference.of([at / 100 for at in range(100)])
    states = [reference.coverage(each, "texts", NEAREST).state for each in reference.left_out]
    assert (states.count("new"), states.count("near"), states.count("covered")) == (50, 40, 10)


def test_two_kinds_of_evidence_cover_as_much_as_the_lesser():
    words, texts = TEN.coverage(0.95, "description", NEAREST), TEN.coverage(0.55, "texts", NEAREST)
    for pair in ((words, texts), (texts, words)):
        both = lesser(*pair)
        assert both == texts.model_copy(update={"beside": words})
    alike = lesser(TEN.coverage(0.85, "texts", NEAREST), TEN.coverage(0.65, "description", NEAREST))
    assert (alike.knows, alike.figure) == ("description", 0.6)


@pytest.mark.parametrize(("nearness", "action"), [(2.0, "reuse"), (0.75, "generate"), (0.0, "train")])
def test_what_to_do_follows_from_the_state(nearness, action):
    made = TEN.coverage(nearness, "description", NEAREST)
    assert decide(made) == made.action == action
    assert action in made.sentence().lower()
    assert f" {100 * made.figure:.0f} %" in made.sentence()
    assert ("bank" in made.sentence()) == (action != "train")


def test_a_coverage_is_read_back():
    made = lesser(TEN.coverage(0.95, "description", NEAREST), TEN.coverage(0.55, "texts", NEAREST))
    assert Coverage.model_validate_json(made.model_dump_json()) == made
