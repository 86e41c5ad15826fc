"""Times a small zoo of MiniLM built by processes and by Ray on this machine, each as often, in turn, and compares them.

    python benchmarks/ray_zoo.py [--experts 8] [--steps 60] [--rounds 3] [--nodes 1]

Both have a worker a core. With more nodes, Ray runs as a cluster of as many on this machine, a share of the cores each;
their start, some seconds a node, is not timed, as a cluster is there before a build. Prints seconds, the ratio of their
medians, and whether the zoos hold the same bytes (cards but for their seconds). Wants data/tasks, see fetch_tasks.py.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from loragen.tasks.task_set import TaskSet
from loragen.zoo.build import build_zoo
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.card import CARD
from loragen.zoo.executors import available_cores

RESULTS = Path("benchmarks/results/ray_zoo.json")
TASKS = Path("configs/tasks/public.yaml")


def config_of(out: Path, experts: int, steps: int) -> ZooConfig:
    """Experts of the first tasks of the split for experts, over a random A."""
    only = tuple(task.id for task in TaskSet.from_yaml(TASKS).split("experts")[:experts])
    return ZooConfig.model_validate(
        {
            **{"name": "ray", "out": out, "base": "all-MiniLM-L6-v2", "tasks": TASKS},
            **{"splits": ("experts",), "only": only, "frame": "random", "start": "zero"},
            **{"recipe": {"steps": steps}, "score": False, "dtype": "float32", "workers": available_cores()},
        }
    )


@contextmanager
def cluster(nodes: int) -> Iterator[str | None]:
    """The address of a cluster of several nodes on this machine; None for one, which the build starts itself."""
    if nodes == 1:
        yield None
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    share = {"num_cpus": max(1, available_cores() // nodes), "object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={**share, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            made.add_node(**share)
        yield made.address
    finally:
        made.shutdown()


def seconds_of(config: ZooConfig) -> float:
    begun = time.perf_counter()
    build_zoo(config)
    return time.perf_counter() - begun


def facts_of(zoo: Path) -> dict[str, object]:
    """Each file of a zoo; of cards all but the time that a training took."""
    facts: dict[str, object] = {}
    for path in sorted(path for path in zoo.rglob("*") if path.is_file()):
        name = str(path.relative_to(zoo))
        facts[name] = path.read_bytes()
        if path.name == CARD:
            card = yaml.safe_load(path.read_text())
            del card["provenance"]["seconds"]
            facts[name] = card
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("experts", 8), ("steps", 60), ("rounds", 3), ("nodes", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"processes": [], "ray": []}
    are_equal = True
    with tempfile.TemporaryDirectory() as folder, cluster(args.nodes) as address:
        for number in range(args.rounds):
            zoos = []
            for executor, times in seconds.items():
                config = config_of(Path(folder) / f"{executor}-{number}", args.experts, args.steps)
                config = config.model_copy(update={"executor": executor})
                config = config.model_copy(update={"ray": config.ray.model_copy(update={"address": address})})
                times.append(seconds_of(config))
                zoos.append(facts_of(config.out))
            are_equal &= zoos[0] == zoos[1]
    medians = {executor: statistics.median(times) for executor, times in seconds.items()}
    results = {
        **{"experts": args.experts, "steps": args.steps, "nodes": args.nodes, "cores": available_cores()},
        "seconds": {executor: [round(one, 1) for one in times] for executor, times in seconds.items()},
        "ray / processes": round(medians["ray"] / medians["processes"], 2),
        "same bytes": are_equal,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
