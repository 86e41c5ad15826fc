"""The workers of a build on Ray and how they are led, over a stand-in for Ray that loses what it is told to lose."""

import pickle
import shutil
import socket
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from builds import changed

from loragen.errors import ConfigError, MissingExtraError, TaskError, ZooError
from loragen.zoo import ray_crew, ray_executor
from loragen.zoo.build import build_zoo
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.build_jobs import Beginnings, BuildContext, Job, WorkerContext
from loragen.zoo.build_work import BuildWork
from loragen.zoo.card import CARD, ZOO_MANIFEST, Card, Manifest
from loragen.zoo.ray_config import RayConfig
from loragen.zoo.ray_crew import RayWorker
from loragen.zoo.ray_executor import OnRay

pytest_plugins = ("build_fixtures",)


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        self.cause = cause


@dataclass(frozen=True)
class Named(Job):
    """A job that gives its own name."""

    name: str = ""

    def run(self, worker):
        return {"name": self.name}

    def write(self, zoo, files):
        (zoo / self.name).write_text(files["name"])

    def carrying(self, zoo):
        return self


@dataclass
class FakeRay:
    """As much of Ray as a crew uses; ``outcome`` decides what a worker's call gives, or raises."""

    outcome: object
    cpus: float = 2.0
    calls: list = field(default_factory=list)
    living: int = 0
    most_living: int = 0
    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def put(self, value):
        return value

    def remote(self, _class):
        return self

    def options(self, **_options):
        def hire():
            self.living += 1
            self.most_living = max(self.most_living, self.living)
            return SimpleNamespace(
                **{name: SimpleNamespace(remote=self._call(name)) for name in ("open", "run", "close")}
            )

        return SimpleNamespace(remote=hire)

    def _call(self, name):
        def remote(*arguments):
            self.calls.append((name, getattr(arguments[0], "name", None) if arguments else None))
            return self.calls[-1], len(self.calls)

        return remote

    def wait(self, refs, *, num_returns, timeout):
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref, timeout=None):
        return [self.outcome(*one[0]) for one in ref] if isinstance(ref, list) else self.outcome(*ref[0])

    def kill(self, _actor):
        self.living -= 1

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": self.cpus}}, {"Alive": False, "Resources": {"CPU": 64.0}}]

    def cluster_resources(self):
        return {"CPU": self.cpus}

    def is_initialized(self):
        return True


def run(monkeypatch, tmp_path, ray, names, *, workers=0, **settings):
    """Run jobs of these names; returns how many were told to be done."""
    monkeypatch.setattr(Beginnings, "read", lambda _build: None)
    monkeypatch.setattr(ray_executor, "_imported", lambda: ray)
    monkeypatch.setattr(ray_crew, "_LOOK", 0.01)
    config = ZooConfig(name="zoo", out=tmp_path, base="base", tasks=Path("tasks.yaml"))
    build = BuildContext(config, None, None)
    told = []
    OnRay(RayConfig(**settings), workers).run(build, [Named(name) for name in names], lambda: told.append(1))
    return len(told)


def context_of(config: ZooConfig) -> BuildContext:
    """The context of a build on a zoo that is there."""
    manifest = Manifest.from_yaml(config.out / ZOO_MANIFEST).model_copy(update={"folds": config.folds})
    return BuildContext(config, manifest, torch.float32)


def lost(times: dict[tuple[str, str | None], int]):
    """An outcome that loses the worker so often at a call, and succeeds afterwards."""
    left = Counter(times)

    def outcome(call, name):
        if left[call, name]:
            left[call, name] -= 1
            raise RayError(f"died in {call}")
        return {"name": name}

    return outcome


def test_what_a_lost_worker_did_is_done_again_by_another(monkeypatch, tmp_path):
    ray = FakeRay(lost({("run", "b"): 3, ("run", "c"): 1, ("open", None): 2}))
    assert run(monkeypatch, tmp_path, ray, "abcde") == 5
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: name for name in "abcde"}
    assert Counter(name for call, name in ray.calls if call == "run") == {"a": 1, "b": 4, "c": 2, "d": 1, "e": 1}
    assert ray.living == 0, "workers are ended"
    assert ray.most_living == 2


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({("run", "b"): 3}, r"worker of b was lost 3 times.*died in run.*Build again"),
        ({("open", None): 3}, r"lost 3 times while they loaded base.*died in open.*Build again"),
    ],
)
def test_a_worker_that_is_always_lost_ends_the_build(monkeypatch, tmp_path, losses, message):
    ray = FakeRay(lost(losses))
    with pytest.raises(ZooError, match=message):
        run(monkeypatch, tmp_path, ray, "abcde", retries=2)
    assert {path.name for path in tmp_path.iterdir()} == (set("acde") if ("run", "b") in losses else set())
    assert ray.living == 0


