"""Settings of a PEFT LoRA config: rank, scaling and targets of every site. Unsupported settings are refused by name."""

import math
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self, TypeVar

from loragen.adapters.foreign import foreign_config
from loragen.errors import AdapterError, named, shown
from loragen.paths import split_revision
from loragen.patterns import compiles, matches

CONFIG_NAME = "adapter_config.json"

T = TypeVar("T")

HIGHEST_RANK = 65_536
LONGEST_NAME = 4096
"""Characters of a name in a config."""
PATTERN_SECONDS = 10.0
"""Longest time that the patterns of a config may take over all sites of its adapter."""
HEADED = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
"""Task types under which PEFT trains a head beside the adapter, and saves it along."""
WITHOUT_HEAD = (
    "read it without its head: --without-head for `loragen combine` and `loragen zoo import`, or without_head=True"
)

_TASK_TYPES = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")

_READ = {
    *("r", "lora_alpha", "target_modules", "base_model_name_or_path", "task_type", "use_rslora", "fan_in_fan_out"),
    *("rank_pattern", "alpha_pattern", "peft_type", "bias", "init_lora_weights", "revision"),
}
# These bear on training or provenance, or do nothing unless another key, which is looked at, switches them on.
_IGNORED = {
    *("auto_mapping", "inference_mode", "lora_dropout", "megatron_core", "peft_version"),
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "qalora_group_size", "runtime_config"),
}
# Of these `narrowing` takes care.
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
    """Settings of ``adapter_config.json``, reduced to those that are supported.

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
    revision: str | None = None
    """Of the base on the Hub; `None` for its main one."""

    def __post_init__(self) -> None:
        self._check_names()
        _require(_is_rank(self.r), "r", self.r, f"a whole number from 1 to {HIGHEST_RANK}")
        _require(_is_finite(self.lora_alpha), "lora_alpha", self.lora_alpha, "a finite number")
        for name in ("use_rslora", "fan_in_fan_out"):
            _require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        for name, is_good, wanted in (
            ("rank_pattern", _is_rank, f"a mapping of module names to whole numbers from 1 to {HIGHEST_RANK}"),
            ("alpha_pattern", _is_finite, "a mapping of module names to finite numbers"),
        ):
            pattern = getattr(self, name)
            _require(isinstance(pattern, Mapping) and all(map(is_good, pattern.values())), name, pattern, wanted)
            _require(all(compiles(_ending(key)) for key in pattern), name, pattern, "a mapping of regular expressions")
            object.__setattr__(self, name, dict(pattern))

    def _check_names(self) -> None:
        base, task, targets = self.base_model_name_or_path, self.task_type, self.target_modules
        _require(base is None or _is_name(base), "base_model_name_or_path", base, "a name or null")
        _require(self.revision is None or _is_name(self.revision), "revision", self.revision, "a name or null")
        _require(task is None or task in _TASK_TYPES, "task_type", task, f"null or one of {', '.join(_TASK_TYPES)}")
        if isinstance(targets, str):
            _require(compiles(targets), "target_modules", targets, "a regular expression")
        else:
            listed = isinstance(targets, tuple) and all(map(_is_name, targets))
            _require(listed, "target_modules", targets, "a list of module names or one regular expression")

    @property
    def base(self) -> str | None:
        """The base as models are named here: its name, with ``@`` and the revision where that is not the main one."""
        if self.base_model_name_or_path is None or self.revision in (None, "", "main"):
            return self.base_model_name_or_path
        return f"{self.base_model_name_or_path}@{self.revision}"

    def rank(self, site: str) -> int:
        """The rank at a site, patterns included."""
        return self._look_up("rank_pattern", self.rank_pattern, site, self.r)

    def alpha(self, site: str) -> float:
        """The alpha at a site, patterns included."""
        return self._look_up("alpha_pattern", self.alpha_pattern, site, self.lora_alpha)

    def scaling(self, site: str) -> float:
        """The factor before B·A at a site: alpha / r, or alpha / √r for rsLoRA, patterns included."""
        rank, alpha = self.rank(site), self.alpha(site)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def targets(self, site: str) -> bool:
        """True if ``target_modules`` covers a module."""
        if isinstance(self.target_modules, str):
            return self.target_modules.lower() == "all-linear" or self._timed(self.target_modules, site, whole=True)
        parts = site.split(".")
        return any(".".join(parts[place:]) in self._listed for place in range(len(parts)))

    @cached_property
    def _listed(self) -> frozenset[str]:
        return frozenset(self.target_modules)

    @cached_property
    def _known(self) -> dict[tuple[str, str], Any]:
        """Values that were looked up already, since patterns may be slow and are asked again and again."""
        return {}

    @cached_property
    def _spent(self) -> list[float]:
        """Seconds that each match took so far, as one sum."""
        return [0.0]

    def _look_up(self, name: str, pattern: Mapping[str, T], site: str, default: T) -> T:
        if not pattern:
            return default
        if (name, site) not in self._known:
            key = next((key for key in pattern if self._timed(_ending(key), site, whole=False)), site)
            self._known[name, site] = pattern.get(key, default)
        known: T = self._known[name, site]
        return known

    def _timed(self, expression: str, site: str, *, whole: bool) -> bool:
        """`matches`, within a bound of time over all sites.

        Raises:
            AdapterError: the patterns take too long.
        """
        begun = time.monotonic()
        found = matches(expression, site, whole=whole)
        self._spent[0] += time.monotonic() - begun
        if self._spent[0] > PATTERN_SECONDS:
            raise AdapterError(
                f"its patterns take over {PATTERN_SECONDS:.0f} s, the last one {shown(expression)}; write them without "
                "nested repetitions, or list the names of the modules."
            )
        return found

    @classmethod
    def for_ranks(
        cls,
        ranks: Mapping[str, int],
        *,
        base: str | None,
        task_type: str | None = None,
        fan_in_fan_out: bool = False,
        scaling: float = 1.0,
    ) -> Self:
        """Settings of an adapter whose update is ``scaling`` · B · A, from its ranks; see `Lora.from_factors`."""
        sites = sorted(ranks, key=natural)
        r = max(ranks.values(), default=1)
        lower = {f"^{re.escape(site)}": ranks[site] for site in sites if ranks[site] != r}
        name, revision = (None, None) if base is None else split_revision(base)
        return cls(
            r=r,
            lora_alpha=scaling * r,
            target_modules=tuple(sites),
            base_model_name_or_path=name,
            revision=revision,
            task_type=task_type,
            fan_in_fan_out=fan_in_fan_out,
            rank_pattern=lower,
            alpha_pattern={key: scaling * rank for key, rank in lower.items()},
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, without_head: bool = False) -> Self:
        """Take the supported settings from a parsed ``adapter_config.json``; keys left out get PEFT's defaults.

        ``without_head`` looks over ``modules_to_save`` where PEFT adds the head of a classifier to it.

        Raises:
            AdapterError: the config holds something that changes the update in a way that is not supported.
        """
        if without_head and config.get("task_type") in (None, *HEADED):
            config = {key: value for key, value in config.items() if key != "modules_to_save"}
        _refuse_unsupported(config)
        targets: Any = config.get("target_modules")
        return cls(
            r=config.get("r", 8),
            lora_alpha=config.get("lora_alpha", 8),
            target_modules=tuple(targets) if isinstance(targets, list) else targets,
            base_model_name_or_path=config.get("base_model_name_or_path") or None,  # an empty name is none
            task_type=config.get("task_type"),
            use_rslora=config.get("use_rslora", False),
            fan_in_fan_out=config.get("fan_in_fan_out", False),
            rank_pattern=config.get("rank_pattern") or {},
            alpha_pattern=config.get("alpha_pattern") or {},
            revision=config.get("revision"),
        )

    def to_config(self) -> dict[str, Any]:
        """Return the content of an ``adapter_config.json`` that PEFT loads, keys sorted."""
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
            "target_modules": targets if isinstance(targets, str) else sorted(set(targets), key=natural),
            "task_type": self.task_type,
            "use_dora": False,
            "use_rslora": self.use_rslora,
        } | ({} if self.revision is None else {"revision": self.revision})


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    if told := foreign_config(config):
        raise AdapterError(f"{CONFIG_NAME} {told}.")
    if config.get("bias", "none") != "none":
        raise AdapterError(
            f"{CONFIG_NAME} has bias={shown(config['bias'])}: base biases are trained too; only 'none' is supported."
        )
    init = config.get("init_lora_weights")
    if (init.lower() if isinstance(init, str) else init) not in _HARMLESS_INITS:
        raise AdapterError(
            f"{CONFIG_NAME} has init_lora_weights={shown(init)}, which may have changed the base weights under the "
            "adapter; convert it with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )
    for key, value in config.items():
        if key in _REFUSED and value not in (None, False, []):
            is_head = key == "modules_to_save" and config.get("task_type") in (None, *HEADED)
            way_out = f"where that is the head of a classifier, {WITHOUT_HEAD}" if is_head else "train it without that"
            raise AdapterError(f"{CONFIG_NAME} sets {key}={shown(value)}: {_REFUSED[key]}; {way_out}.")
        if key not in _READ | _IGNORED | _NARROWING | _REFUSED.keys() and value:
            raise AdapterError(
                f"{CONFIG_NAME} sets {named(key)}={shown(value)}, which is unknown here; if it is harmless, remove it."
            )


def _ending(key: str) -> str:
    return rf"(.*\.)?({key})$"


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= HIGHEST_RANK


def _is_name(value: object) -> bool:
    """True for a text of sensible length that can be written and handed to the system."""
    if not isinstance(value, str) or len(value) > LONGEST_NAME or "\0" in value:
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise AdapterError(f"{name} is {shown(value)}; {wanted} was wanted.")


def _tidy(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def natural(name: str) -> tuple[list[Any], str]:
    """Sort key under which layer 2 comes before layer 10."""
    # Splitting on digits alternates text and number, so that like is only compared with like.
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name
