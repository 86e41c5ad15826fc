import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.bases.losses import contrast_loss, label_text_loss


def unit_rows(n, seed, d=4):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def naive_contrast(texts, targets):
    """L_out of Khosla et al., term by term."""
    losses = []
    for i in range(len(texts)):
        others = [j for j in range(len(texts)) if j != i]
        positives = [j for j in others if targets[j] == targets[i]]
        if positives:
            total = sum(math.exp(20 * float(texts[i] @ texts[j])) for j in others)
            terms = [-math.log(math.exp(20 * float(texts[i] @ texts[j])) / total) for j in positives]
            losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses) if losses else 0.0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 2**31))
def test_contrast_is_the_double_loop(targets, seed):
    texts = unit_rows(len(targets), seed).requires_grad_()
    loss = contrast_loss(texts, torch.tensor(targets))
    assert loss.item() == pytest.approx(naive_contrast(texts.detach().double(), targets), rel=1e-4, abs=1e-4)
    loss.backward()
    assert texts.grad.isfinite().all()


@pytest.mark.parametrize("targets", [[0], [0, 1], [2, 0, 1, 3]])
def test_no_second_example_means_no_contrast(targets):
    texts = unit_rows(len(targets), 0).requires_grad_()
    loss = contrast_loss(texts, torch.tensor(targets))
    loss.backward()
    assert loss.item() == 0
    assert not texts.grad.any()


def test_contrast_falls_as_classes_draw_together():
    targets = torch.tensor([0, 0, 1, 1])
    tight = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert float(contrast_loss(tight, targets)) < 1e-4
    assert float(contrast_loss(tight, torch.tensor([0, 1, 0, 1]))) > 10


def test_label_text_loss_is_a_cross_entropy_over_cosines():
    texts, labels, targets = unit_rows(5, 0), unit_rows(3, 1), [0, 2, 1, 1, 0]
    logits = [[20 * float(text.double() @ label.double()) for label in labels] for text in texts]
    wanted = sum(
        math.log(sum(math.exp(value) for value in row)) - row[target]
        for row, target in zip(logits, targets, strict=True)
    )
    assert float(label_text_loss(texts, labels, torch.tensor(targets))) == pytest.approx(wanted / 5, rel=1e-5)