def test_an_error_of_a_job_ends_the_build_and_keeps_what_is_finished(monkeypatch, tmp_path):
    def outcome(call, name):
        if (call, name) == ("run", "c"):
            raise RayTaskError(TaskError("c has no texts"))
        return {"name": name}

    ray = FakeRay(outcome, cpus=3.0)
    with pytest.raises(TaskError, match="c has no texts"):
        run(monkeypatch, tmp_path, ray, "abcdefgh")
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {name for call, name in ray.calls if call == "run"} - {"c"}, "all that were begun, in this stand-in"
    assert len(kept) < 7
    assert ray.living == 0


def test_there_are_as_many_workers_as_were_asked_for_or_as_there_is_room_for(monkeypatch, tmp_path):
    for workers, settings, wanted in (
        (0, {}, 8),
        (3, {}, 3),
        (12, {}, 8),
        (12, {"address": "host:1"}, 10),
        (0, {"cpus_per_worker": 3}, 2),
    ):
        ray = FakeRay(lost({}), cpus=8.0)
        assert run(monkeypatch, tmp_path, ray, "abcdefghij", workers=workers, **settings) == 10
        assert ray.most_living == wanted, (workers, settings)


@pytest.mark.parametrize("address", [None, "host:1"])
def test_a_cluster_without_room_is_told(monkeypatch, tmp_path, address):
    ray = FakeRay(lost({}))
    with pytest.raises(ZooError, match=r"each wants 1 CPUs and 1 GPUs, and the cluster has 2 CPUs, 0 GPUs"):
        run(monkeypatch, tmp_path, ray, "abc", address=address, gpus_per_worker=1, patience=0.05)
    assert ray.calls == []


def test_ray_that_is_not_installed_is_told_before_anything_is_trained(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'loragen\[ray\]'.*executor: processes"):
        build_zoo(changed(fresh, executor="ray"))
    assert not list(fresh.out.glob("experts"))
    assert not (fresh.out / "start.safetensors").exists()


def test_a_cluster_that_is_not_there_is_told_before_anything_is_trained(fresh, monkeypatch):
    def init(**_options):
        raise ConnectionError("could not find any")

    monkeypatch.setattr(ray_executor, "_imported", lambda: SimpleNamespace(is_initialized=lambda: False, init=init))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
        for address, told in ((nobody, "refused"), (f"ray://{nobody}", "refused"), ("auto", "could not find any")):
            with pytest.raises(ConfigError, match=rf"no Ray at {address}: .*{told}.*ray\.address"):
                build_zoo(changed(fresh, executor="ray", ray={"address": address}))
    assert not (fresh.out / "start.safetensors").exists()


def test_a_worker_needs_no_folder_of_the_zoo(folding, tmp_path, monkeypatch):
    """Scores, folds and an expert, made where the zoo's folder is not, are those that are made beside it."""
    beside = changed(folding, score=True)
    shutil.rmtree(beside.out / "experts" / "meals")
    shutil.copytree(beside.out, tmp_path / "away")
    work, build = BuildWork.of(beside), context_of(beside)
    jobs = [*work.expert_jobs(), *work.fold_jobs()]
    assert {type(job).__name__ for job in jobs} == {"ScoreExpert", "TrainExpert", "TrainFold"}
    sent = pickle.dumps((build, Beginnings.read(build), [job.carrying(beside.out) for job in jobs]))
    shutil.rmtree(beside.out)
    monkeypatch.chdir(tmp_path)

    there, beginnings, carried = pickle.loads(sent)
    worker = RayWorker()
    worker.open(there, beginnings, 1, tmp_path / "nowhere", version("loragen"))
    gave = [worker.run(job) for job in carried]
    worker.close()
    assert not beside.out.exists()

    (tmp_path / "away").rename(beside.out)
    plain = WorkerContext.open(build)
    for job, files in zip(jobs, gave, strict=True):
        wanted = plain.run(job)
        assert files.keys() == wanted.keys()
        for name in files.keys() - {CARD}:
            assert files[name] == wanted[name], (job.name, name)
        if CARD in files:
            cards = [Card.model_validate(yaml.safe_load(each[CARD])) for each in (files, wanted)]
            assert cards[0].after is not None
            assert cards[0].after == cards[1].after
            assert cards[0].before == cards[1].before


def test_a_worker_with_another_base_or_loragen_is_refused(built_copy, tmp_path):
    build = context_of(built_copy)
    with pytest.raises(ZooError, match=r"has loragen .*began with 9\.9; install the same"):
        RayWorker().open(build, Beginnings.read(build), 1, tmp_path / "nowhere", "9.9")
    other = replace(build, manifest=build.manifest.model_copy(update={"base_hash": "f" * 64}))
    with pytest.raises(ZooError, match=r"other weights of .*\(ffffffffffff\); give it the same"):
        RayWorker().open(other, Beginnings.read(build), 1, tmp_path / "nowhere", version("loragen"))
