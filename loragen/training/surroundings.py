"""What Lightning does to the process around a training, undone: its log, its handling of Ctrl-C, what it sets."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def plain_interrupt() -> Iterator[None]:
    """Raise Ctrl-C as KeyboardInterrupt; Lightning turns it into an exit of the whole process."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning from logging and warning while the block runs."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*isinstance.*LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def same_environment() -> Iterator[None]:
    """Restore the environment's variables and the number of threads, which Lightning sets for several processes."""
    before, threads = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
