"""PEFT's own initialisations of LoRA, passed through: PEFT makes the first A and B, and both are trained from there.

PEFT is given a copy of the base, since some of its initialisations move the weights: PiSSA (arXiv 2404.02948), OLoRA
(2406.01775) and CorDA (2406.05223). For these what the factors begin with is taken off the update instead, see
`recipes.offset`, and the base stays. EVA (2410.07170) and CorDA look at the inputs of the first batches of the
training. MiCA (2604.01694) trains A alone.

The copy takes as much memory as the base itself until the start is read from it; EVA and CorDA also keep the inputs of
all sites for these batches, and CorDA a matrix (in, in) a site.
"""

import copy
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from loragen.adapters.key_names import PREFIX
from loragen.config import StrictModel
from loragen.errors import ConfigError
from loragen.recipes.expert import Expert, ExpertRecipe
from loragen.recipes.offset import OffsetFactors, train_offset
from loragen.recipes.setting import Setting
from loragen.recipes.site_inputs import pooled, site_inputs
from loragen.values import LARGEST_LAYER, MOST_STEPS

Initialisation = Literal[
    True, "gaussian", "orthogonal", "pissa", "pissa_niter_4", "pissa_niter_16", "olora", "corda", "eva", "mica"
]
"""Those of PEFT that end in plain LoRA over weights that are not quantised; True is PEFT's default, Kaiming-uniform A
and zero B. Its LoRA-GA is the recipe ``lora_ga``, with ``flavour: peft``."""
_LEARNS_FROM_INPUTS = ("corda", "eva")
_MOST_PASSES = 1000
"""Batches, seen again and again, after which EVA's directions should no longer turn."""


class PeftOptions(StrictModel):
    """Options of PEFT's ``LoraConfig``; rank and modules are the recipe's."""

    init_lora_weights: Initialisation = "pissa"
    lora_alpha: float | None = Field(None, gt=0, le=LARGEST_LAYER)
    """B · A is multiplied by ``lora_alpha / r``; None is a scaling of 1."""


class PeftStart(ExpertRecipe):
    """Settings of LoRA from an initialisation of PEFT."""

    name: str = "peft"
    peft: PeftOptions = PeftOptions()
    """``init_lora_weights``, one of PEFT's names, and ``lora_alpha``."""
    batches: int = Field(4, ge=1, le=MOST_STEPS)
    """Batches of the training that EVA and CorDA look at."""

    @model_validator(mode="after")
    def _is_even(self) -> Self:
        if self.peft.init_lora_weights == "orthogonal" and self.r % 2:
            raise ValueError(f"the initialisation 'orthogonal' wants an even r, not {self.r}")
        return self

    @property
    def scaling(self) -> float:
        """lora_alpha / r."""
        return 1.0 if self.peft.lora_alpha is None else self.peft.lora_alpha / self.r


def train_from_peft(setting: Setting, recipe: PeftStart) -> Expert:
    """Train A and B, or with MiCA A alone, from a start that PEFT makes.

    Raises:
        ConfigError: PEFT cannot make it for this base or this rank.
    """
    return train_offset(setting, begun_at(with_peft_lora(setting, recipe), setting, recipe))


def with_peft_lora(setting: Setting, recipe: PeftStart) -> Any:
    """A copy of the base's model as a ``PeftModel``, its LoRA initialised; random draws follow the setting's ``rng``.

    Raises:
        ConfigError: PEFT refuses to initialise it.
    """
    kind = recipe.peft.init_lora_weights
    seed = int(torch.randint(2**31, (), generator=setting.rng))
    inputs = site_inputs(setting, recipe.batches) if kind in _LEARNS_FROM_INPUTS else []
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PEFT's own calls of transformers
        torch.manual_seed(seed)
        try:
            return _initialised(copy.deepcopy(setting.base.model), setting, recipe, inputs)
        except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            raise ConfigError(
                f"PEFT cannot initialise LoRA of rank {recipe.r} by {kind!r} on {setting.base.name}: {error}. Give "
                "another rank, other target modules, or another initialisation."
            ) from error


