import numpy as np
import pytest

from loragen.bases.scores import LanguageScores, Scores
from loragen.evaluation.cells import ALL, Cell
from loragen.evaluation.controls import NONSENSE, OTHER, PARAPHRASE, RIGHT
from loragen.evaluation.novelty import Novelty
from loragen.evaluation.score_tables import ScoreTables
from loragen.evaluation.statistics import Interval, difference_interval, gain_interval, mean_interval
from loragen.evaluation.summary import KIND, MAIN, summarise

ACCURACY = {
    "base": {"a": [0.5], "b": [0.4], "c": [0.3]},
    "topk": {"a": [0.6], "b": [0.5], "c": [0.3]},
    "sg": {"a": [0.6, 0.8], "b": [0.4, 0.5], "c": [0.3, 0.3]},
    "oracle": {"a": [0.9], "b": [0.6], "c": [0.3]},
}
"""Method → task → accuracy by seed, on the whole test file; means are 0.4, 1.4 / 3, 1.45 / 3 and 0.6."""
TOLD = {
    RIGHT: {"a": 0.6, "b": 0.4, "c": 0.2},
    NONSENSE: {"a": 0.5, "b": 0.4, "c": 0.0},
    OTHER: {"a": 0.7, "b": 0.4},
    f"{PARAPHRASE} 1": {"a": 0.5, "b": 0.3, "c": 0.9},
    f"{PARAPHRASE} 2": {"a": 0.7, "b": 0.3},
}
"""Control → task → accuracy of sg on the first texts."""
SHARE = {"accuracy": 1.0, "knn_accuracy": 0.5, "macro_f1": 0.25, "v_measure": 0.125}
"""Every score is this share of the accuracy, so that no score passes for another."""
GROUPS = {"near": ["b", "a"], "far": ["c"], ALL: ["a", "b", "c"], f"{KIND}intent": ["a", "b", "c"]}


def scores(accuracy):
    return Scores(cross_entropy=2 - accuracy, **{name: share * accuracy for name, share in SHARE.items()})


def cell(method, task, accuracy=0.99, *, short=0.01, control=RIGHT, seed=0, **facts):
    whole = scores(accuracy) if control == RIGHT else None
    return Cell(
        adapter="0" * 16,
        task=task,
        method=method,
        control=control,
        seed=seed,
        scores=whole,
        short=scores(short),
        seconds=1,
        **facts,
    )


def novelty(to_mean, to_nearest, to_mixture, *, is_replay=False):
    return Novelty(to_mean, to_nearest, to_mixture, "bank", (("bank", 1.0),), is_replay)


NEWS = {
    "a": {"novelty": novelty(1.0, 2.0, 0.2, is_replay=True), "forgetting": -0.1},
    "b": {"novelty": novelty(2.0, 4.0, 0.4), "forgetting": 0.0},
    "c": {"novelty": novelty(6.0, 0.0, 0.9)},
}


def all_cells():
    made = []
    for method, by_task in ACCURACY.items():
        for task, by_seed in by_task.items():
            for seed, accuracy in reversed(list(enumerate(by_seed))):
                facts = NEWS[task] if method == "sg" and seed == 0 else {}
                short = TOLD[RIGHT][task] if method == "sg" and seed == 0 else 0.01
                made.append(cell(method, task, accuracy, seed=seed, short=short, **facts))
    told = [(control, task) for control, by_task in TOLD.items() if control != RIGHT for task in by_task]
    return made + [cell("sg", task, short=TOLD[control][task], control=control) for control, task in told]


def summary_of(cells, groups=GROUPS, **options):
    return summarise(cells, groups, base="base", oracle="oracle", rivals=("topk", "absent"), **options)


@pytest.fixture(scope="module")
def summary():
    return summary_of(all_cells())


def table(method, tasks=("a", "b", "c"), share=1.0):
    return np.array([[share * accuracy for accuracy in ACCURACY[method][task]] for task in tasks])


def rng():
    return np.random.default_rng(0)


# --- one row a method ---


def test_every_method_has_a_row_by_every_score_in_every_group(summary):
    wanted = [
        (group, method, score)
        for group in GROUPS
        for method in ACCURACY
        for score in (MAIN if group.startswith(KIND) else (*MAIN, "macro_f1", "cross_entropy", "v_measure"))
    ]
    assert [(row.group, row.method, row.score) for row in summary.rows] == wanted
    assert {row.group: row.tasks for row in summary.rows} == {"near": 2, "far": 1, ALL: 3, f"{KIND}intent": 3}


def test_rows_are_found_by_group_method_and_score(summary):
    row = summary.row("near", "sg", "macro_f1")
    assert (row.group, row.method, row.score) == ("near", "sg", "macro_f1")
    assert summary.row(f"{KIND}intent", "sg", "macro_f1") is None


