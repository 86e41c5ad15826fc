"""Classes of unlabelled texts: what the three opinions add, what is kept, and what pulls classes to their sizes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from loragen.adaptation import pseudo_labels as module
from loragen.adaptation.pseudo_labels import PseudoLabels, pseudo_labels
from loragen.bases.tokenised import Readout


def clustered(counts, *, spread=0.4, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit embeddings around one centre a class, and the classes."""
    rng = torch.Generator().manual_seed(seed)
    targets = torch.cat([torch.full((count,), each) for each, count in enumerate(counts)])
    centres = F.normalize(torch.randn(len(counts), 16, generator=rng), dim=1)
    return F.normalize(centres[targets] + spread * torch.randn(len(targets), 16, generator=rng) / 4, dim=1), targets


def heard(targets, *, right=0.6, seed=1, strength=2.0) -> torch.Tensor:
    """Logits that name the right class for a share of the texts, and any class for the others."""
    rng = torch.Generator().manual_seed(seed)
    classes = int(targets.max()) + 1
    wrong = torch.randint(classes, targets.shape, generator=rng)
    named = torch.where(torch.rand(targets.shape, generator=rng) < right, targets, wrong)
    return strength * F.one_hot(named, classes) + 0.5 * torch.randn(len(targets), classes, generator=rng)


def right(guess: PseudoLabels, targets) -> float:
    return float((guess.classes == targets).double().mean())


def test_texts_that_lie_together_correct_an_adapter_that_is_often_wrong():
    texts, targets = clustered([60, 60, 60])
    logits = heard(targets)
    alone = float((logits.argmax(1) == targets).double().mean())
    guess = pseudo_labels(Readout(texts, logits, torch.zeros_like(targets)))
    assert alone < 0.8
    assert right(guess, targets) > 0.95
    assert guess.agreement == pytest.approx(float((guess.classes == logits.argmax(1)).double().mean()))


def test_targets_are_not_looked_at():
    texts, targets = clustered([30, 30])
    logits = heard(targets)
    one, other = (pseudo_labels(Readout(texts, logits, t)) for t in (targets, 1 - targets))
    assert torch.equal(one.probabilities, other.probabilities)


def test_small_classes_stay_small():
    texts, targets = clustered([150, 12, 12])
    guess = pseudo_labels(Readout(texts, heard(targets, right=0.8), targets))
    assert torch.bincount(guess.classes, minlength=3).tolist() == pytest.approx([150, 12, 12], abs=10)


def test_sure_words_are_not_talked_over_where_texts_lie_anyhow():
    rng = torch.Generator().manual_seed(0)
    texts, targets = F.normalize(torch.randn(200, 16, generator=rng), dim=1), torch.arange(200) % 2
    guess = pseudo_labels(Readout(texts, 8.0 * F.one_hot(targets, 2), targets))
    assert right(guess, targets) > 0.97


def test_known_classes_are_kept_and_pull_their_neighbours():
    texts, targets = clustered([40, 40])
    logits = torch.zeros(80, 2)  # an adapter that cannot tell the classes apart
    known = torch.full((80,), -1)
    known[[0, 1, 2, 3, 40, 41, 42, 43, 44, 45]] = torch.tensor([0] * 4 + [1] * 6)
    plain, told = (pseudo_labels(Readout(texts, logits, targets), known=each) for each in (None, known))
    assert right(plain, targets) == 0.5
    assert torch.equal(told.classes[known >= 0], known[known >= 0])
    assert right(told, targets) > 0.9


@settings(deadline=None, max_examples=15)
@given(st.lists(st.floats(0.05, 1.0), min_size=2, max_size=5), st.integers(0, 5))
def test_shares_that_the_user_gives_are_the_shares_of_the_probabilities(parts, seed):
    shares = torch.tensor(parts) / sum(parts)
    rng = torch.Generator().manual_seed(seed)
    texts, logits = F.normalize(torch.randn(60, 8, generator=rng), dim=1), torch.randn(60, len(parts), generator=rng)
    guess = pseudo_labels(Readout(texts, logits, torch.zeros(60)), shares=shares)
    torch.testing.assert_close(guess.probabilities.mean(0), shares, atol=5e-3, rtol=0)
    torch.testing.assert_close(guess.probabilities.sum(1), torch.ones(60))


def test_neighbours_are_the_same_in_parts_as_at_once(monkeypatch):
    texts, targets = clustered([50, 50, 50])
    own = heard(targets).softmax(1).double()
    texts = texts.double()
    nearest = (texts @ texts.T).topk(9, dim=1).indices  # a twentieth of the texts, and each itself
    monkeypatch.setattr(module, "_ROWS", 16)
    torch.testing.assert_close(module.of_neighbours(texts, own), own[nearest].mean(1))


@pytest.mark.parametrize("number", [1, 2, 5])
def test_few_texts_are_no_trouble(number):
    texts, _ = clustered([number])
    guess = pseudo_labels(Readout(texts, torch.randn(number, 3), torch.zeros(number)))
    assert guess.probabilities.shape == (number, 3)
    assert bool(guess.probabilities.isfinite().all())


def test_the_surest_are_the_same_share_of_every_class_and_one_at_least():
    confidence = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.95, 0.55])
    probabilities = torch.stack([confidence, 1 - confidence], 1)
    probabilities[5] = probabilities[5].flip(0)
    guess = PseudoLabels(probabilities, torch.zeros(6))
    assert guess.surest(0.4) == [0, 4, 5]
    assert guess.surest(1.0) == [0, 1, 2, 3, 4, 5]
    assert guess.surest(1e-6) == [4, 5]
