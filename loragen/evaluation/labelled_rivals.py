"""Classifiers over the bare base's embeddings, fitted to the labels themselves: what labels give without an adapter."""

from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.bases.losses import LOGIT_SCALE

CENTROID, LOGISTIC = "centroid of labelled examples", "logistic regression"
FOLDS = 5
"""Most parts of a cross-validation; there are fewer where a class has fewer texts."""


def cross_validated(embeddings: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Predictions for each text by classifiers that have seen the labels of the other parts alone, by method.

    Both methods see the same stratified parts, as many as the smallest class has texts and at most five. The centroid
    method takes the class whose mean embedding is nearest by cosine. The logistic regression is scikit-learn's with
    its default C = 1, on unit embeddings times 20, the scale of the base's own cosines to label texts.

    Args:
        embeddings: unit vectors, (n, d).
        targets: classes, (n,); at least two texts of each class that occurs.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    labels = targets.numpy()
    number = min(FOLDS, *Counter(targets.tolist()).values())
    predicted = {method: torch.empty_like(targets) for method in (CENTROID, LOGISTIC)}
    parts = StratifiedKFold(number, shuffle=True, random_state=0)
    for train, test in parts.split(np.zeros(len(labels)), labels):
        seen, classes, held_out = embeddings[train], targets[train], embeddings[test]
        predicted[CENTROID][test] = _nearest_mean(seen, classes, held_out)
        model = LogisticRegression(max_iter=2_000).fit(LOGIT_SCALE * seen.numpy(), classes.numpy())
        predicted[LOGISTIC][test] = torch.from_numpy(model.predict(LOGIT_SCALE * held_out.numpy()))
    return predicted


def classes_of_one(targets: Tensor) -> list[int]:
    """Classes that a single text has, which make a cross-validation impossible."""
    return [found for found, count in sorted(Counter(targets.tolist()).items()) if count == 1]


def _nearest_mean(embeddings: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
    classes = torch.tensor(sorted(set(targets.tolist())))
    means = torch.stack([embeddings[targets == one].mean(0) for one in classes])
    nearest: Tensor = classes[(queries @ F.normalize(means, dim=1).T).argmax(1)]
    return nearest
