"""What the sites of a base read in training, which some initialisations start from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from loragen.bases.tokenised import TaskData
from loragen.recipes.setting import Setting


@final
@dataclass(frozen=True, eq=False)
class _Recorder:
    """An update of zero that keeps the inputs of its site."""

    out_features: int
    in_features: int
    rows: list[Tensor] = field(default_factory=list)

    def __call__(self, x: Tensor) -> Tensor:
        self.rows.append(x.detach().reshape(-1, self.in_features).float())
        return x.new_zeros(*x.shape[:-1], self.out_features)


@torch.no_grad()
def site_inputs(setting: Setting, batches: int) -> list[list[dict[str, Tensor]]]:
    """Of the first batches of the training, a list each, every example's inputs: site → a row a token (tokens, in).

    Each example is read by itself, with the text that it is to give (its label's, or its own), so that there is no
    padding among the rows. They are float32, on the base's device, and all kept: batches · batch size · tokens rows a
    site.
    """
    return [[_inputs(setting, example) for example in _examples(batch)] for batch in setting.steps[:batches]]


def pooled(examples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The inputs of several examples as one matrix a site."""
    return {site: torch.cat([example[site] for example in examples]) for site in examples[0]}


def _inputs(setting: Setting, example: TaskData) -> dict[str, Tensor]:
    start = setting.start
    recorders = {site: _Recorder(len(b), start.lora_A[site].shape[1]) for site, b in start.lora_B.items()}
    with setting.base.using(recorders):
        setting.base.losses(example.to(setting.base.device), contrast_weight=0.0)
    return {site: torch.cat(recorder.rows) for site, recorder in recorders.items()}


def _examples(batch: TaskData) -> list[TaskData]:
    outputs = batch.own_outputs()
    if batch.is_open:
        return [TaskData.open((row,), (output,)) for row, output in zip(batch.ids, outputs, strict=True)]
    return [TaskData((row,), torch.zeros(1, dtype=torch.long), (o,)) for row, o in zip(batch.ids, outputs, strict=True)]
