"""Gradients of a task's loss in the weights of the base, which some recipes start from."""

from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.recipes.setting import Setting


@final
@dataclass(frozen=True, eq=False)
class _DenseUpdate:
    """A whole delta weight (out, in), zero, whose gradient is that of the weight."""

    weight: Tensor = field(repr=False)

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x))


def mean_gradients(setting: Setting, batches: int) -> dict[str, Tensor]:
    """Site → mean gradient of the loss in the base's weight there, (out, in), over the first batches of the training.

    The base is as it is: no adapter is in use, and its own weights get no gradient.
    """
    device = setting.base.device
    sizes = {site: (len(b), setting.start.lora_A[site].shape[1]) for site, b in setting.start.lora_B.items()}
    weights = {site: torch.zeros(size, device=device, requires_grad=True) for site, size in sizes.items()}
    chosen = setting.steps[:batches]
    for batch in chosen:
        with setting.base.using({site: _DenseUpdate(weight) for site, weight in weights.items()}):
            loss = setting.base.losses(batch.to(device), contrast_weight=setting.recipe.contrast_weight)["loss"]
            torch.autograd.backward(loss / len(chosen))
    return {site: _gradient(weight) for site, weight in weights.items()}


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad.cpu()
