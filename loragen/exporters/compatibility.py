"""Verdicts on an adapter: PEFT by loading it, vLLM and LoRAX by their rules."""

from collections.abc import Mapping
from typing import Any

from loragen.adapters.adapter import Lora
from loragen.bases.architecture import Architecture
from loragen.exporters.lorax_rules import judge_lorax
from loragen.exporters.peft_loading import PeftLoading, judge_peft
from loragen.exporters.verdict import Verdict
from loragen.exporters.vllm_rules import judge_vllm


def verdicts(
    adapter: Lora,
    *,
    config: Mapping[str, Any] | None = None,
    base: Architecture | None = None,
    loading: PeftLoading | None = None,
    served: Architecture | None = None,
    found: Lora | None = None,
) -> tuple[Verdict, ...]:
    """Judge an adapter for PEFT, vLLM and LoRAX.

    Args:
        adapter: the adapter.
        config: its ``adapter_config.json`` as it stands; by default what `Lora.save` would write.
        base: its base as the class that the adapter was made on; `None` if it is not at hand.
        loading: result of loading it with PEFT on that base; `None` if that was not tried.
        served: its base as servers build it, as the class that its config names; by default ``base``.
        found: the adapter under the names by which PEFT finds its sites; by default as it is.
    """
    config = adapter.settings.to_config() if config is None else config
    served = served or base
    return (
        judge_peft(adapter, config, base, loading),
        judge_vllm(found or adapter, config, served, is_renamed=found is not None and found.sites != adapter.sites),
        judge_lorax(adapter, served),
    )