def _initialised(
    model: nn.Module, setting: Setting, recipe: PeftStart, inputs: Sequence[Sequence[Mapping[str, Tensor]]]
) -> Any:
    from peft import LoraConfig, get_peft_model, initialize_lora_eva_weights
    from peft.tuners.lora.config import CordaConfig, EvaConfig
    from peft.tuners.lora.corda import preprocess_corda

    kind, sites = recipe.peft.init_lora_weights, tuple(setting.start.lora_B)
    config = LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.scaling * recipe.r,
        target_modules="|".join(map(re.escape, sites)),  # an expression for whole names; a list is one of endings
        fan_in_fan_out=setting.base.stores_transposed(sites),
        init_lora_weights=kind,
        eva_config=EvaConfig(rho=1.0) if kind == "eva" else None,  # no site gets more than the rank asked for
        corda_config=CordaConfig() if kind == "corda" else None,
    )
    if kind == "corda":
        examples = [example for batch in inputs for example in batch]
        preprocess_corda(model, config, run_model=lambda: _feed_all(model, examples))
    made = get_peft_model(model, config, low_cpu_mem_usage=kind == "eva")
    if kind == "eva":
        initialize_lora_eva_weights(
            made,
            [pooled(batch) for batch in inputs],
            forward_fn=_Passes(),
            prepare_model_inputs_fn=lambda _inputs, _config: None,
            prepare_layer_inputs_fn=None,
            gather_distributed_inputs=False,
            show_progress_bar=False,
        )
    return made.eval()  # EVA leaves it with dropout


def _feed_all(model: nn.Module, examples: Sequence[Mapping[str, Tensor]]) -> None:
    for example in examples:
        _feed(model, example)


def _feed(model: nn.Module, inputs: Mapping[str, Tensor], prefix: str = "") -> None:
    """Give every site of a model inputs that were recorded before, as a batch of one text."""
    for site, rows in inputs.items():
        module = model.get_submodule(prefix + site)
        module(rows[None].to(next(module.parameters()).dtype))


@final
class _Passes:
    """PEFT's calls of the model for EVA, which go on until the directions settle; too many are an error."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        self.number += 1
        if self.number > _MOST_PASSES:
            raise ValueError(f"EVA's directions have not settled in {_MOST_PASSES} batches; more 'batches' may help")
        _feed(model, inputs, PREFIX)


@torch.no_grad()
def begun_at(made: Any, setting: Setting, recipe: PeftStart) -> OffsetFactors:
    """The factors of a model that PEFT has initialised, as a start; their product is taken off if PEFT moved weights.

    Raises:
        ConfigError: the factors have another rank, or the weights were moved by something else than they give.
    """
    kind, base, factors, moved = recipe.peft.init_lora_weights, setting.base, {}, False
    for site, b in setting.start.lora_B.items():
        layer = made.get_submodule(PREFIX + site)
        lora_a, lora_b = (getattr(layer, name)["default"].weight.detach().float() for name in ("lora_A", "lora_B"))
        wanted = (recipe.r, setting.start.lora_A[site].shape[1]), (len(b), recipe.r)
        if (met := (tuple(lora_a.shape), tuple(lora_b.shape))) != wanted:
            raise ConfigError(
                f"PEFT's {kind!r} gives {site} lora_A and lora_B of the shapes {met[0]} and {met[1]}, where "
                f"{wanted[0]} and {wanted[1]} were wanted; give another rank or another initialisation."
            )
        before = base.model.get_parameter(f"{site}.weight")
        after = layer.get_base_layer().weight
        if not torch.equal(before, after):
            _check_move(site, before, after, recipe.scaling * lora_b @ lora_a, kind, base.stores_transposed([site]))
            moved = True
        factors[site] = lora_a.cpu().contiguous(), lora_b.cpu().contiguous()
    trains_b = kind != "mica"
    return OffsetFactors(factors, scaling=recipe.scaling, takes_off_start=moved, trains_b=trains_b)


def _check_move(site: str, before: Tensor, after: Tensor, wanted: Tensor, kind: object, is_transposed: bool) -> None:
    """Refuse an initialisation that takes something else than its factors' product (out, in) off a weight."""
    met = before.float() - after.float()
    error = float(((met.T if is_transposed else met) - wanted).norm())
    if error > 4 * torch.finfo(before.dtype).eps * float(before.float().norm()) + 1e-3 * float(wanted.norm()):
        raise ConfigError(
            f"PEFT's {kind!r} moves the weight of {site} by something else than its factors, so that the output would "
            "not be kept; give another initialisation."
        )
