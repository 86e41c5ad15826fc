"""Networks in parts: each process holds a part of every parameter, its gradient and its optimiser state (FSDP).

After Zhao et al. 2023 (PyTorch FSDP, arXiv 2304.11277), by torch's ``fully_shard``, which divides every parameter along
its first dimension.
"""

from typing import TypeVar

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

Network = TypeVar("Network", bound=nn.Module)
LARGE_LAYER = 1_000_000
"""Parameters from which on a layer is gathered by itself, when it is computed; all that is smaller is gathered at
once."""


def shard(network: Network, mesh: DeviceMesh) -> Network:
    """Divide the parameters of a network among the processes of a mesh, in place."""
    from torch.distributed.fsdp import fully_shard

    for layer in list(network.modules()):
        own = sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        if own >= LARGE_LAYER and layer is not network and not list(layer.children()):
            fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def whole_state(network: nn.Module) -> dict[str, Tensor]:
    """The whole state of a sharded network on the CPU of rank 0, empty on the others; all ranks must call this."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
