"""Classifiers of the same examples as a fit, out of fold, and what is said of them."""

import pytest
import torch

from loragen.recipes import few_shot_rivals
from loragen.recipes.embedding_classifiers import CENTROID, LOGISTIC, fitted_on
from loragen.recipes.few_shot import FewShotRecipe
from loragen.recipes.few_shot_choice import choose_fit
from loragen.recipes.few_shot_rivals import RivalScore, rival_note, rival_scores
from loragen.tasks.task_set import TaskSet
from loragen.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(toys):
    return Zoo.open(toys / "zoo")


@pytest.fixture(scope="module")
def base(zoo):
    return zoo.load_base()


@pytest.fixture(scope="module")
def data(toys, base):
    task = TaskSet.from_yaml(toys / "tasks.yaml")["plates"]
    return base.prepare(task.load_train().few(8, rng=torch.Generator().manual_seed(0)), max_length=32)


def test_each_fold_is_classified_by_the_embeddings_of_its_own_adapter(zoo, base, data, monkeypatch):
    """What the classifiers are told is never of the fold that they are asked about."""
    halves = ([*range(0, 16, 2)], [*range(1, 16, 2)])
    adapters = [zoo.adapter("drinks"), zoo.adapter("meals")]
    told = []

    def kept(embeddings, targets, queries):
        told.append((embeddings, queries))
        return fitted_on(embeddings, targets, queries)

    monkeypatch.setattr(few_shot_rivals, "fitted_on", kept)
    found = rival_scores(
        data, base, [(*halves, adapters[0]), (*halves[::-1], adapters[1])], torch.ones(16, dtype=torch.bool)
    )
    assert [(one.method, one.over) for one in found] == [
        (method, over) for over in ("base", "adapter") for method in (CENTROID, LOGISTIC)
    ]
    bare, first, second = (base.read(data, adapter).texts for adapter in (None, *adapters))
    for (embeddings, queries), texts, train in zip(
        told, (bare, first, bare, second), (*[halves[0]] * 2, *[halves[1]] * 2), strict=True
    ):
        asked = [index for index in range(16) if index not in train]
        torch.testing.assert_close(embeddings, texts[train])
        torch.testing.assert_close(queries, texts[asked])


def test_scores_are_shares_of_held_out_examples_with_an_error_of_the_difference(base, data, zoo, monkeypatch):
    monkeypatch.setattr(
        few_shot_rivals, "fitted_on", lambda _e, targets, queries: {"x": torch.zeros(len(queries)).long()}
    )
    right = data.targets == 0
    folds = [([0], [*range(16)], zoo.adapter("drinks"))]
    one = rival_scores(data, base, folds, right)[0]
    assert (one.accuracy, one.error) == (0.5, 0.0), "right and wrong on the same examples"
    other = rival_scores(data, base, folds, ~right)[0]
    assert other.error == pytest.approx(torch.tensor([1.0, -1.0] * 8).std().item() / 4, abs=1e-4)


def test_a_choice_holds_the_rivals_of_its_examples(zoo, base, data):
    choice = choose_fit(zoo.adapter("drinks"), data, base, FewShotRecipe(steps=3, window=2))
    assert len(choice.rivals) == 4
    assert choice == type(choice).model_validate(choice.model_dump(mode="json"))


# --- the remark ---


def rival(accuracy, error=0.05, **changes):
    return RivalScore(**{"method": LOGISTIC, "over": "adapter", "accuracy": accuracy, "error": error} | changes)


def test_the_best_classifier_is_named_with_both_scores_and_its_use():
    note = rival_note([rival(0.8), rival(0.84), rival(0.7, method=CENTROID, over="base")], 0.76)
    assert "a logistic regression over the adapted embeddings was right on 0.84" in note
    assert "label texts 0.76" in note
    assert "sentence_transformer().encode" in note
    assert "without the adapter" in rival_note([rival(0.84, method=CENTROID, over="base")], 0.76)


@pytest.mark.parametrize("rivals", [[], [rival(0.84, error=0.1)], [rival(0.76, error=0.0)], [rival(0.5)]])
def test_nothing_is_said_of_a_lead_within_its_error(rivals):
    assert rival_note(rivals, 0.76) is None