@pytest.mark.parametrize(("method", "mean"), [("base", 1.2 / 3), ("topk", 1.4 / 3), ("sg", 1.45 / 3), ("oracle", 0.6)])
def test_means_are_over_tasks_and_seeds(summary, method, mean):
    for score, share in SHARE.items():
        assert summary.row(ALL, method, score).mean.mean == pytest.approx(share * mean)
    assert summary.row(ALL, method, "cross_entropy").mean.mean == pytest.approx(2 - mean)


def test_a_groups_means_are_over_its_own_tasks(summary):
    assert summary.row("near", "sg", "accuracy").mean.mean == pytest.approx((0.7 + 0.45) / 2)
    assert summary.row("far", "sg", "accuracy").mean == Interval(0.3, 0.3, 0.3)


# --- gains, differences, wins ---


def test_gains_are_shares_of_what_the_oracle_gains(summary):
    gains = {method: summary.row(ALL, method, "accuracy").gain.mean for method in ACCURACY}
    assert gains == {"base": 0, "topk": pytest.approx(0.2 / 0.6), "sg": pytest.approx(0.25 / 0.6), "oracle": 1}
    near = {method: summary.row("near", method, "accuracy").gain.mean for method in ACCURACY}
    assert near == {"base": 0, "topk": pytest.approx(0.2 / 0.6), "sg": pytest.approx(0.25 / 0.6), "oracle": 1}


def test_where_the_oracle_gains_nothing_there_is_no_gain(summary):
    assert {summary.row("far", method, "accuracy").gain for method in ACCURACY} == {None}
    assert summary.row("far", "sg", "accuracy").wins == {"topk": 0.5}


def test_differences_are_paired_and_to_the_rivals_that_took_part(summary):
    above = {method: summary.row(ALL, method, "accuracy").above for method in ACCURACY}
    assert [list(rivals) for rivals in above.values()] == [["topk"], [], ["topk"], ["topk"]]
    assert above["sg"]["topk"].mean == pytest.approx(0.05 / 3)
    assert above["base"]["topk"].mean == pytest.approx(-0.2 / 3)
    assert summary.row(ALL, "sg", "cross_entropy").above["topk"].mean == pytest.approx(-0.05 / 3)


def test_wins_are_shares_of_tasks_and_ties_count_half(summary):
    wins = {method: summary.row(ALL, method, "knn_accuracy").wins for method in ACCURACY}
    assert wins == {
        "base": {"topk": pytest.approx(0.5 / 3)},  # lost, lost, equal
        "topk": {},
        "sg": {"topk": pytest.approx(1.5 / 3)},  # won, lost, equal
        "oracle": {"topk": pytest.approx(2.5 / 3)},  # won, won, equal
    }


def test_cross_entropy_of_which_less_is_better_has_no_gain_and_no_wins(summary):
    for row in summary.rows:
        assert (row.gain is None) == (row.score == "cross_entropy" or row.group == "far")
        if row.method != "topk":
            assert bool(row.wins) == (row.score != "cross_entropy")


def test_every_interval_is_from_the_same_resamples(summary):
    tables = {method: table(method, share=0.5) for method in ACCURACY}
    for method, own in tables.items():
        row = summary.row(ALL, method, "knn_accuracy")
        assert row.mean == mean_interval(own, rng=rng())
        assert row.gain == gain_interval(own, tables["base"], tables["oracle"], rng=rng())
        assert row.above == {
            rival: difference_interval(own, tables[rival], rng=rng()) for rival in ("topk",) if rival != method
        }
    assert summary.row(ALL, "sg", "knn_accuracy").mean.low < summary.row(ALL, "sg", "knn_accuracy").mean.high


def test_tasks_come_in_the_order_of_the_group(summary):
    assert summary.row("near", "sg", "accuracy").mean == mean_interval(table("sg", ["b", "a"]), rng=rng())


def test_the_seed_is_that_of_the_resampling_alone(summary):
    again, other = (summary_of(all_cells(), seed=seed).row(ALL, "sg", "accuracy") for seed in (0, 1))
    row = summary.row(ALL, "sg", "accuracy")
    assert again == row
    assert other.above["topk"].mean == row.above["topk"].mean
    assert other.above["topk"] != row.above["topk"]


# --- controls ---


def test_what_a_control_costs_is_right_minus_control_on_the_first_texts(summary):
    costs = {(row.group, row.control, row.score): row for row in summary.controls}
    nonsense = costs[ALL, NONSENSE, "accuracy"]
    assert nonsense.mean.mean == pytest.approx(0.9 / 3)
    assert nonsense.cost.mean == pytest.approx((0.1 + 0.0 + 0.2) / 3), (
        "above 0 where the description is worth something"
    )
    assert costs[ALL, NONSENSE, "knn_accuracy"].cost.mean == pytest.approx(0.05)
    assert costs["far", NONSENSE, "accuracy"].cost == Interval(*[pytest.approx(0.2)] * 3)
    assert {row.method for row in summary.controls} == {"sg"}


