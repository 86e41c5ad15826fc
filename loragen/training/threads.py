"""The number of processor threads for training over a small base, and for what must be the same on any number."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

SMALL_BASE = 50_000_000
"""Bases with fewer parameters are small."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread while the block runs; the number before is restored afterwards.

    One thread adds in one order, which gives the same bytes whatever number of cores a machine has.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def few_threads(base_parameters: int) -> Iterator[None]:
    """Compute with one thread while the block runs, if the base is small; the number before is restored afterwards.

    The matrices of a small base are finished so soon that OpenMP threads cost more, waiting for one another, than they
    give; most of all on a busy machine, where one of them is always late.
    """
    with one_thread() if base_parameters < SMALL_BASE else nullcontext():
        yield
