"""Losses of unit embeddings: cross-entropy to label texts, contrast within a batch, contrast between two modalities."""

import torch
import torch.nn.functional as F
from torch import Tensor

LOGIT_SCALE = 20.0
"""Cosine similarities are multiplied by this before a softmax, as sentence-transformers' ranking losses do."""


def label_text_loss(texts: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of 20 · cosine between texts (n, d) and label texts (c, d), both unit; targets (n,)."""
    return F.cross_entropy(LOGIT_SCALE * texts @ labels.T, targets)


def contrast_loss(texts: Tensor, targets: Tensor) -> Tensor:
    """Supervised contrast among the texts of a batch (Khosla et al. 2020, L_out), at temperature 1 / 20.

    Texts without a second example of their class in the batch do not count; a batch of such texts alone gives zero.
    """
    n = len(texts)
    itself = torch.eye(n, dtype=torch.bool, device=texts.device)
    log_p = F.log_softmax((LOGIT_SCALE * texts @ texts.T).masked_fill(itself, float("-inf")), dim=1)
    positive = (targets[:, None] == targets[None, :]) & ~itself
    counts = positive.sum(1)
    losses = -log_p.masked_fill(~positive, 0.0).sum(1)[counts > 0] / counts[counts > 0]
    return losses.mean() if len(losses) else texts.sum() * 0.0


def pairing_loss(ones: Tensor, others: Tensor, *, scale: Tensor | float) -> Tensor:
    """Symmetric cross-entropy of scale · cosine between unit vectors (n, d) and (n, d) (Radford et al. 2021, CLIP)."""
    logits = scale * ones @ others.T
    targets = torch.arange(len(ones), device=ones.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