def test_a_control_that_hits_better_costs_less_than_nothing(summary):
    (row,) = (r for r in summary.controls if (r.group, r.control, r.score) == ("near", OTHER, "accuracy"))
    assert row.cost.mean == pytest.approx((-0.1 + 0.0) / 2)


def test_tasks_without_a_control_are_left_out_of_it(summary):
    met = {(row.group, row.control): row for row in summary.controls if row.score == "accuracy"}
    assert met[ALL, OTHER].cost.mean == pytest.approx((-0.1 + 0.0) / 2)
    assert ("far", OTHER) not in met
    assert set(met) == {(group, NONSENSE) for group in GROUPS} | {(group, OTHER) for group in GROUPS if group != "far"}


def test_without_controls_there_are_no_rows_of_them():
    summary = summary_of([one for one in all_cells() if one.control == RIGHT])
    assert (summary.controls, summary.paraphrases) == ((), ())


# --- wordings ---


def test_the_spread_over_wordings_is_the_largest_minus_the_smallest_score(summary):
    spreads = {(row.method, row.score): row.spread for row in summary.paraphrases}
    # a: 0.6, 0.5, 0.7; b: 0.4, 0.3, 0.3; c has not been told the second paraphrase.
    assert spreads.keys() == {("sg", "accuracy"), ("sg", "knn_accuracy")}
    assert spreads["sg", "accuracy"].mean == pytest.approx((0.2 + 0.1) / 2)
    assert spreads["sg", "knn_accuracy"].mean == pytest.approx((0.1 + 0.05) / 2)
    assert spreads["sg", "accuracy"] == mean_interval(np.array([[0.7 - 0.5], [0.4 - 0.3]]), rng=rng())


# --- what the adapters are like ---


def test_behaviour_is_the_mean_over_tasks_of_the_first_seed(summary):
    sg = {row.method: row for row in summary.behaviour}["sg"]
    assert sg.forgetting.mean == pytest.approx(-0.05), "where it was measured"
    assert (sg.to_mean, sg.to_nearest, sg.to_mixture) == pytest.approx((3, 2, 0.5))
    assert sg.replays == pytest.approx(1 / 3)


def test_of_what_was_not_measured_nothing_is_said(summary):
    behaviour = {row.method: row for row in summary.behaviour}
    assert list(behaviour) == ["topk", "sg", "oracle"], "the base is no adapter"
    oracle = behaviour["oracle"]
    assert (oracle.forgetting, oracle.to_mean, oracle.to_nearest, oracle.to_mixture, oracle.replays) == (None,) * 5


# --- tables of cells ---


def test_seeds_are_columns_in_their_order():
    tables = ScoreTables.of(all_cells())
    assert tables.methods() == list(ACCURACY)
    assert tables.whole("sg", ["b", "a"], "accuracy").tolist() == [[0.4, 0.5], [0.6, 0.8]]
    assert tables.short("sg", RIGHT, ["a", "c"], "accuracy").tolist() == [[0.6], [0.2]], "the first seed alone"
    assert tables.short("sg", NONSENSE, ["a"], "knn_accuracy").tolist() == [[0.25]]


# --- open tasks ---


def language_cells(bits):
    """Cells of one score of which less is better, by method and task."""
    return [
        Cell(
            adapter="0" * 16,
            task=task,
            method=method,
            control=control,
            scores=LanguageScores(perplexity=2**value, bits_per_byte=value) if control == RIGHT else None,
            short=LanguageScores(perplexity=2**value, bits_per_byte=value + (control != RIGHT) / 4),
            seconds=1,
        )
        for method, by_task in bits.items()
        for task, value in by_task.items()
        for control in ((RIGHT, NONSENSE) if method == "sg" else (RIGHT,))
    ]


def test_of_bits_per_byte_less_is_more():
    bits = {
        "base": {"a": 2.0, "b": 3.0},
        "topk": {"a": 1.75, "b": 2.5},
        "sg": {"a": 1.5, "b": 2.5},
        "oracle": {"a": 1.0, "b": 2.0},
    }
    groups = {ALL: ["a", "b"]}
    found = summarise(language_cells(bits), groups, base="base", oracle="oracle", rivals=["topk"])
    assert found.main == ("bits_per_byte",)
    assert {row.score for row in found.rows} == {"bits_per_byte", "perplexity"}, "no exact match where there are none"
    row = found.row(ALL, "sg", "bits_per_byte")
    assert row.mean.mean == pytest.approx(2.0)
    assert row.gain.mean == pytest.approx(0.5)
    assert row.above["topk"].mean == pytest.approx(0.125), "better, for it is below"
    assert row.wins["topk"] == pytest.approx(0.75)
    (control,) = found.controls
    assert control.cost.mean == pytest.approx(0.25), "nonsense is worse, for it is above"
