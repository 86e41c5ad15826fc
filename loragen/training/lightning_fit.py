"""The one module that imports Lightning: plain modules and values go in, plain tensors come out."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins import CheckpointIO
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from loragen.files import sync
from loragen.training.objective import Batch, Objective, OptimizerOf
from loragen.training.schedule import Schedule, warmup_cosine

_STATE, _BEFORE = "state.ckpt", "before.ckpt"
"""State after the last epoch, and after the one before it, for when the last could not be written whole."""


class _Module(L.LightningModule):
    def __init__(self, objective: Objective, schedule: Schedule, optimizer: OptimizerOf | None) -> None:
        super().__init__()
        self.objective = objective
        self.schedule = schedule
        self.optimizer_of = optimizer or self._adamw
        self.history: list[dict[str, float]] = []

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        losses = self.objective.loss(batch)
        self.history.append({name: float(value.detach()) for name, value in losses.items()})
        return losses["loss"]

    def _adamw(self, learning_rate: float) -> Optimizer:
        trained = [p for p in self.objective.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=learning_rate, weight_decay=self.schedule.weight_decay)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optimizer_of(self.schedule.learning_rate)
        factor = warmup_cosine(self.schedule.steps, self.schedule.warmup_fraction)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]


class _Epochs(L.LightningDataModule):
    """Serves ``batches(epoch)``: batches follow from the number of the epoch, so that a resumed run sees the same."""

    def __init__(self, batches: Callable[[int], Sequence[Batch]]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Steps(self.batches(self.trainer.current_epoch)), batch_size=None)


class _Steps(Dataset[Any]):
    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]


class _Calls(Callback):
    def __init__(
        self, seed: int, on_step: Callable[[int], None] | None, on_epoch: Callable[[int], None] | None
    ) -> None:
        self.seed = seed
        self.on_step = on_step
        self.on_epoch = on_epoch

    def on_train_batch_start(
        self, trainer: L.Trainer, _module: L.LightningModule, _batch: Batch, batch_idx: int
    ) -> None:
        # One seed an epoch: a run that is resumed draws what an uninterrupted one would have drawn. Set at the first
        # batch, since a loader draws a number of its own, and in a resumed run it does so after the epoch's start.
        if batch_idx == 0:
            torch.manual_seed(self.seed + trainer.current_epoch)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.on_step is not None:
            self.on_step(trainer.global_step)

    def on_train_epoch_end(self, trainer: L.Trainer, _module: L.LightningModule) -> None:
        if self.on_epoch is not None:
            self.on_epoch(trainer.current_epoch + 1)


class _PlainFiles(CheckpointIO):
    """Writes a state where it is to be; Lightning's own writer goes through the folder of temporary files.

    That may be full, or on another disk, and keeps the states of runs that were killed.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        path.write_bytes(buffer.getbuffer())

    def load_checkpoint(self, path: str, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def remove_checkpoint(self, path: Path) -> None:
        path.unlink(missing_ok=True)


class _Checkpoints(Checkpoint):
    """Keeps the state after every epoch, whole or not at all, and the state before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: L.Trainer, _module: L.LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial, state = self.folder / f".{_STATE}.partial", self.folder / _STATE
        try:
            trainer.save_checkpoint(partial)
            sync(partial)
            if state.exists():
                state.replace(self.folder / _BEFORE)
            partial.replace(state)
        finally:
            partial.unlink(missing_ok=True)


def _readable_state(folder: Path) -> str | None:
    """The newest state that can be read; `None` where there is none, and a training begins anew."""
    for path in (folder / _STATE, folder / _BEFORE):
        with suppress(OSError, RuntimeError, EOFError, ValueError, UnpicklingError):  # cut off, or not there
            torch.load(path, map_location="cpu", weights_only=True)
            return str(path)
    return None


def fit(
    objective: Objective,
    batches: Callable[[int], Sequence[Batch]],
    schedule: Schedule,
    *,
    seed: int,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
    on_epoch: Callable[[int], None] | None = None,
    epochs: int | None = None,
    optimizer: OptimizerOf | None = None,
) -> list[dict[str, float]]:
    """Train an objective in place and return its losses, a row a step.

    Args:
        objective: a module with a ``loss(batch)`` that returns tensors by name; ``loss`` is minimised.
        batches: epoch number → the batches of that epoch, ``schedule.steps_per_epoch`` of them.
        schedule: length and optimiser settings.
        seed: seeds the sampling inside the objective for this run alone; the caller's random state is left as it was.
        checkpoints: where the state is kept after every epoch; a run finds it there and goes on.
        on_step: called with the number of steps done.
        on_epoch: called with the number of epochs done.
        epochs: end after this many, on the way of the longer schedule.
        optimizer: from the schedule's learning rate to the optimiser; by default AdamW over all that is trained.
    """
    callbacks: list[Callback] = [_Calls(seed, on_step, on_epoch)]
    if checkpoints is not None:
        callbacks.append(_Checkpoints(checkpoints))
    with _quiet_lightning(), torch.random.fork_rng(devices=[]):
        trainer = L.Trainer(
            accelerator="auto",
            devices=1,
            max_epochs=schedule.epochs if epochs is None else epochs,
            gradient_clip_val=schedule.clip_norm,
            callbacks=callbacks,
            enable_checkpointing=checkpoints is not None,
            plugins=[_PlainFiles()],
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            reload_dataloaders_every_n_epochs=1,
        )
        module = _Module(objective, schedule, optimizer)
        resume = _readable_state(checkpoints) if checkpoints is not None else None
        with _plain_interrupt():
            trainer.fit(module, datamodule=_Epochs(batches), ckpt_path=resume, weights_only=True if resume else None)
    return module.history


@contextmanager
def _plain_interrupt() -> Iterator[None]:
    """Raise Ctrl-C as KeyboardInterrupt; Lightning turns it into an exit of the whole process."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


@contextmanager
def _quiet_lightning() -> Iterator[None]:
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
