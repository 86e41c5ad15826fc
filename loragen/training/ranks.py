"""The processes of one training: which this one is, what they agree on, and the rows of a batch that each takes.

A process's number is its rank, as everywhere in distributed training; rank 0 alone reports and writes. All ranks draw
the same random numbers, those of whole batches, and each keeps those of its own rows: a batch divided among ranks then
gives the losses that it gives in one process.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from loragen.errors import ConfigError

T = TypeVar("T")
PATIENCE = timedelta(hours=1)
"""For which ranks wait for one another: rank 0 may be judging a network on left-out tasks."""


@dataclass(frozen=True)
class Rank:
    """One of the processes of a training."""

    number: int
    world: int
    """Number of all processes."""

    @property
    def is_first(self) -> bool:
        """True for the process that reports and writes."""
        return self.number == 0

    def rows(self, whole: int) -> slice:
        """The part of this process in a number of rows.

        Raises:
            ConfigError: they cannot be divided into equal parts.
        """
        if whole % self.world:
            raise ConfigError(
                f"A batch of {whole} cannot be divided equally among {self.world} devices; choose a number of devices "
                "that divides it, or another batch_size."
            )
        size = whole // self.world
        return slice(self.number * size, (self.number + 1) * size)


@runtime_checkable
class Divisible(Protocol):
    """A batch whose rows can be divided among processes."""

    def part(self, rank: Rank) -> Self:
        """The rows of one process."""
        ...


def this_rank() -> Rank:
    """The rank of this process; the first of one where no group was joined."""
    if dist.is_available() and dist.is_initialized():
        return Rank(dist.get_rank(), dist.get_world_size())
    return Rank(0, 1)


def agreed(value: T) -> T:
    """The value that rank 0 has, on all ranks; each must call this at the same place."""
    if this_rank().world == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, src=0)
    found: T = values[0]
    return found


def begin_alike(state: Mapping[str, Tensor]) -> None:
    """Give all ranks the tensors that rank 0 has, in place, on the processor; each must call this at the same place."""
    if this_rank().world > 1:
        for value in state.values():
            dist.broadcast(value, src=0)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Values averaged over all ranks, without gradients."""
    rank = this_rank()
    if rank.world == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / rank.world


def normal_rows(like: Tensor) -> Tensor:
    """Standard normal numbers for the rows (b, …) of this process, those that one process would draw for them."""
    rank = this_rank()
    if rank.world == 1:
        return torch.randn_like(like)
    whole = len(like) * rank.world
    return torch.randn(whole, *like.shape[1:], dtype=like.dtype, device=like.device)[rank.rows(whole)]


def meeting_point(world: int, port: int | None = None) -> Any:
    """A store through which the processes of this machine find one another: one of rank 0, or that at its port."""
    return dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", port or 0, world, is_master=port is None, wait_for_workers=False, timeout=PATIENCE
    )


@contextmanager
def joined(rank: Rank | None = None, store: Any = None) -> Iterator[None]:
    """Be one of the processes of a training while the block runs.

    Args:
        rank: its rank; without one, all is read from the environment as torchrun sets it.
        store: where it finds the others (`meeting_point`).
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if rank is None:
        dist.init_process_group(backend, timeout=PATIENCE)
    else:
        dist.init_process_group(backend, store=store, rank=rank.number, world_size=rank.world, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()
