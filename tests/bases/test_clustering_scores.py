import pytest
import torch
from sklearn.metrics import v_measure_score

from loragen.bases.scores import scores_of, v_measure
from loragen.bases.tokenised import Readout


def blobs(*centres, size=6):
    """Texts around unit vectors of a small space, a blob each."""
    rng = torch.Generator().manual_seed(0)
    texts = torch.eye(4)[list(centres)].repeat_interleave(size, 0)
    return torch.nn.functional.normalize(texts + 0.02 * torch.randn(texts.shape, generator=rng), dim=1)


def test_v_measure_of_clusters_that_are_the_classes_is_one():
    targets = torch.tensor([2, 0, 1]).repeat_interleave(6)
    assert v_measure(blobs(0, 1, 2), targets) == pytest.approx(1)
    assert v_measure(blobs(0, 1, 2), 2 - targets) == pytest.approx(1), "whatever their numbers"


def test_v_measure_of_merged_and_split_classes_is_that_of_sklearn():
    """Classes 0 and 1 share a blob and class 2 has two, where three clusters are found."""
    targets = torch.tensor([0, 1, 2, 2]).repeat_interleave(6)
    texts, found = blobs(0, 0, 1, 2), [0] * 12 + [1] * 6 + [2] * 6
    wanted = v_measure_score(targets.numpy(), found)
    assert 0 < wanted < 1
    assert v_measure(texts, targets) == pytest.approx(wanted)


def test_v_measure_of_classes_that_lie_across_the_clusters_is_nothing():
    targets = torch.tensor([0, 1] * 6)
    assert v_measure(blobs(0, 1), targets) == pytest.approx(0, abs=1e-6)


def test_clustering_is_scored_where_it_is_asked_for():
    targets = torch.tensor([0, 1, 2]).repeat_interleave(6)
    texts = blobs(0, 1, 2)
    readout = Readout(texts, texts @ torch.eye(4)[:3].T, targets)
    assert scores_of(readout).v_measure is None
    assert scores_of(readout, clustering=True) == scores_of(readout).model_copy(update={"v_measure": 1.0})
