"""Random adapters of a tiny encoder."""

import torch

from loragen.adapters.adapter import Lora
from loragen.inference import Adapter

SITES = [f"encoder.layer.{i}.attention.self.{name}" for i in (0, 1) for name in ("query", "value")]


def adapter(base, seed: int, *, r: int = 4, sites=SITES, hidden: int = 16) -> Adapter:
    rng = torch.Generator().manual_seed(seed)
    lora = Lora.from_factors(
        {site: torch.randn(r, hidden, generator=rng) for site in sites},
        {site: torch.randn(hidden, r, generator=rng) / 3 for site in sites},
        base_model_name_or_path=base.name,
        task_type="FEATURE_EXTRACTION",
    )
    return Adapter(lora, base.name)
