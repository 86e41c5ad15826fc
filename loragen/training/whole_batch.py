"""Layers that look at a whole batch or draw for it, where its rows are divided among processes.

Batch normalisation takes its mean and variance over the rows of all ranks, as torch's SyncBatchNorm does, which knows
GPUs only; dropout draws for all rows and keeps its own. The layers of a network are put back when the training ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from loragen.training.ranks import this_rank


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks; so is its gradient, since each rank's loss depends on it."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _summed(values: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(values)  # type: ignore[no-untyped-call]
    return total


@final
class WholeBatchNorm(nn.Module):
    """Batch normalisation of (b, c) or (b, c, length) over the rows of all ranks, each of which has as many."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum
        # The same dictionaries: wherever parameters and buffers are moved, the layer that is put back has them.
        self.__dict__["_parameters"], self.__dict__["_buffers"] = norm._parameters, norm._buffers

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; in training the running mean and variance are brought up to date."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        places = [dim for dim in range(x.ndim) if dim != 1]
        count = x.numel() // x.shape[1] * this_rank().world
        values = x.float()
        mean = _summed(values.sum(places)) / count
        shape = [1, -1] + [1] * (x.ndim - 2)
        centred = values - mean.view(shape)
        variance = _summed(centred.square().sum(places)) / count
        self._remember(mean.detach(), variance.detach() * count / max(count - 1, 1))
        scaled = centred * (variance + self.eps).rsqrt().view(shape)
        return (scaled * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


@final
class WholeBatchDropout(nn.Module):
    """Dropout that drops in the rows (b, …) of this rank what one process would drop there; a vector is no row."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop in training, and scale what is kept."""
        if not self.training or self.p == 0 or x.ndim == 1:
            return F.dropout(x, self.p, self.training)
        rank = this_rank()
        whole = len(x) * rank.world
        kept = torch.empty(whole, *x.shape[1:], dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * kept.div_(1 - self.p)[rank.rows(whole)]


@contextmanager
def of_whole_batches(network: nn.Module) -> Iterator[None]:
    """Put the layers of this module in the place of torch's while the block runs; nothing is done in one process."""
    if this_rank().world == 1:
        yield
        return
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.BatchNorm1d | nn.Dropout)
    ]
    for parent, name, child in places:
        other = WholeBatchNorm(child) if isinstance(child, nn.BatchNorm1d) else WholeBatchDropout(child.p)
        setattr(parent, name, other.train(child.training))
    try:
        yield
    finally:
        for parent, name, child in places:
            setattr(parent, name, child.train(getattr(parent, name).training))
