"""A zoo built on Ray: several nodes on this machine, a worker and a node lost in the midst, the bytes of processes."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from builds import TASKS, changed, state

from loragen.errors import TaskError
from loragen.zoo import ray_crew
from loragen.zoo.build import build_zoo
from loragen.zoo.card import CARD
from loragen.zoo.folds import FOLDS
from loragen.zoo.zoo import Zoo

pytest.importorskip("ray", reason="Ray is not installed: pip install 'loragen[ray]'")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers are found in /proc"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # Ray's pipes and sockets
]
pytest_plugins = ("build_fixtures",)

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head and one node more, a core each."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def facts_of(out: Path) -> dict[str, Any]:
    """Every file of a zoo, and of cards all but the time that it took."""
    files: dict[str, Any] = {name: data for name, (_, data) in state(out).items()}
    for name in files:
        if Path(name).name == CARD:
            files[name] = yaml.safe_load(files[name])
            del files[name]["provenance"]["seconds"]
    return files


def workers_of(node: Any) -> list[int]:
    """Processes of actors of ours on a node."""
    (raylet,) = (one.process.pid for one in node.all_processes["raylet"])
    children = {
        int(pid) for file in Path(f"/proc/{raylet}/task").glob("*/children") for pid in file.read_text().split()
    }
    return sorted(pid for pid in children if b"RayWorker" in Path(f"/proc/{pid}/cmdline").read_bytes())


def test_a_worker_and_a_node_are_lost_and_nothing_with_them(cluster, folding, monkeypatch, tmp_path):
    # By processes, then on Ray: folds, experts that begin at them, all scored.
    recipe = folding.recipe.model_dump() | {"steps": 40}
    asked = changed(folding, start="folds", score=True, recipe=recipe, out=tmp_path / "processes")
    build_zoo(asked)
    other = cluster.add_node(**NODE)
    losses = {
        "folds": lambda: os.kill(workers_of(cluster.head_node)[0], signal.SIGKILL),
        "experts": lambda: cluster.remove_node(other, allow_graceful=False),
    }
    stages, begun, lost = [], set(), []
    assign, ended = ray_crew.Crew._assign, ray_crew.Crew._ended

    def assigned(crew):
        """Once both workers are open and busy, one is lost."""
        stage = stages[-1]
        if stage not in begun and len(crew._idle) < 2:
            return
        assign(crew)
        if stage not in begun:
            begun.add(stage)
            assert len(crew._busy) == 2
            losses[stage]()

    def watched(crew, ref):
        _, attempt = crew._busy[ref]
        result = ended(crew, ref)
        if result is None:
            lost.append(attempt.job.name)
        return result

    monkeypatch.setattr(ray_crew.Crew, "_assign", assigned)
    monkeypatch.setattr(ray_crew.Crew, "_ended", watched)
    on_ray = changed(asked, out=tmp_path / "ray", executor="ray", ray={"address": cluster.address})
    build_zoo(on_ray, progress=lambda stage, *_: stages.append(stage))
    assert [name.split()[0] for name in lost] == ["fold", "the"], "one by one, and each was done again"
    assert facts_of(tmp_path / "ray") == facts_of(tmp_path / "processes")
    assert dict(Zoo.open(tmp_path / "ray").check()) == dict.fromkeys((*TASKS, "folds/0", "folds/1", "folds/2"))
    assert len(list((tmp_path / "ray" / FOLDS).iterdir())) == 3


def test_ray_of_its_own_ends_with_an_error_and_a_build_goes_on_by_processes(built, zoo_config, fresh, word_tasks):
    """Against the zoo that real worker processes built."""
    import ray

    data = word_tasks / "data" / "weather.train.jsonl"
    kept = data.with_suffix(".kept")
    shutil.move(data, kept)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(TaskError, match="weather"):
            build_zoo(changed(fresh, executor="ray", workers=1))
    finally:
        shutil.move(kept, data)
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is handler
    before = state(fresh.out)
    assert Zoo.open(fresh.out).ids == ("drinks", "meals")
    build_zoo(fresh)
    after = state(fresh.out)
    assert {name: after[name] for name in before} == before
    assert facts_of(fresh.out) == facts_of(zoo_config.out)
