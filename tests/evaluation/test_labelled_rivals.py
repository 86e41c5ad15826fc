import pytest
import torch
import torch.nn.functional as F

from loragen.evaluation.labelled_rivals import CENTROID, LOGISTIC, classes_of_one, cross_validated


def blobs(targets, *, spread=0.02, size=16):
    """Unit embeddings around one axis a class."""
    rng = torch.Generator().manual_seed(0)
    return F.normalize(torch.eye(size)[targets] + spread * torch.randn(len(targets), size, generator=rng), dim=1)


@pytest.mark.parametrize("method", [CENTROID, LOGISTIC])
def test_classes_that_lie_apart_are_told_apart(method):
    targets = torch.tensor([2, 0, 5] * 7)  # some classes of the task do not occur
    assert torch.equal(cross_validated(blobs(targets), targets)[method], targets)


@pytest.mark.parametrize("method", [CENTROID, LOGISTIC])
def test_a_text_is_predicted_without_its_own_label(method):
    """Labels drawn at random: a classifier that had seen them would repeat them in so many dimensions."""
    rng = torch.Generator().manual_seed(1)
    targets = torch.randint(2, (60,), generator=rng)
    embeddings = F.normalize(torch.randn(60, 200, generator=rng), dim=1)
    right = (cross_validated(embeddings, targets)[method] == targets).double().mean()
    assert 0.3 < right < 0.7


def test_the_same_texts_give_the_same_predictions():
    targets = torch.tensor([0, 1, 1] * 9)
    embeddings = blobs(targets, spread=0.6)
    one, other = (cross_validated(embeddings, targets) for _ in range(2))
    assert all(torch.equal(one[method], other[method]) for method in (CENTROID, LOGISTIC))


def test_two_texts_a_class_are_enough():
    targets = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1, 1])
    assert torch.equal(cross_validated(blobs(targets), targets)[CENTROID], targets)


def test_the_centroid_is_the_mean_of_a_class_and_not_its_nearest_text():
    """The query lies next to one far text of class 1, and nearer to the mean of class 0."""
    angles = torch.tensor([0.0, 0.1, -0.1, 0.05, 2.0, 2.0, 2.0, 0.7, 0.6])
    targets = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 0])
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert cross_validated(embeddings, targets)[CENTROID][-1] == 0


def test_classes_of_a_single_text_are_named():
    assert classes_of_one(torch.tensor([3, 0, 0, 1, 2, 2])) == [1, 3]
    assert classes_of_one(torch.tensor([0, 0, 4, 4])) == []
