"""Random adapters as others make them: of any rank, alpha, scaling and target modules."""

import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.settings import LoraSettings
from loragen.zoo.external_adapter import ExternalAdapter

SITES = {
    f"model.layers.{layer}.self_attn.{name}": out for layer in (0, 1) for name, out in (("q_proj", 16), ("v_proj", 8))
}
Q_ALONE = tuple(site for site in SITES if site.endswith("q_proj"))


def adapter_of(seed: int, r: int, *, sites=tuple(SITES), alpha: float = 8.0, rslora: bool = False, base="tiny") -> Lora:
    rng = torch.Generator().manual_seed(seed)
    settings = LoraSettings(
        r=r,
        lora_alpha=alpha,
        target_modules=tuple(sorted({site.rpartition(".")[2] for site in sites})),
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
        use_rslora=rslora,
    )
    return Lora(
        settings,
        {site: torch.randn(r, 16, generator=rng) for site in sites},
        {site: torch.randn(SITES[site], r, generator=rng) for site in sites},
    )


def external(name: str, adapter: Lora, base="tiny") -> ExternalAdapter:
    return ExternalAdapter(name, adapter, base, f"What {name} is for.")
