"""Settings of a build on Ray."""

from pydantic import Field

from loragen.bases.devices import DeviceName
from loragen.config import StrictModel
from loragen.values import MOST_PARTS


class RayConfig(StrictModel):
    """Where Ray runs, and what each of its workers gets of it."""

    address: str | None = None
    """Of a cluster: ``auto`` for the one that this machine belongs to, ``HOST:PORT`` of its head, or ``ray://HOST:PORT``
    of its client server; by default Ray is started on this machine, for this build alone."""
    cpus_per_worker: int = Field(1, ge=1, le=MOST_PARTS)
    """Cores of a worker, which it computes with; their number bears on the last bits of what is trained."""
    gpus_per_worker: float = Field(0.0, ge=0, le=MOST_PARTS)
    """GPUs of a worker; .5 lets two workers share one."""
    device: DeviceName | None = None
    """Of the workers' bases; by default the ``device`` of the build, whose own machine may have no GPU."""
    retries: int = Field(3, ge=0, le=MOST_PARTS)
    """Times that an expert or a fold is begun anew after its worker was lost, until the build ends with an error."""
    patience: float = Field(600.0, gt=0, le=86_400)
    """Seconds to wait while no worker at all is ready: for room in the cluster, and for the base to be loaded."""
