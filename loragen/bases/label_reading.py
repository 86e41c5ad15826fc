"""How likely each label is after each prompt: a prompt is read once, and its labels from there."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.bases.decoder_steps import Step
from loragen.bases.tokenised import Input

PROMPTS = 32
"""Prompts that are read together; they are of like length."""
POSITIONS = 512
"""Tokens of labels that are read together, so that their logits over a vocabulary stay small."""


class StepReader(Protocol):
    """A language model that reads prompts, and then what may follow them."""

    def begin(self, prompts: Sequence[Input]) -> Step:
        """Read a batch of prompts; one logit row a prompt, and states of the prompts."""

    def follow(self, step: Step, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits after each token of rows of one length, (n, length, vocabulary); uses the step's cache up."""


@torch.inference_mode()
def read_labels(
    base: StepReader, prompts: Sequence[Input], lengths: Sequence[int], labels: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Unit embeddings of prompts, (n, hidden), and the log-likelihood of each label after each of them, (n, labels).

    Args:
        base: reads them.
        prompts: token ids.
        lengths: of the prompts; those of like length are read together.
        labels: token ids, each with at least one token.
    """
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    embeddings, likelihoods = [], []
    for start in range(0, len(order), PROMPTS):
        step = base.begin([prompts[i] for i in order[start : start + PROMPTS]])
        embeddings.append(F.normalize(step.mean, dim=-1).cpu())
        likelihoods.append(_likelihoods(base, step, labels).cpu())
    back = torch.tensor(order).argsort()
    return torch.cat(embeddings)[back], torch.cat(likelihoods)[back]


def _likelihoods(base: StepReader, step: Step, labels: Sequence[Sequence[int]]) -> Tensor:
    """Of all labels after a batch of prompts, float32 (n, labels)."""
    first = F.log_softmax(step.logits[:, -1].float(), dim=-1)
    found = first[:, [label[0] for label in labels]]
    rows = len(found)
    for size in sorted({len(label) for label in labels} - {1}):
        alike = [i for i, label in enumerate(labels) if len(label) == size]
        together = max(1, POSITIONS // (rows * (size - 1)))
        for start in range(0, len(alike), together):
            chosen = alike[start : start + together]
            said = [labels[i] for i in chosen]
            logits = base.follow(step.repeated(len(chosen)), [label[:-1] for _ in range(rows) for label in said])
            targets = torch.tensor([label[1:] for label in said], device=logits.device).repeat(rows, 1)
            rest = -F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none").sum(1)
            found[:, chosen] += rest.reshape(rows, len(chosen))
    return found
