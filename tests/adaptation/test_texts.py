"""Unlabelled texts: which are kept, which numbers are refused, and what is remarked."""

import pytest
import torch

from loragen.adaptation import texts as module
from loragen.adaptation.texts import checked_shares, distinct_texts
from loragen.errors import ConfigError, TaskError
from loragen.tasks.examples import Examples


def kept(*texts, **parts):
    return distinct_texts(Examples(texts, **parts), "notes.txt", rng=torch.Generator().manual_seed(0))


def numbered(number):
    return [f"text {at}" for at in range(number)]


def test_the_first_of_equal_texts_is_kept_in_its_place_and_blanks_are_left_out():
    found = kept(*numbered(60), "text 3", " ", "text 59", "last")
    assert found.texts == (*numbered(60), "last")
    assert found.notes == ()


def test_pairs_tell_equal_texts_apart():
    found = kept(*["same"] * 30, pairs=tuple(numbered(30)))
    assert found.pairs == tuple(numbered(30))


def test_labels_are_left_aside_and_said_so():
    found = kept(*numbered(60), labels=(0, 1) * 30, label_names=("a", "b"))
    assert found.labels is None
    assert "not looked at" in found.notes[0]
    assert "--examples" in found.notes[0]


def test_too_few_different_texts_are_refused_with_their_number():
    with pytest.raises(TaskError, match=r"notes\.txt holds 19 different texts; at least 20"):
        kept(*numbered(19), *numbered(19))


def test_few_are_remarked_upon_and_many_are_drawn_from(monkeypatch):
    assert "50 or more are better" in kept(*numbered(20)).notes[0]
    monkeypatch.setattr(module, "MOST", 30)
    monkeypatch.setattr(module, "FEW", 25)
    found = kept(*numbered(100))
    assert len(found) == 30 == len(set(found.texts))
    assert found.texts != tuple(numbered(30))
    assert list(found.texts) == sorted(found.texts, key=numbered(100).index)
    assert "Of the 100 texts of notes.txt, 30" in found.notes[0]


def test_shares_are_made_to_sum_to_one():
    assert checked_shares([3, 1], ["a", "b"]) == (0.75, 0.25)
    assert checked_shares(None, ["a", "b"]) is None


@pytest.mark.parametrize("shares", [[1.0], [1, 2, 3], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_shares_that_fit_no_classes_are_refused(shares):
    with pytest.raises(ConfigError, match="one above 0 for each of the 2 labels"):
        checked_shares(shares, ["a", "b"])
