"""The one module that imports Lightning: plain modules and values go in, plain tensors come out."""

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from loragen.errors import ConfigError
from loragen.files import sync
from loragen.training.devices import ONE_DEVICE, Devices
from loragen.training.objective import Batch, Objective, OptimizerOf
from loragen.training.ranks import Divisible, Rank, agreed, begin_alike, mean_over_ranks, this_rank
from loragen.training.schedule import Schedule, warmup_cosine
from loragen.training.sharding import shard, whole_state
from loragen.training.surroundings import plain_interrupt, quiet_lightning, same_environment
from loragen.training.whole_batch import of_whole_batches

_STATE, _BEFORE = "state.ckpt", "before.ckpt"
"""State after the last epoch, and after the one before it, for when the last could not be written whole."""


class _Module(L.LightningModule):
    """Trains an objective, or, in parts, a copy of it."""

    def __init__(
        self, objective: Objective, schedule: Schedule, optimizer: OptimizerOf | None, *, shards: bool
    ) -> None:
        super().__init__()
        if shards:  # after a training before this one rank 0 alone has what was learnt
            begin_alike(objective.state_dict())
        self.objective = copy.deepcopy(objective) if shards else objective
        self._whole = (objective,) if shards else ()  # in a tuple, which hides it from parameters() and checkpoints
        self.schedule = schedule
        self.optimizer_of = optimizer or self._adamw
        self.history: list[dict[str, float]] = []

    def configure_model(self) -> None:
        if self._whole:
            shard(self.objective, self.device_mesh["data_parallel"])

    def gather(self) -> None:
        """Bring what is trained in parts into the objective that it was copied from, on rank 0; all call this."""
        for objective in self._whole:
            state = whole_state(self.objective)
            if this_rank().is_first:
                objective.load_state_dict(state)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        losses: dict[str, Tensor] = self.objective(batch)
        values = {name: value.detach() for name, value in losses.items()}
        if this_rank().world > 1:
            means = mean_over_ranks(torch.stack([value.float() for value in values.values()]))
            values = dict(zip(values, means, strict=True))
        self.history.append({name: float(value) for name, value in values.items()})
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
        batches, rank = self.batches(self.trainer.current_epoch), this_rank()
        return DataLoader(_Steps([_own_rows(batch, rank) for batch in batches]), batch_size=None)


def _own_rows(batch: Batch, rank: Rank) -> Batch:
    if rank.world == 1:
        return batch
    if not isinstance(batch, Divisible):
        raise TypeError(f"{type(batch).__name__} has no part(rank), and cannot be divided among devices")
    return batch.part(rank)


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
        if self.on_step is not None and this_rank().is_first:
            self.on_step(trainer.global_step)

    def on_train_epoch_end(self, trainer: L.Trainer, module: _Module) -> None:
        if self.on_epoch is not None:
            module.gather()
            if this_rank().is_first:
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
        partial, state = self.folder / f".{_STATE}.partial", self.folder / _STATE
        if not this_rank().is_first:
            trainer.save_checkpoint(partial)  # gives its part to rank 0, which writes
            return
        self.folder.mkdir(parents=True, exist_ok=True)
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
    devices: Devices = ONE_DEVICE,
) -> list[dict[str, float]]:
    """Train an objective in place and return its losses, a row a step.

    With several devices, each of their processes calls this alike, after it has joined them (`ranks.joined`). Batches
    are those of one process: each takes its rows, losses are means over all, and rank 0 alone reports and writes. With
    ``fsdp``, rank 0 alone has the objective trained in the end.

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
        devices: number and kind of the devices, and precision.

    Raises:
        ConfigError: this machine has no such devices, or a batch cannot be divided among them.
    """
    rank = this_rank()
    callbacks: list[Callback] = [_Calls(seed, on_step, on_epoch)]
    if checkpoints is not None:
        callbacks.append(_Checkpoints(checkpoints))
    with quiet_lightning(), same_environment(), torch.random.fork_rng(devices=[]):
        trainer = L.Trainer(
            **_hardware(devices, rank),
            max_epochs=schedule.epochs if epochs is None else epochs,
            gradient_clip_val=schedule.clip_norm,
            callbacks=callbacks,
            enable_checkpointing=checkpoints is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            reload_dataloaders_every_n_epochs=1,
        )
        module = _Module(objective, schedule, optimizer, shards=_shards(devices, rank))
        resume = agreed(_readable_state(checkpoints)) if checkpoints is not None else None
        with plain_interrupt(), of_whole_batches(module.objective):
            trainer.fit(module, datamodule=_Epochs(batches), ckpt_path=resume, weights_only=True if resume else None)
            module.gather()
    return module.history


class _Joined(ClusterEnvironment):
    """Tells Lightning of processes that were started and joined before."""

    def __init__(self, rank: Rank, on_a_machine: int) -> None:
        self.rank = rank
        self.on_a_machine = on_a_machine

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.rank.world

    def global_rank(self) -> int:
        return self.rank.number

    def local_rank(self) -> int:
        return self.rank.number % self.on_a_machine

    def node_rank(self) -> int:
        return self.rank.number // self.on_a_machine

    def set_world_size(self, size: int) -> None:
        assert size == self.rank.world

    def set_global_rank(self, rank: int) -> None:
        assert rank == self.rank.number

    @property
    def main_address(self) -> str:
        raise AssertionError("the processes have joined already")

    @property
    def main_port(self) -> int:
        raise AssertionError("the processes have joined already")


def _shards(devices: Devices, rank: Rank) -> bool:
    return devices.strategy == "fsdp" and rank.world > 1


def _hardware(devices: Devices, rank: Rank) -> dict[str, Any]:
    """Arguments of Lightning's trainer.

    Raises:
        ConfigError: this machine has no such devices.
    """
    gpus = torch.cuda.device_count()
    if devices.precision == "16-mixed" and not gpus:
        raise ConfigError("'precision: 16-mixed' needs a CUDA GPU, and torch finds none; use bf16-mixed or 32-true.")
    if gpus and devices.number > gpus:
        raise ConfigError(f"'devices: {devices.number}' was asked for, and this machine has {gpus} GPUs.")
    plugins: list[Any] = [_PlainFiles()]
    if rank.world == 1:
        if devices.number > 1:
            raise ConfigError(f"'devices: {devices.number}' was asked for in one process; start one for each.")
        return {"accelerator": "auto", "devices": 1, "precision": devices.precision, "plugins": plugins}
    return {
        "accelerator": "cuda" if gpus else "cpu",
        "devices": devices.number,
        "num_nodes": rank.world // devices.number,
        # Whole files: a generator's state is the same however many devices it was trained on.
        "strategy": ModelParallelStrategy(rank.world, 1, save_distributed_checkpoint=False)
        if _shards(devices, rank)
        else DDPStrategy(broadcast_buffers=False),
        "use_distributed_sampler": False,
        "precision": devices.precision,
        "plugins": [*plugins, _Joined(rank, devices.number)],
    }
