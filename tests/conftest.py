import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LORAGEN_CACHE"] = os.path.join(os.path.dirname(__file__), ".no-cache")  # bases that the user keeps
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tiny_experts import DESCRIPTIONS, SITES, make_expert
from toys import write_toys

from loragen.bases.scores import Scores
from loragen.files import atomic_write
from loragen.recipes.expert import ExpertRecipe, Start
from loragen.recipes.multitask import MultitaskRecipe
from loragen.tasks.task_set import Task, TaskSource
from loragen.zoo.card import ZOO_MANIFEST, Card, Manifest, expert_files
from loragen.zoo.zoo import Zoo

settings.register_profile("loragen", deadline=None)  # a loaded machine is no reason to fail
settings.load_profile("loragen")


@pytest.fixture(scope="session", autouse=True)
def _runs_draw_nothing():
    """Evaluations and trainings of toys would take longer to draw than for all else; tests of figures draw them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loragen.evaluation.figures.evaluation_plots", lambda _report, _folder: [])
        patch.setattr("loragen.plotting.loss_curves", lambda _rows, path: path.write_bytes(b"curves"))
        yield


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Eight random experts over one frame of three small sites; the last one is there for validation."""
    root: Path = tmp_path_factory.mktemp("zoo") / "tiny"
    manifest = Manifest(
        name="tiny",
        base="tiny-base",
        base_hash="0" * 64,
        frame="random",
        start="zero",
        recipe=ExpertRecipe(r=2, target_modules=("query", "value")),
        multitask=MultitaskRecipe(),
    )
    atomic_write(root / ZOO_MANIFEST, manifest.to_yaml())
    start = Start.random(SITES, 2, rng=torch.Generator().manual_seed(0))
    scores = Scores(accuracy=0.5, macro_f1=0.5, cross_entropy=0.7, knn_accuracy=0.5)
    for seed, (name, description) in enumerate(DESCRIPTIONS.items()):
        task = Task(
            id=name,
            description=description,
            paraphrases=(f"{description} Answer in one word.",),
            labels=("yes", "no"),
            source=TaskSource(train="train.jsonl", test="test.jsonl"),
            licence="MIT" if seed % 2 else "CC BY 4.0",
        )
        expert = make_expert(start, seed=seed)
        card = Card.of(
            task,
            expert,
            manifest,
            split="validation" if name == "shop" else "experts",
            seconds=1.0,
            dtype="float32",
            versions={},
            before=scores,
            after=scores,
        )
        adapter, files = expert_files(expert, card)
        adapter.save(root / "experts" / name, extra_files=files)
    return Zoo.open(root)


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `write_toys` writes: ``base``, ``tasks.yaml`` and ``zoo``, for generators trained through the base."""
    return write_toys(tmp_path_factory.mktemp("toys"))
