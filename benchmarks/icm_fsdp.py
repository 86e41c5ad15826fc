"""ICM-LoRA in raw factors of an 8B base on several devices: bytes of parameters, gradients and optimiser state on each.

    python benchmarks/icm_fsdp.py [--ranks 1 2 4 8] [--adapter-rank 8 16] [--step]

The adapters are Llama-3-8B's, query and value: 3,407,872 values at rank 8. Every rank is a process on this machine's
processor (gloo). It divides the network as `strategy: fsdp` does, makes an optimiser step on gradients of zeros, so
that AdamW's state is there, and counts the bytes that it holds. ``--step`` trains a step instead, on a batch of one
adapter a rank, for what only a step needs: activations, and layers that are gathered while they are computed. Figures
go to benchmarks/results/icm_fsdp.json.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from loragen.adapters.adapter import AdapterSpec, Site
from loragen.adapters.raw_factors import RawFactors
from loragen.generators.icm.model import ICMBatch, ICMConfig, ICMNetwork, ICMObjective
from loragen.training.ranks import Rank, joined, meeting_point
from loragen.training.sharding import shard, whole_state
from loragen.training.whole_batch import of_whole_batches

RESULTS = Path("benchmarks/results/icm_fsdp.json")
HIDDEN, KINDS = 4096, 3
"""Size of a task vector of Llama-3-8B, and kinds of evidence."""


def size_of(rank: int) -> int:
    """Values of an adapter of query and value at a rank."""
    return RawFactors(
        AdapterSpec(
            tuple(
                Site(f"model.layers.{n}.self_attn.{p}", out, 4096, rank)
                for n in range(32)
                for p, out in (("q_proj", 4096), ("v_proj", 1024))
            )
        )
    ).size


def held(tensors: list[torch.Tensor]) -> int:
    """Bytes of tensors on this rank."""
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    storages = [tensor.untyped_storage() for tensor in local]  # gradients of one gathered layer share theirs
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def peak() -> float:
    """GiB that this process held at most."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def measure(adapter_rank: int, world: int, *, is_stepped: bool) -> dict[str, float]:
    """What this rank of a training holds."""
    size = size_of(adapter_rank)
    rng = torch.Generator().manual_seed(0)
    objective = ICMObjective(ICMNetwork(size, KINDS * HIDDEN, ICMConfig(codec="raw")), 0.005)
    parameters = sum(parameter.numel() for parameter in objective.parameters())
    with of_whole_batches(objective):
        if world > 1:
            shard(objective, init_device_mesh("cpu", (world,)))
        optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4)
        before = peak()
        if is_stepped:
            batch = ICMBatch(torch.randn(1, size, generator=rng), torch.randn(1, KINDS * HIDDEN, generator=rng))
            objective(batch)["loss"].backward()
        else:
            for parameter in objective.parameters():
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        state = [value for values in optimizer.state.values() for value in values.values()]
        counted = {
            "values an adapter": size,
            "parameters": parameters,
            "MiB parameters": held(list(objective.parameters())),
            "MiB gradients": held([parameter.grad for parameter in objective.parameters()]),
            "MiB optimiser": held(state),
        }
        whole = whole_state(objective) if world > 1 else objective.state_dict()
    if whole:  # rank 0 has it whole, as it is saved
        assert sum(whole[name].numel() for name, _ in objective.named_parameters()) == parameters
    counted = {name: round(n / 2**20, 1) if name.startswith("MiB") else n for name, n in counted.items()}
    counted["MiB together"] = round(sum(n for name, n in counted.items() if name.startswith("MiB")), 1)
    return counted | ({"peak GiB before the step": before, "peak GiB": peak()} if is_stepped else {})


def run_rank(arguments: argparse.Namespace) -> None:
    """Be one rank; rank 0 prints the most that any of them holds."""
    number, world, port, adapter_rank = arguments.rank
    torch.set_num_threads(1)
    with joined(Rank(number, world), meeting_point(world, port)):
        mine = measure(adapter_rank, world, is_stepped=arguments.step)
        all_of_them: list[dict[str, float]] = [{}] * world
        dist.all_gather_object(all_of_them, mine)
    if number == 0:
        print(json.dumps({name: max(rank[name] for rank in all_of_them) for name in mine}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", nargs="*", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--adapter-rank", nargs="*", type=int, default=[8, 16])
    parser.add_argument("--step", action="store_true", help="train a step: tens of seconds and some GiB a rank")
    parser.add_argument("--rank", nargs=4, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        run_rank(arguments)
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    more = ["--step"] if arguments.step else []
    for adapter_rank in arguments.adapter_rank:
        for world in arguments.ranks:
            store = meeting_point(world)
            commands = [
                [sys.executable, __file__, *more, "--rank", *map(str, (number, world, store.port, adapter_rank))]
                for number in range(world)
            ]
            others = [subprocess.Popen(command) for command in commands[1:]]
            done = subprocess.run(commands[0], capture_output=True, text=True, check=False)
            if done.returncode or any(other.wait() for other in others):
                sys.exit(f"{world} ranks: {done.stderr}")
            name = f"rank {adapter_rank}, {world} devices" + (", with a step" if arguments.step else "")
            results[name] = json.loads(done.stdout.splitlines()[-1])
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{name}, the most of any device: {results[name]}", flush=True)


if __name__ == "__main__":
    main()
