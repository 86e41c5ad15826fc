"""Summaries of made-up cells, whose numbers are known."""

import numpy as np
import pytest

from loragen.bases.scores import LanguageScores, Scores
from loragen.bench.cells import BenchCell
from loragen.bench.config import RecipeBenchConfig
from loragen.bench.markdown import markdown
from loragen.bench.summary import RecipeCells, sensitivity_of, summarise

RATES = (0.001, 0.01, 0.1)
TASKS, SEEDS = ("a", "b"), (0, 1)
RECIPES = {"lora_both": ("lora_both", "optimisation"), "other": ("lora", "optimisation")}


def cell(task, rate, seed, accuracy, loss):
    scores = None
    if accuracy is not None:
        scores = Scores(accuracy=accuracy, macro_f1=accuracy, cross_entropy=1.0, knn_accuracy=accuracy / 2)
    return BenchCell(
        recipe="x", conditions="c", task=task, learning_rate=rate, seed=seed, scores=scores, held_out_loss=loss,
        rank=2, parameters=10, seconds=1.5,
    )  # fmt: skip


def cells_of(accuracy, loss) -> RecipeCells:
    """Cells from functions of the task, rate and seed."""
    found = {
        (task, rate, seed): cell(task, rate, seed, accuracy(task, rate, seed), loss(task, rate, seed))
        for task in TASKS
        for rate in RATES
        for seed in SEEDS
    }
    return RecipeCells(found, TASKS, RATES, SEEDS)


def by_rate(*values):
    return lambda _task, rate, _seed: values[RATES.index(rate)]


def summary_of(**cells):
    recipes = {label: RECIPES.get(label, RECIPES["other"]) for label in cells}
    return summarise(recipes, cells, main=Scores.main, reference="lora_both")


def test_the_rate_is_chosen_by_held_out_loss_and_not_by_what_is_reported():
    found = summary_of(lora_both=cells_of(by_rate(0.9, 0.5, 0.7), by_rate(3.0, 1.0, 2.0)))
    (one,) = found.recipes
    assert one.best_rate == found.shared_rate == 0.01
    assert one.score.mean == pytest.approx(0.5)
    assert one.others == {"knn_accuracy": pytest.approx(0.25)}
    assert [point.held_out_rank for point in one.curve] == [3, 1, 2]


def test_losses_are_compared_within_a_task_and_seed_alone():
    """A task with large losses does not rule: three of four cells prefer the first rate, by little."""
    small = by_rate(0.10, 0.11, 0.12)
    large = by_rate(90.0, 1.0, 2.0)
    loss = lambda task, rate, seed: (large if (task, seed) == ("a", 0) else small)(task, rate, seed)  # noqa: E731
    cells = cells_of(by_rate(0.5, 0.5, 0.5), loss)
    assert cells.best_rate() == 0.001
    means = [np.mean([cells.cells[t, rate, s].held_out_loss for t in TASKS for s in SEEDS]) for rate in RATES]
    assert RATES[int(np.argmin(means))] != 0.001, "a mean of losses would choose another"


def test_equal_losses_share_a_place_and_the_lowest_rate_wins():
    cells = cells_of(by_rate(0.5, 0.5, 0.5), by_rate(1.0, 1.0, 2.0))
    assert list(cells.held_out_ranks().values()) == [1.5, 1.5, 3]
    assert cells.best_rate() == 0.001


def test_both_orders_and_the_paired_difference():
    plain = cells_of(by_rate(0.5, 0.8, 0.6), by_rate(3.0, 1.0, 2.0))
    other = cells_of(by_rate(0.85, 0.7, 0.1), by_rate(1.0, 2.0, 3.0))
    found = summary_of(lora_both=plain, other=other)
    assert found.by_best == ("other", "lora_both")
    assert found.by_shared == ("lora_both", "other")
    assert found.swapped() == (1, 1)
    first, second = found.recipes
    assert (first.above_reference.mean, first.above_reference.low, first.above_reference.high) == (0, 0, 0)
    assert second.above_reference.mean == pytest.approx(0.05)
    assert second.at_shared.mean == pytest.approx(0.7)
    assert (first.is_at_edge, second.is_at_edge) == (False, True)


