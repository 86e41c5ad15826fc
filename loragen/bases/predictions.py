"""What a language model predicts of completions: logits, and the tokens that they are compared with."""

from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor


@final
@dataclass(frozen=True)
class Predictions:
    """Of the completions of one batch, n rows."""

    logits: Tensor
    """(n, places, vocabulary)"""
    tokens: Tensor
    """The completions' own, (n, places)."""
    counted: Tensor
    """Which places are those of a completion, bool (n, places)."""

    @property
    def losses(self) -> Tensor:
        """Negative log-likelihood of each completion in nats, float32 (n,)."""
        losses = F.cross_entropy(self.logits.float().transpose(1, 2), self.tokens, reduction="none")
        return (losses * self.counted).sum(1)

    @property
    def counts(self) -> Tensor:
        """Tokens of each completion, (n,)."""
        return self.counted.sum(1)

    @property
    def likeliest(self) -> Tensor:
        """Which completions are the likeliest token by token, as decoding without chance writes them, bool (n,)."""
        return ((self.logits.argmax(2) == self.tokens) | ~self.counted).all(1)
