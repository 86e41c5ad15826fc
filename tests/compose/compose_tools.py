"""What tests of compositions share."""

import torch

from loragen.adapters.adapter import Lora
from loragen.compose.registry import ROWS
from loragen.compose.switching import put_on, updates_of

SITES = [f"encoder.layer.{i}.attention.self.{name}" for i in (0, 1) for name in ("query", "value")]
TEXTS = ("warm soup", "a cold cup of tea, please.", "bread", "a b c d e f g soup")
DYNAMIC = [row.name for row in ROWS if row.is_dynamic]
QUICK = {
    "smora": {"steps": 3, "batch_size": 8, "k": 4},
    "sema_router": {"steps": 3, "batch_size": 8},
    "brainstacks": {"texts": 4, "epochs": 1, "width": 8, "most": 2},
}
"""Settings of methods that are trained, for a moment."""


def random_lora(base, seed, *, r=3, sites=SITES, size=0.3):
    rng = torch.Generator().manual_seed(seed)
    return Lora.from_factors(
        {site: torch.randn(r, 16, generator=rng) for site in sites},
        {site: size * torch.randn(16, r, generator=rng) for site in sites},
        base_model_name_or_path=base.name,
        task_type="FEATURE_EXTRACTION",
    )


def states_under(base, experts, gates, ids, *following):
    """Mean hidden states of texts under experts and gates."""
    with put_on(base, updates_of(experts, gates), *following), torch.no_grad():
        return base.states(ids)


def slow_states(base, experts, weight, ids):
    """The same where ``weight(site, x, z)`` gives the gate of one token at a time, from its input and A x."""

    class Slow:
        def __init__(self, site, at):
            self.site, self.at = site, at
            self.out_features, self.in_features = len(at.lora_B), at.lora_A.shape[1]

        def __call__(self, x):
            rows = []
            for token in x.reshape(-1, self.in_features):
                z = self.at.lora_A @ token
                rows.append(self.at.lora_B @ (weight(self.site, token, z) * z))
            return torch.stack(rows).view(*x.shape[:-1], self.out_features)

    with base.using({site: Slow(site, at) for site, at in experts.sites.items()}), torch.no_grad():
        return base.states(ids)
