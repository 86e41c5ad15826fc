"""Random experts over one frame of three small sites."""

import torch

from loragen.recipes.expert import Expert, Start

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
