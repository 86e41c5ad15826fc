"""Adapters of three sites that can be merged, and their merges by dense sums."""

import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.settings import LoraSettings

QUERY, VALUE = (f"encoder.layer.1.attention.self.{name}" for name in ("query", "value"))
DENSE = "encoder.layer.0.output.dense"
SHAPES = {QUERY: (16, 16), VALUE: (16, 16), DENSE: (16, 32)}  # (out, in) in tiny_bert


def make(seed, ranks=None, lora_A=None, base="tiny", **options):
    """An adapter with random factors, or over a given A."""
    ranks = {site: len(a) for site, a in lora_A.items()} if lora_A else ranks or dict.fromkeys(SHAPES, 3)
    r = next(iter(ranks.values()))
    settings = LoraSettings(
        r=r,
        lora_alpha=options.pop("lora_alpha", r),
        target_modules=tuple(ranks),
        base_model_name_or_path=base,
        rank_pattern={site: rank for site, rank in ranks.items() if rank != r},
        **options,
    )
    rng = torch.Generator().manual_seed(seed)
    a = lora_A or {site: 0.3 * torch.randn(rank, SHAPES[site][1], generator=rng) for site, rank in ranks.items()}
    b = {site: 0.3 * torch.randn(SHAPES[site][0], rank, generator=rng) for site, rank in ranks.items()}
    return Lora(settings, a, b)


def shared(**options):
    lora_A = make(0).lora_A
    return [make(seed, lora_A=lora_A, **options) for seed in (1, 2, 3)]


def independent(**options):
    return [make(seed, **options) for seed in (1, 2, 3)]


def mixed(**options):
    return [
        make(1, {QUERY: 2, VALUE: 1, DENSE: 4}, lora_alpha=8, **options),
        make(2, {QUERY: 1, VALUE: 2}, lora_alpha=3, use_rslora=True, **options),
        make(3, {QUERY: 3, DENSE: 3}, lora_alpha=2, alpha_pattern={"query": 5}, use_rslora=True, **options),
    ]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


KINDS = {"shared A": shared, "independent": independent, "mixed": mixed}


def dense_sum(adapters, weights):
    total = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for site in adapter.sites:
            b, a = adapter.lora_B[site].double(), adapter.lora_A[site].double()
            total[site] = total.get(site, 0) + weight * adapter.settings.scaling(site) * b @ a
    return total


def is_update(adapter, wanted, atol=1e-5):
    return set(adapter.sites) == set(wanted) and all(
        torch.allclose(adapter.delta_weight(site).double(), wanted[site].double(), atol=atol) for site in wanted
    )