def test_the_interval_is_over_tasks_and_seeds():
    spread = {("a", 0): 0.2, ("a", 1): 0.3, ("b", 0): 0.8, ("b", 1): 0.9}
    cells = cells_of(lambda task, _rate, seed: spread[task, seed], by_rate(1.0, 2.0, 3.0))
    (one,) = summary_of(lora_both=cells).recipes
    assert one.score.mean == pytest.approx(0.55)
    assert one.score.low == pytest.approx(0.2, abs=0.06)
    assert one.score.high == pytest.approx(0.9, abs=0.06)
    assert one.by_task == {"a": pytest.approx(0.25), "b": pytest.approx(0.85)}


def test_sensitivity_is_over_a_decade_around_the_rate():
    curve = dict(zip((0.001, 0.01, 0.1), (0.2, 0.6, 0.5), strict=True))
    change, is_partial = sensitivity_of(curve, 0.01)
    assert change == pytest.approx(0.2), "half a decade below 0.01 the straight line stands at 0.4"
    assert not is_partial
    change, is_partial = sensitivity_of(curve, 0.1)
    assert change == pytest.approx(0.05)
    assert is_partial, "nothing is known above 0.1"
    fine = dict(zip(np.logspace(-3, -1, 5).tolist(), (0.1, 0.9, 0.6, 0.3, 0.8), strict=True))
    assert sensitivity_of(fine, list(fine)[2]) == (pytest.approx(0.6), False)
    assert sensitivity_of(curve | {0.001: None}, 0.01) == (None, False)
    assert sensitivity_of(curve | {0.001: None}, 0.1)[0] == pytest.approx(0.05)


def test_a_rate_at_which_a_training_diverged_is_not_the_best_and_counts_as_zero():
    def accuracy(task, rate, _seed):
        return None if (task, rate) == ("a", 0.1) else 0.8

    cells = cells_of(accuracy, lambda task, rate, _seed: None if (task, rate) == ("a", 0.1) else 1 / rate)
    (one,) = summary_of(lora_both=cells).recipes
    assert one.best_rate == 0.01
    assert one.curve[2].diverged == 2
    assert one.curve[2].score == pytest.approx(0.4)
    assert one.sensitivity == pytest.approx(0.2)


def test_a_recipe_that_always_diverges_is_told_and_has_no_place():
    gone = cells_of(by_rate(None, None, None), by_rate(None, None, None))
    found = summary_of(lora_both=cells_of(by_rate(0.5, 0.8, 0.6), by_rate(3.0, 1.0, 2.0)), gone=gone)
    assert found.by_best == ("lora_both",)
    assert found.recipes[1].best_rate is None
    settings = dict(base="b", tasks="t", ids=TASKS, recipes=["lora_both"], learning_rates=RATES, out="o")
    text = markdown(RecipeBenchConfig.model_validate(settings), found, list(gone.cells.values()))
    assert "* gone: trainings diverged, 4 at 0.001, 4 at 0.01, 4 at 0.1; it has no rate without" in text


def test_scores_that_are_better_the_lower_they_are_stand_with_a_minus():
    plain = cells_of(by_rate(0.5, 0.8, 0.6), by_rate(1.0, 2.0, 3.0))
    language = {
        key: one.model_copy(update={"scores": LanguageScores(perplexity=2.0, bits_per_byte=1.0 + key[1])})
        for key, one in plain.cells.items()
    }
    cells = RecipeCells(language, TASKS, RATES, SEEDS)
    found = summarise(
        {"lora_both": RECIPES["lora_both"]}, {"lora_both": cells}, main=LanguageScores.main, reference="lora_both"
    )
    assert [point.score for point in found.recipes[0].curve] == pytest.approx([-1.001, -1.01, -1.1])
    key = next(key for key in language if key[1] == 0.1)
    lost = RecipeCells(language | {key: language[key].model_copy(update={"scores": None})}, TASKS, RATES, SEEDS)
    assert lost.table(0.1, "bits_per_byte") is None, "bits have no worst value to stand for a training that diverged"
