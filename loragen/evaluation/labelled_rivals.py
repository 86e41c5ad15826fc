"""Classifiers over the bare base's embeddings, fitted to the labels themselves: what labels give without an adapter."""

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from loragen.recipes.embedding_classifiers import CENTROID, LOGISTIC, fitted_on

FOLDS = 5
"""Most parts of a cross-validation; there are fewer where a class has fewer texts."""


def cross_validated(embeddings: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Predictions for each text by classifiers that have seen the labels of the other parts alone, by method.

    Both methods (`fitted_on`) see the same stratified parts, as many as the smallest class has texts and at most five.

    Args:
        embeddings: unit vectors, (n, d).
        targets: classes, (n,); at least two texts of each class that occurs.
    """
    from sklearn.model_selection import StratifiedKFold

    labels = targets.numpy()
    number = min(FOLDS, *Counter(targets.tolist()).values())
    predicted = {method: torch.empty_like(targets) for method in (CENTROID, LOGISTIC)}
    parts = StratifiedKFold(number, shuffle=True, random_state=0)
    for train, test in parts.split(np.zeros(len(labels)), labels):
        for method, found in fitted_on(embeddings[train], targets[train], embeddings[test]).items():
            predicted[method][test] = found
    return predicted


def classes_of_one(targets: Tensor) -> list[int]:
    """Classes that a single text has, which make a cross-validation impossible."""
    return [found for found, count in sorted(Counter(targets.tolist()).items()) if count == 1]
