"""What PEFT makes of an adapter folder: the delta weights on a model of plain linear modules."""

import json
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from fuzz.harness import TooLong, bounded
from fuzz.plain import SHAPES, Plain
from loragen.adapters.adapter import Lora

LONGEST_LOADING = 5.0
"""Seconds of computing that PEFT gets: it matches patterns without a bound."""
Deltas = dict[str, Tensor]


@lru_cache(maxsize=512)
def written_by_peft(config: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the file that PEFT writes for a config in JSON; empty where PEFT adapts nothing or fails."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            given = {
                name: value for name, value in json.loads(config).items() if name not in ("peft_type", "task_type")
            }
            model = peft.get_peft_model(Plain(SHAPES), peft.LoraConfig(**given))
            return {key: tuple(value.shape) for key, value in peft.get_peft_model_state_dict(model).items()}
        except Exception:  # a config can fail at any place of PEFT
            return {}


def peft_deltas(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> Deltas | Exception:
    """Delta weights (out, in) by site, of the sites whose weights PEFT took from the file; or PEFT's error.

    The task type is left out: it decides on heads, and of these a plain model has none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _loaded(folder, shapes)
        except TooLong:
            return TimeoutError("PEFT takes too long")
        except Exception as error:  # a mutant can fail at any place of PEFT
            return error


def _loaded(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> Deltas:
    import peft

    written_by_peft('{"target_modules": ["q"]}')  # which imports the rest, once
    with bounded(LONGEST_LOADING):
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.task_type = None
        model = peft.PeftModel.from_pretrained(Plain(shapes), str(folder), config=config)
        weights = peft.load_peft_weights(str(folder), device="cpu")
        keys = peft.set_peft_model_state_dict(model, weights)
    taken = {_site(key) for key in weights if ".lora_" in key} - {_site(key) for key in keys.unexpected_keys}
    return {
        name: module.get_delta_weight("default").detach()
        for name, module in model.base_model.model.named_modules()
        if name in taken and hasattr(module, "get_delta_weight")
    }


def _site(key: str) -> str:
    return key.removeprefix("base_model.model.").partition(".lora_")[0]


def difference(ours: Lora, theirs: Deltas) -> str | None:
    """The first site whose delta weight is not PEFT's, in words."""
    if missing := sorted(set(ours.sites) ^ set(theirs)):
        return f"{missing[0]} is adapted by {'loragen' if missing[0] in ours.sites else 'PEFT'} alone"
    for site in ours.sites:
        mine, other = ours.delta_weight(site), theirs[site].float()
        if mine.shape != other.shape:
            return f"{site} has {tuple(mine.shape)} here and {tuple(other.shape)} there"
        scale = max(float(other.abs().max()), 1e-6)
        if not torch.allclose(mine / scale, other / scale, rtol=1e-5, atol=1e-5, equal_nan=True):
            return f"{site} differs by {float((mine - other).abs().max()):.3g} of {scale:.3g}"
    return None
