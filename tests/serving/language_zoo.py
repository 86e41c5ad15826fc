"""A zoo over a tiny random Llama that chats, with two experts that nobody trained, and adapters over it."""

from dataclasses import replace
from pathlib import Path

import torch
from families import write_base, write_task
from tiny_experts import make_expert

from loragen.adapters.adapter import Lora
from loragen.bases.open import open_base
from loragen.bases.wording import Chat
from loragen.files import atomic_write
from loragen.inference import Adapter
from loragen.recipes.expert import ExpertRecipe, Start
from loragen.recipes.multitask import MultitaskRecipe
from loragen.zoo.card import ZOO_MANIFEST, Card, Manifest, expert_files

TARGETS = ("q_proj", "v_proj")
NAMES = ("first", "second")
"""Of the adapters."""


def write_language_zoo(folder: Path) -> Path:
    """Write the base and the zoo; returns the zoo's folder."""
    base = open_base(str(write_base(folder / "base", "llama", seed=1)), objective="causal_lm")
    manifest = Manifest(
        name="tiny",
        base=base.name,
        base_hash=base.fingerprint,
        frame="random",
        start="zero",
        recipe=ExpertRecipe(r=2, target_modules=TARGETS, objective="causal_lm", chat=Chat()),
        multitask=MultitaskRecipe(),
    )
    atomic_write(folder / "zoo" / ZOO_MANIFEST, manifest.to_yaml())
    start = Start.random(base.sites(TARGETS), 2, rng=torch.Generator().manual_seed(0))
    for seed, (name, words) in enumerate({"drinks": ("soup", "tea"), "meals": ("bread", "soup")}.items()):
        task = write_task(folder / "data", "llama", name=name, words=words)
        expert = replace(make_expert(start, seed=seed), task_type=base.task_type)
        card = Card.of(task, expert, manifest, split="experts", seconds=1.0, dtype="float32", versions={})
        adapter, files = expert_files(expert, card)
        adapter.save(folder / "zoo" / "experts" / name, extra_files=files)
    return folder / "zoo"


def write_language_adapters(zoo: Path, folder: Path) -> None:
    """Write random adapters of the base that visibly change it."""
    base = open_base(str(zoo.parent / "base"), objective="causal_lm")
    for seed, name in enumerate(NAMES):
        rng = torch.Generator().manual_seed(seed)
        sites = base.sites(TARGETS)
        lora = Lora.from_factors(
            {site: torch.randn(4, wide, generator=rng) for site, (_, wide) in sites.items()},
            {site: torch.randn(out, 4, generator=rng) / 2 for site, (out, _) in sites.items()},
            base_model_name_or_path=base.name,
            task_type="CAUSAL_LM",
        )
        Adapter(lora, base.name, wording=Chat()).save(folder / name)
