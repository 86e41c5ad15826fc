"""Settings of the machine that a training runs on: number of devices, how they share the work, and precision."""

from dataclasses import dataclass
from typing import Literal

from loragen.errors import ConfigError

Strategy = Literal["auto", "ddp", "fsdp"]
"""How devices share a training.

``ddp``: each holds the whole network. ``fsdp``: each holds a part of every large layer, with its gradients and
optimiser state, and gathers a layer when it is computed. ``auto``: ``ddp`` on several devices.
"""
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Lightning's names. Weights and optimiser state are float32 in all three; with ``mixed``, products are computed in 16
bits."""


@dataclass(frozen=True)
class Devices:
    """Devices of one machine, one process each."""

    number: int = 1
    strategy: Strategy = "auto"
    precision: Precision = "32-true"

    def __post_init__(self) -> None:
        if self.strategy == "fsdp" and self.precision == "16-mixed":
            raise ConfigError("'strategy: fsdp' does not go with 'precision: 16-mixed'; use bf16-mixed or 32-true.")


ONE_DEVICE = Devices()
