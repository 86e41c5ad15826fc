"""Smaller models of a base: whole neurons of the feed-forward layers and whole attention heads are left out (LoRAM).

Zhang et al. 2025, arXiv 2502.13533. Kept are those of the largest weight norm, as many in every layer. The model is a
plain one of smaller linear modules, which share all else with the base's.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from loragen.adapters.index_map import IndexMap, SiteMap
from loragen.bases.base import Base
from loragen.bases.causal_lm import CausalLM
from loragen.errors import ConfigError, shown


@final
@dataclass(frozen=True)
class _Family:
    """Names of the linear modules within a layer of one family of models."""

    model_types: tuple[str, ...]
    query: str
    key_value: tuple[str, str]
    attention_output: str
    inner: tuple[str, ...]
    """Modules whose outputs are the neurons of the feed-forward layer."""
    inner_output: str
    """The module whose inputs they are."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.query, *self.key_value, self.attention_output, *self.inner, self.inner_output)


_FAMILIES = (
    _Family(
        ("bert", "roberta", "xlm-roberta", "camembert", "electra"),
        "attention.self.query",
        ("attention.self.key", "attention.self.value"),
        "attention.output.dense",
        ("intermediate.dense",),
        "output.dense",
    ),
    _Family(
        ("llama", "mistral", "qwen2", "qwen3"),
        "self_attn.q_proj",
        ("self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.o_proj",
        ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down_proj",
    ),
)


@final
@dataclass(frozen=True)
class Kept:
    """Neurons and heads of each layer, before and after pruning."""

    neurons: int
    all_neurons: int
    heads: int
    all_heads: int
    key_value_heads: int
    """As many as ``heads`` where each has keys and values of its own."""


def index_map(model: nn.Module, *, base: str, base_hash: str, neurons: float, heads: float) -> tuple[IndexMap, Kept]:
    """Choose what a pruned model keeps, by weight norm: the root of the sum of squares of all weights of a unit.

    A unit is a neuron of a feed-forward layer: its rows of the modules before it, its column of the one after it. Or it
    is an attention head, with its rows of query, key and value and its columns of the output; heads that share their
    keys and values are one unit.

    Args:
        model: of transformers, of one of the families known here.
        base: its name, for messages and for the map.
        base_hash: of its weights, for the map.
        neurons: share of each layer's neurons that is left out, from 0 to below 1.
        heads: share of each layer's units of heads that is left out.

    Raises:
        ConfigError: the model is of no such family, or a share is out of range.
    """
    for name, share in (("neurons", neurons), ("heads", heads)):
        if not 0 <= share < 1:
            raise ConfigError(f"The share of {name} to prune is {shown(share)}; 0 or more was wanted, and below 1.")
    family, layers = _layers(model, base)
    config: Any = model.config
    all_heads: int = config.num_attention_heads
    groups: int = getattr(config, "num_key_value_heads", None) or all_heads
    kept_of: dict[str, dict[str, tuple[int, ...] | None]] = {"out": {}, "in": {}}
    counts = set()
    for path, modules in layers.items():
        inner = _kept_neurons(family, modules, neurons)
        chosen = _kept_groups(family, modules, groups, heads)
        total = modules[family.inner_output].in_features
        counts.add(Kept(len(inner), total, len(chosen) * all_heads // groups, all_heads, len(chosen)))
        query = _features(chosen, modules[family.query].out_features // groups)
        shared = _features(chosen, modules[family.key_value[0]].out_features // groups)
        sides = {family.query: query, **dict.fromkeys(family.key_value, shared), **dict.fromkeys(family.inner, inner)}
        kept_of["out"] |= {
            f"{path}.{name}": _unless_all(kept, modules[name].out_features) for name, kept in sides.items()
        }
        ends = {family.attention_output: query, family.inner_output: inner}
        kept_of["in"] |= {f"{path}.{name}": _unless_all(kept, modules[name].in_features) for name, kept in ends.items()}
    sites = {
        name: SiteMap(module.out_features, module.in_features, kept_of["out"].get(name), kept_of["in"].get(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    if len(counts) > 1:
        raise ConfigError(f"Layers of the base {shown(base)} differ in size, which pruning does not support.")
    return IndexMap(base, base_hash, sites), counts.pop()


def pruned_copy(model: nn.Module, kept: IndexMap) -> nn.Module:
    """A copy whose linear modules have the kept features alone; weights that were not pruned are shared.

    Raises:
        ConfigError: the map is of another model.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    smaller, modules = copy.deepcopy(model, shared), dict(model.named_modules())
    for name, site in kept.sites.items():
        if site.kept_out is None and site.kept_in is None:
            continue
        module = modules.get(name)
        size = (module.out_features, module.in_features) if isinstance(module, nn.Linear) else None
        if not isinstance(module, nn.Linear) or size != (site.out_features, site.in_features):
            raise ConfigError(
                f"The index map of {shown(kept.base)} prunes {name!r}, linear and of (out, in) "
                f"{(site.out_features, site.in_features)}, but the model has {size or 'none'} there; make another map."
            )
        parent, _, last = name.rpartition(".")
        setattr(smaller.get_submodule(parent), last, _smaller(module, site))
    return smaller


def pruned_base(base: Base, kept: IndexMap) -> Base:
    """A base with a pruned copy of its model; the base itself stays as it is."""
    model = pruned_copy(base.model, kept)
    return replace(base, model=model, lower=None) if isinstance(base, CausalLM) else replace(base, model=model)


def _layers(model: nn.Module, base: str) -> tuple[_Family, dict[str, dict[str, nn.Linear]]]:
    """The family of a model, and path of each of its layers → linear modules by their names within it."""
    model_type = str(getattr(getattr(model, "config", None), "model_type", ""))
    family = next((one for one in _FAMILIES if model_type in one.model_types), None)
    known = ", ".join(name for one in _FAMILIES for name in one.model_types)
    if family is None:
        raise ConfigError(
            f"The base {shown(base)} is of the architecture {shown(model_type)}, and which neurons and heads belong "
            f"together is known for {known}; choose a base of one of these."
        )
    modules = dict(model.named_modules())
    ending = f".{family.query}"
    paths = [name.removesuffix(ending) for name in modules if name.endswith(ending)]
    layers = {path: {name: modules.get(f"{path}.{name}") for name in family.names} for path in paths}
    whole = {
        path: {name: module for name, module in parts.items() if isinstance(module, nn.Linear)}
        for path, parts in layers.items()
    }
    if not whole or any(len(parts) < len(family.names) for parts in whole.values()):
        raise ConfigError(
            f"The base {shown(base)} has no layers of the linear modules {', '.join(family.names)}; choose a base of "
            f"one of the architectures {known}."
        )
    return family, whole


def _kept_neurons(family: _Family, modules: Mapping[str, nn.Linear], share: float) -> tuple[int, ...]:
    norms = modules[family.inner_output].weight.float().square().sum(0)
    return _largest(sum((_rows(modules[name]) for name in family.inner), norms), share)


def _kept_groups(family: _Family, modules: Mapping[str, nn.Linear], groups: int, share: float) -> tuple[int, ...]:
    norms = modules[family.attention_output].weight.float().square().sum(0).view(groups, -1).sum(1)
    parts = (_rows(modules[name]).view(groups, -1).sum(1) for name in (family.query, *family.key_value))
    return _largest(sum(parts, norms), share)


def _rows(module: nn.Linear) -> Tensor:
    """Squared norm of the weights, the bias among them, of every output."""
    norms = module.weight.float().square().sum(1)
    return norms if module.bias is None else norms + module.bias.float().square()


def _largest(norms: Tensor, share: float) -> tuple[int, ...]:
    """Indices of all but a share of the units, at least one, by their norms; of equal ones the first."""
    kept = max(1, len(norms) - int(share * len(norms) + 0.5))
    return tuple(sorted(norms.sort(descending=True, stable=True).indices[:kept].tolist()))


def _features(units: Sequence[int], width: int) -> tuple[int, ...]:
    return tuple(feature for unit in units for feature in range(unit * width, (unit + 1) * width))


def _unless_all(kept: tuple[int, ...], size: int) -> tuple[int, ...] | None:
    return None if len(kept) == size else kept


@torch.no_grad()
def _smaller(module: nn.Linear, site: SiteMap) -> nn.Linear:
    out_features, in_features = site.pruned_size
    weight: Tensor = module.weight
    bias: Tensor | None = module.bias
    if site.kept_out is not None:
        rows = torch.tensor(site.kept_out, device=weight.device)
        weight, bias = weight[rows], None if bias is None else bias[rows]
    if site.kept_in is not None:
        weight = weight[:, torch.tensor(site.kept_in, device=weight.device)]
    smaller = nn.Linear(in_features, out_features, bias=bias is not None, device="meta")
    smaller.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=module.weight.requires_grad)
    if bias is not None:
        smaller.bias = nn.Parameter(bias.detach(), requires_grad=module.bias.requires_grad)
    return smaller.train(module.training)
