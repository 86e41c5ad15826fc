"""LoRAs with random factors."""

import torch

from loragen.adapters.adapter import Lora

QUERY, KEY, VALUE = (f"encoder.layer.0.attention.self.{name}" for name in ("query", "key", "value"))


def factors(ranks, generator=None, columns=6, rows=5):
    generator = generator or torch.Generator().manual_seed(0)
    lora_A = {site: torch.randn(rank, columns, generator=generator) for site, rank in ranks.items()}
    lora_B = {site: torch.randn(rows, rank, generator=generator) for site, rank in ranks.items()}
    return lora_A, lora_B


def make_adapter(ranks=None, **kwargs):
    return Lora.from_factors(*factors(ranks or {QUERY: 2, VALUE: 2}), base_model_name_or_path="tiny", **kwargs)
