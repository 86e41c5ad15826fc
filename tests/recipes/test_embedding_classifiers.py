import pytest
import torch
import torch.nn.functional as F

from loragen.recipes.embedding_classifiers import CENTROID, LOGISTIC, fitted_on, logistic_regression


def blobs(targets, *, spread, seed):
    """Unit embeddings around one axis a class."""
    noise = torch.randn(len(targets), 16, generator=torch.Generator().manual_seed(seed))
    return F.normalize(torch.eye(16)[targets] + spread * noise, dim=1)


@pytest.mark.parametrize("method", [CENTROID, LOGISTIC])
def test_queries_get_the_class_that_they_lie_with(method):
    told, asked = torch.tensor([2, 0, 5] * 4), torch.tensor([5, 5, 0, 2])
    found = fitted_on(blobs(told, spread=0.05, seed=0), told, blobs(asked, spread=0.05, seed=1))
    assert torch.equal(found[method], asked)


def test_the_scale_says_how_closely_the_regression_follows_its_examples():
    """A single odd text among many: regularised, it is outvoted; on large embeddings it is learnt."""
    told = torch.tensor([0] * 6 + [1] * 6)
    embeddings = blobs(told, spread=0.05, seed=0)
    embeddings[0] = F.normalize(embeddings[6] + 0.3 * torch.eye(16)[7], dim=0)
    assert logistic_regression(embeddings, told, embeddings[:1], scale=1.0).item() == 1
    assert logistic_regression(embeddings, told, embeddings[:1], scale=100.0).item() == 0
