import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from toys import write_toys

from loragen.bases.scores import Scores
from loragen.files import atomic_write
from loragen.recipes.expert import Expert, ExpertRecipe, Start
from loragen.recipes.multitask import MultitaskRecipe
from loragen.tasks.task_set import Task, TaskSource
from loragen.zoo.card import ZOO_MANIFEST, Card, Manifest, expert_files
from loragen.zoo.zoo import Zoo

settings.register_profile("loragen", deadline=None)  # a loaded machine is no reason to fail
settings.load_profile("loragen")

SITES = {"layer.0.query": (6, 5), "layer.0.value": (4, 5), "layer.1.query": (6, 5)}
DESCRIPTIONS = {
    "bank": "Tell what a bank customer wants.",
    "card": "Sort requests about credit cards.",
    "cook": "What does someone ask about a recipe?",
    "mood": "Is the writer happy or sad?",
    "news": "Which section of the paper is this story from?",
    "rain": "Does this report speak of a flood?",
    "rude": "Is this comment insulting?",
    "shop": "Is the product review good or bad?",
}


def make_expert(start: Start, *, seed: int, snapshots: int = 3) -> Expert:
    rng = torch.Generator().manual_seed(seed)
    mean = {site: torch.randn(b.shape, generator=rng) for site, b in start.lora_B.items()}
    noise = {site: 0.05 * torch.randn(snapshots, *b.shape, generator=rng) for site, b in mean.items()}
    return Expert(
        lora_A=start.lora_A,
        mean=mean,
        variance={site: n.var(0) for site, n in noise.items()},
        snapshots={site: mean[site] + n for site, n in noise.items()},
        steps=10,
        held_out_losses={5: 1.0, 10: 0.9},
    )


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
