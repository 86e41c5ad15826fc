"""Plain classifiers over embeddings, fitted to labels: the nearest centroid and a logistic regression."""

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.bases.losses import LOGIT_SCALE

CENTROID, LOGISTIC = "centroid of labelled examples", "logistic regression"


def fitted_on(embeddings: Tensor, targets: Tensor, queries: Tensor) -> dict[str, Tensor]:
    """Classes of queries (m,) by classifiers that are fitted to labelled embeddings, by name.

    The centroid method takes the class whose mean embedding is nearest by cosine. The logistic regression is
    scikit-learn's with its default C = 1, on unit embeddings times 20, the scale of the base's own cosines to label
    texts.

    Args:
        embeddings: unit vectors, (n, d).
        targets: their classes, (n,), of at least two.
        queries: unit vectors, (m, d).
    """
    return {
        CENTROID: nearest_centroid(embeddings, targets, queries),
        LOGISTIC: logistic_regression(embeddings, targets, queries),
    }


def nearest_centroid(embeddings: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
    """The class whose mean embedding is nearest by cosine, (m,)."""
    classes = torch.tensor(sorted(set(targets.tolist())))
    means = torch.stack([embeddings[targets == one].mean(0) for one in classes])
    nearest: Tensor = classes[(queries @ F.normalize(means, dim=1).T).argmax(1)]
    return nearest


def logistic_regression(
    embeddings: Tensor, targets: Tensor, queries: Tensor, *, scale: float = LOGIT_SCALE, max_iter: int = 2_000
) -> Tensor:
    """The likeliest class by scikit-learn's logistic regression with C = 1 on embeddings times ``scale``, (m,)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=max_iter).fit(scale * embeddings.numpy(), targets.numpy())
    return torch.from_numpy(model.predict(scale * queries.numpy()))
