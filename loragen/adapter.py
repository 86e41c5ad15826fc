"""LoRA adapters as PEFT keeps them on disk, read and written without PEFT.

The one place that parses module names, looks up rank and alpha patterns, and applies scaling. What an adapter folder
says is read exactly as PEFT reads it or refused by name: nothing that would change the update is dropped in silence.

A *site* is the path of an adapted linear module in the base model, such as ``encoder.layer.0.attention.self.query``.
"""

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from loragen.errors import AdapterError
from loragen.files import atomic_folder

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

T = TypeVar("T")

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_TASK_TYPES = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")

# PEFT also loads keys that hold the adapter's name, when that name is "default".
_KEY = re.compile(r"base_model\.model\.(?P<site>.+)\.lora_(?P<factor>[AB])(?:\.default)?\.weight")
_FOREIGN_KEYS = {
    "lora_embedding_": "part of an adapted embedding, where only linear modules are supported",
    "lora_magnitude_vector": "part of DoRA, whose update is more than B·A",
    "lora_B.bias": "a bias trained beside B (lora_bias)",
}

_READ = {
    *("r", "lora_alpha", "target_modules", "base_model_name_or_path", "task_type", "use_rslora", "fan_in_fan_out"),
    *("rank_pattern", "alpha_pattern", "peft_type", "bias", "init_lora_weights"),
}
# These bear on training or provenance, or do nothing unless another key, which is looked at, switches them on.
_IGNORED = {
    *("auto_mapping", "inference_mode", "lora_dropout", "megatron_core", "peft_version", "revision"),
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "qalora_group_size", "runtime_config"),
}
# These narrow `target_modules`; the sites in the weights file say the same thing outright.
_NARROWING = {"exclude_modules", "layers_pattern", "layers_to_transform"}
_REFUSED = {
    "alora_invocation_tokens": "the update applies to some tokens only (aLoRA)",
    "arrow_config": "the update is routed between adapters (Arrow)",
    "ensure_weight_tying": "factors may be shared with an embedding",
    "kasa_config": "base weights are truncated, and a diagonal stands between B and A (KaSA)",
    "layer_replication": "the base model is restacked, so that sites name other layers",
    "lora_bias": "a bias is trained beside B",
    "megatron_config": "the base model is built from Megatron's layers",
    "modules_to_save": "whole modules are trained beside the LoRA",
    "monteclora_config": "the update is random (MonteCLoRA)",
    "target_parameters": "bare parameters are adapted instead of modules",
    "trainable_token_indices": "token embeddings are trained beside the LoRA",
    "use_bdlora": "factors are block-diagonal (BD-LoRA)",
    "use_dora": "the update is more than B·A (DoRA)",
    "use_qalora": "inputs are pooled before A (QA-LoRA)",
    "velora_config": "training state is kept beside the factors (VeLoRA)",
}
# The initialisations that leave the base weights as they were.
_HARMLESS_INITS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class LoraSettings:
    """What ``adapter_config.json`` says about an adapter, reduced to what is supported.

    ``target_modules`` is a tuple of module names or their dotted endings, one regular expression for whole names, or
    ``"all-linear"``. ``rank_pattern`` and ``alpha_pattern`` map regular expressions to values that stand in for ``r``
    and ``lora_alpha``; where several match a site, the first one counts. ``fan_in_fan_out`` says that the base stores
    the adapted weights as (in, out), as GPT-2 does.

    Raises:
        AdapterError: a value is of the wrong kind or out of range.
    """

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...] | str
    base_model_name_or_path: str | None = None
    task_type: str | None = None
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_names()
        _require(_is_rank(self.r), "r", self.r, "a whole number of at least 1")
        _require(_is_finite(self.lora_alpha), "lora_alpha", self.lora_alpha, "a finite number")
        for name in ("use_rslora", "fan_in_fan_out"):
            _require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        for name, is_good, wanted in (
            ("rank_pattern", _is_rank, "a mapping of module names to whole numbers of at least 1"),
            ("alpha_pattern", _is_finite, "a mapping of module names to finite numbers"),
        ):
            pattern = getattr(self, name)
            _require(isinstance(pattern, Mapping) and all(map(is_good, pattern.values())), name, pattern, wanted)
            _require(all(_compiles(_ending(key)) for key in pattern), name, pattern, "a mapping of regular expressions")
            object.__setattr__(self, name, dict(pattern))

    def _check_names(self) -> None:
        base, task, targets = self.base_model_name_or_path, self.task_type, self.target_modules
        _require(base is None or isinstance(base, str), "base_model_name_or_path", base, "a name or null")
        _require(task is None or task in _TASK_TYPES, "task_type", task, f"null or one of {', '.join(_TASK_TYPES)}")
        if isinstance(targets, str):
            _require(_compiles(targets), "target_modules", targets, "a regular expression")
        else:
            listed = isinstance(targets, tuple) and all(isinstance(target, str) for target in targets)
            _require(listed, "target_modules", targets, "a list of module names or one regular expression")

    def rank(self, site: str) -> int:
        """Return the rank at a site, patterns included."""
        return _look_up(self.rank_pattern, site, self.r)

    def scaling(self, site: str) -> float:
        """Return the factor before B·A at a site: alpha / r, or alpha / √r for rsLoRA, patterns included."""
        rank = self.rank(site)
        alpha = _look_up(self.alpha_pattern, site, self.lora_alpha)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def targets(self, site: str) -> bool:
        """Tell whether ``target_modules`` covers a module."""
        if isinstance(self.target_modules, str):
            return self.target_modules.lower() == "all-linear" or bool(re.fullmatch(self.target_modules, site))
        return any(site == target or site.endswith(f".{target}") for target in self.target_modules)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Take what is supported from a parsed ``adapter_config.json``; keys left out get PEFT's defaults.

        Raises:
            AdapterError: the config holds something that changes the update in a way that is not supported.
        """
        _refuse_unsupported(config)
        targets: Any = config.get("target_modules")
        return cls(
            r=config.get("r", 8),
            lora_alpha=config.get("lora_alpha", 8),
            target_modules=tuple(targets) if isinstance(targets, list) else targets,
            base_model_name_or_path=config.get("base_model_name_or_path"),
            task_type=config.get("task_type"),
            use_rslora=config.get("use_rslora", False),
            fan_in_fan_out=config.get("fan_in_fan_out", False),
            rank_pattern=config.get("rank_pattern") or {},
            alpha_pattern=config.get("alpha_pattern") or {},
        )

    def to_config(self) -> dict[str, Any]:
        """Return what ``adapter_config.json`` is to hold for PEFT to load it, keys sorted."""
        targets = self.target_modules
        return {
            "alpha_pattern": {key: _tidy(alpha) for key, alpha in self.alpha_pattern.items()},
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": "none",
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": _tidy(self.lora_alpha),
            "lora_dropout": 0.0,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": self.r,
            # Patterns keep their own order: it decides which of several matches counts.
            "rank_pattern": dict(self.rank_pattern),
            "target_modules": targets if isinstance(targets, str) else sorted(set(targets), key=_natural),
            "task_type": self.task_type,
            "use_dora": False,
            "use_rslora": self.use_rslora,
        }


@dataclass(frozen=True)
class Site:
    """An adapted module and its sizes: A is (r, in_features), B is (out_features, r)."""

    name: str
    out_features: int
    in_features: int
    r: int


@dataclass(frozen=True)
class AdapterSpec:
    """The table of sites that adapters share to live in one space, in natural order (layer 2 before layer 10)."""

    sites: tuple[Site, ...]

    def __post_init__(self) -> None:
        assert len({site.name for site in self.sites}) == len(self.sites), "a site is listed twice"
        object.__setattr__(self, "sites", tuple(sorted(self.sites, key=lambda site: _natural(site.name))))

    def difference(self, other: "AdapterSpec") -> str | None:
        """Say the first mismatch in words ("here" is this table, "there" the other); None where the tables agree."""
        here = {site.name: site for site in self.sites}
        there = {site.name: site for site in other.sites}
        for name in sorted(here.keys() | there.keys(), key=_natural):
            if name not in there:
                return f"{name} is adapted here but not there"
            if name not in here:
                return f"{name} is adapted there but not here"
            for size in ("r", "in_features", "out_features"):
                ours, theirs = getattr(here[name], size), getattr(there[name], size)
                if ours != theirs:
                    return f"{name} has {size}={ours} here but {size}={theirs} there"
        return None


@dataclass(frozen=True, eq=False)
class Adapter:
    """Settings and two factors per site, ``lora_A`` (r, in) and ``lora_B`` (out, r), kept in natural order of sites.

    Raises:
        AdapterError: a factor is missing, does not fit the settings or its partner, or holds more than finite floats.
    """

    settings: LoraSettings
    lora_A: Mapping[str, Tensor]
    lora_B: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for name in ("lora_A", "lora_B"):
            factors = getattr(self, name)
            object.__setattr__(self, name, {site: factors[site] for site in sorted(factors, key=_natural)})
        if not self.lora_A and not self.lora_B:
            raise AdapterError("the adapter has no sites; at least one pair of lora_A and lora_B is needed.")
        for site in sorted(self.lora_A.keys() ^ self.lora_B.keys(), key=_natural):
            present, absent = ("lora_A", "lora_B") if site in self.lora_A else ("lora_B", "lora_A")
            raise AdapterError(f"{site} has {present} but no {absent}; export the adapter again with both.")
        for site in self.lora_A:
            self._check_site(site)

    def _check_site(self, site: str) -> None:
        a, b, rank = self.lora_A[site], self.lora_B[site], self.settings.rank(site)
        _check_factor(f"{site}.lora_A", a)
        _check_factor(f"{site}.lora_B", b)
        if not a.shape[0] == b.shape[1] == rank:
            raise AdapterError(
                f"{site} has lora_A of shape {tuple(a.shape)} and lora_B of shape {tuple(b.shape)}, where the settings "
                f"want ({rank}, in) and (out, {rank}); correct r or rank_pattern, or export the adapter again."
            )
        if not self.settings.targets(site):
            raise AdapterError(
                f"{site} has weights, but target_modules={self.settings.target_modules!r} leaves it out, so that PEFT "
                "would not load them; name it there or drop its weights."
            )

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the adapted modules in natural order."""
        return tuple(self.lora_A)

    @cached_property
    def spec(self) -> AdapterSpec:
        """The adapted modules with their sizes."""
        pairs = ((site, self.lora_A[site], self.lora_B[site]) for site in self.sites)
        return AdapterSpec(tuple(Site(site, b.shape[0], a.shape[1], a.shape[0]) for site, a, b in pairs))

    def scaled_factors(self, site: str) -> tuple[Tensor, Tensor]:
        """A (r, in) and scaling · B (out, r) of a site, float32: their product is the delta weight."""
        return self.lora_A[site].float(), self.lora_B[site].float() * self.settings.scaling(site)

    def delta_weight(self, site: str) -> Tensor:
        """Return the update scaling · B · A: float32, (out_features, in_features)."""
        return self.lora_B[site].float() @ self.lora_A[site].float() * self.settings.scaling(site)

    def weight_update(self, site: str) -> Tensor:
        """Return the update as the base stores its weight: transposed where ``fan_in_fan_out`` is set.

        One flag speaks for all sites: for an adapter of both Linear and Conv1D modules, ask the base which is which.
        """
        delta = self.delta_weight(site)
        return delta.T if self.settings.fan_in_fan_out else delta

    def norm(self) -> float:
        """Compute the Frobenius norm over the delta weights of all sites, from r x r products alone."""
        return math.sqrt(sum(self._squared_norm(site) for site in self.sites))

    def _squared_norm(self, site: str) -> float:
        a, b = self.lora_A[site].detach().double(), self.lora_B[site].detach().double()
        # Rounding can push the trace of a vanishing product below zero.
        return self.settings.scaling(site) ** 2 * max(float(((a @ a.T) * (b.T @ b)).sum()), 0.0)

    @classmethod
    def from_factors(
        cls,
        lora_A: Mapping[str, Tensor],
        lora_B: Mapping[str, Tensor],
        *,
        base_model_name_or_path: str | None,
        task_type: str | None = None,
        fan_in_fan_out: bool = False,
        scaling: float = 1.0,
    ) -> Self:
        """Make an adapter whose update is ``scaling`` · B · A at every site, each with the rank of its factors.

        Sites are named in full, since short endings could cover further modules of the base. ``r`` is the largest rank,
        which is what servers reserve room for, and ``lora_alpha`` / ``r`` is ``scaling`` even to readers that know no
        patterns.

        Raises:
            AdapterError: the factors do not make an adapter.
        """
        ranks = {site: lora_A[site].shape[0] for site in sorted(lora_A, key=_natural)}
        r = max(ranks.values(), default=1)
        lower = {f"^{re.escape(site)}": rank for site, rank in ranks.items() if rank != r}
        settings = LoraSettings(
            r=r,
            lora_alpha=scaling * r,
            target_modules=tuple(ranks),
            base_model_name_or_path=base_model_name_or_path,
            task_type=task_type,
            fan_in_fan_out=fan_in_fan_out,
            rank_pattern=lower,
            alpha_pattern={key: scaling * rank for key, rank in lower.items()},
        )
        return cls(settings, lora_A, lora_B)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a PEFT adapter folder.

        Raises:
            AdapterError: the folder is missing, damaged, or holds something unsupported; the message names it.
        """
        try:
            config = _read_config(folder)
            settings = LoraSettings.from_config(config)
            lora_A, lora_B = _split_factors(_read_tensors(folder))
            if any(config.get(key) not in (None, [], "") for key in _NARROWING):
                settings = replace(settings, target_modules=tuple(sorted(lora_A, key=_natural)))
            return cls(settings, lora_A, lora_B)
        except AdapterError as error:
            raise AdapterError(f"The adapter {folder} cannot be used: {error}") from error

    def save(self, folder: Path, *, extra_files: Mapping[str, str | bytes] = MappingProxyType({})) -> None:
        """Write a PEFT adapter folder, whole or not at all, in place of any that stands there.

        Equal adapters give equal bytes. ``extra_files`` maps the names of further files, such as a card, to contents.
        """
        assert not {CONFIG_NAME, WEIGHTS_NAME} & extra_files.keys(), "extra files take the adapter's own names"
        tensors = {}
        for site in self.sites:
            for letter, factor in (("A", self.lora_A[site]), ("B", self.lora_B[site])):
                # Cloned, since the file format holds no shared storage, while sites may share an A.
                copy = factor.detach().cpu().clone(memory_format=torch.contiguous_format)
                tensors[f"base_model.model.{site}.lora_{letter}.weight"] = copy
        # The format's writer keeps no order among several entries of metadata.
        weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
        config = json.dumps(self.settings.to_config(), indent=2) + "\n"
        with atomic_folder(folder) as staging:
            for name, content in {CONFIG_NAME: config, WEIGHTS_NAME: weights, **extra_files}.items():
                (staging / name).write_bytes(content.encode() if isinstance(content, str) else content)


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise AdapterError("there is no such folder; give the path of a folder that PEFT's save_pretrained wrote.")
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise AdapterError(f"it has no {CONFIG_NAME}; give the path of a folder that PEFT's save_pretrained wrote.")
    try:
        config = json.loads(path.read_bytes(), object_pairs_hook=_without_duplicates)
    except ValueError as error:
        raise AdapterError(f"{CONFIG_NAME} is not readable JSON ({error}); export the adapter again.") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{CONFIG_NAME} holds a {type(config).__name__}; a mapping of keys to values was wanted.")
    return config


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{CONFIG_NAME} has peft_type={config.get('peft_type')!r}; only 'LORA' is supported.")
    if config.get("bias", "none") != "none":
        raise AdapterError(
            f"{CONFIG_NAME} has bias={config['bias']!r}: base biases are trained too; only 'none' is supported."
        )
    init = config.get("init_lora_weights")
    if (init.lower() if isinstance(init, str) else init) not in _HARMLESS_INITS:
        raise AdapterError(
            f"{CONFIG_NAME} has init_lora_weights={init!r}, which may have changed the base weights under the adapter; "
            "convert it with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )
    for key, value in config.items():
        if key in _REFUSED and value not in (None, False, []):
            raise AdapterError(f"{CONFIG_NAME} sets {key}={value!r}: {_REFUSED[key]}; train the adapter without it.")
        if key not in _READ | _IGNORED | _NARROWING | _REFUSED.keys() and value:
            raise AdapterError(
                f"{CONFIG_NAME} sets {key}={value!r}, which is unknown here; if it is harmless, remove it."
            )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_NAME
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        raise AdapterError(
            "it holds adapter_model.bin, a pickle, which can run any code when it is read; if you trust it, load it "
            f"with PEFT and save it again as {WEIGHTS_NAME}."
        )
    if not path.is_file():
        raise AdapterError(f"it has no {WEIGHTS_NAME}; give the path of a folder that PEFT's save_pretrained wrote.")
    data = path.read_bytes()
    try:
        tensors = safetensors.torch.load(data)
        # The reader takes the last of several equal keys without a word.
        json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")], object_pairs_hook=_without_duplicates)
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a dtype that torch does not have
        raise AdapterError(
            f"{WEIGHTS_NAME} is damaged or no safetensors file ({error}); fetch or export it again."
        ) from error
    return tensors


def _split_factors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    factors: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            reasons = (reason for part, reason in _FOREIGN_KEYS.items() if part in key)
            raise AdapterError(
                f"{WEIGHTS_NAME} holds {key}: {next(reasons, 'no LoRA factor in PEFT naming')}; "
                "export the adapter without it."
            )
        site, factor = match["site"], match["factor"]
        if site in factors[factor]:
            raise AdapterError(f"{WEIGHTS_NAME} holds lora_{factor} of {site} twice; remove one of them.")
        factors[factor][site] = tensor
    return factors["A"], factors["B"]


def _check_factor(name: str, factor: Tensor) -> None:
    if factor.dtype not in _DTYPES:
        wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise AdapterError(f"{name} has dtype {factor.dtype}; one of {wanted} was wanted.")
    if factor.ndim != 2 or not factor.numel():
        raise AdapterError(
            f"{name} has shape {tuple(factor.shape)}; a matrix was wanted. Only linear modules are supported, "
            "and what was trained in shards must be gathered before it is saved."
        )
    if bad := int((~factor.isfinite()).sum()):
        raise AdapterError(f"{name} holds {bad} values that are not finite; train or export the adapter again.")


def _look_up(pattern: Mapping[str, T], site: str, default: T) -> T:
    key = next((key for key in pattern if _compiled(_ending(key)).match(site)), site)
    return pattern.get(key, default)


def _ending(key: str) -> str:
    return rf"(.*\.)?({key})$"


# The cache of `re` holds 512 expressions: fewer than a large model has sites with ranks of their own.
_compiled = lru_cache(maxsize=8192)(re.compile)


def _compiles(expression: str) -> bool:
    try:
        return bool(_compiled(expression))
    except re.error:
        return False


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise AdapterError(f"{name} is {value!r}; {wanted} was wanted.")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return values


def _tidy(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def _natural(name: str) -> tuple[list[Any], str]:
    # Splitting on digits alternates text and number, so that like is only compared with like.
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name
