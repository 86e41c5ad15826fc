"""A tiny base, its tasks and a zoo of them on disk, for generators that are trained through the base."""

import json
from pathlib import Path

import torch
from models import word_task, write_tiny_encoder

from loragen.bases.text_encoder import LabelTextEncoder
from loragen.config import dump_yaml
from loragen.files import atomic_write
from loragen.recipes.expert import ExpertRecipe, Start
from loragen.recipes.multitask import MultitaskRecipe
from loragen.recipes.train import train_expert
from loragen.tasks.task_set import Task, TaskSource
from loragen.zoo.card import ZOO_MANIFEST, Card, Manifest, expert_files

EXPERTS = {
    "cups": ("tea", "warm"),
    "drinks": ("soup", "tea"),
    "meals": ("bread", "soup"),
    "mugs": ("tea", "warm"),
    "suppers": ("bread", "soup"),
    "weather": ("cold", "warm"),
}
"""Cups and mugs are much alike, and meals and suppers: each can help the other."""
LEFT_OUT = {"menus": ("cold", "soup"), "ovens": ("bread", "warm"), "plates": ("bread", "cold")}
FAMILY = {"cups": "drink", "drinks": "drink"}
"""The others have none: each is its own."""
WORDS = ("soup", "bread", "cold", "warm", "tea")
RECIPE = ExpertRecipe(r=2, steps=12, batch_size=16, learning_rate=5e-2, window=4, snapshots=2)
TESTS = 40
"""Texts of a test file."""


def write_toys(root: Path) -> Path:
    """Write a base, tasks and a zoo of seven experts of six families, one of five labels; returns their folder."""
    base = LabelTextEncoder.load(str(write_tiny_encoder(root / "base", seed=1)))
    tasks = [
        word_task(root / "data", name, words=words, train=100).model_copy(
            update={
                "family": FAMILY.get(name, ""),
                "paraphrases": (f"{words[1]}, or {words[0]}?",),
                "licence": "MIT" if name in ("drinks", "weather") else "CC0",
            }
        )
        for name, words in (EXPERTS | LEFT_OUT).items()
    ]
    tasks.append(_five_way_task(root / "data"))
    splits = {"experts": [*EXPERTS, "words"], "validation": [*LEFT_OUT], "one": ["menus"], "known": ["menus", "cups"]}
    (root / "tasks.yaml").write_text(dump_yaml({"tasks": [t.model_dump(mode="json") for t in tasks], "splits": splits}))
    manifest = Manifest(
        name="tiny",
        base=str(root / "base"),
        base_hash=base.fingerprint,
        frame="random",
        start="zero",
        recipe=RECIPE,
        multitask=MultitaskRecipe(),
    )
    atomic_write(root / "zoo" / ZOO_MANIFEST, manifest.to_yaml())
    start = Start.random(base.sites(RECIPE.target_modules), RECIPE.r, rng=torch.Generator().manual_seed(0))
    for task in tasks:
        if task.id not in LEFT_OUT:
            expert = train_expert(task, base, start, RECIPE)
            card = Card.of(task, expert, manifest, split="experts", seconds=1.0, dtype="float32", versions={})
            adapter, files = expert_files(expert, card)
            adapter.save(root / "zoo" / "experts" / task.id, extra_files=files)
    return root


def _five_way_task(folder: Path) -> Task:
    """Which of the five words stands among letters?"""
    rng = torch.Generator().manual_seed(5)
    for part, size in (("train", 150), ("test", TESTS)):
        rows = []
        for i in range(size):
            letters = ["abcdefghij"[j] for j in torch.randint(10, (4,), generator=rng).tolist()]
            letters.insert(i % 4, WORDS[i % 5])
            rows.append(json.dumps({"text": " ".join(letters), "label": WORDS[i % 5]}))
        (folder / f"words.{part}.jsonl").write_text("\n".join(rows))
    source = TaskSource(train=str(folder / "words.train.jsonl"), test=str(folder / "words.test.jsonl"))
    return Task(id="words", description="Which word is it?", labels=WORDS, source=source, licence="MIT")
