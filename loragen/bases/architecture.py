"""The adaptable modules of a base model, from its config alone, and the faults of an adapter that does not fit them.

Each site of an adapter must be a linear module of the base, under that very name and of those very sizes. PEFT and
servers check less: a site that they do not find, they leave out without an error.
"""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from loragen.adapters.adapter import AdapterSpec, Lora, Site
from loragen.adapters.settings import natural
from loragen.bases.auto_classes import AUTO_CLASSES
from loragen.bases.auto_classes import auto_class as auto_class
from loragen.bases.bert_config import linear_sizes, read_config
from loragen.bases.empty_model import config_folder, declared_class, empty_model
from loragen.errors import AdapterError, ConfigError

HEADED = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
"""Task types of adapters whose head PEFT trains and keeps beside their factors."""
# Classes that an adapter without a task type may have been made on, beside the one that its base's config names.
_USUAL = ("AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification")


@dataclass(frozen=True)
class Linear:
    """Sizes of a linear module."""

    out_features: int
    in_features: int
    is_transposed: bool = False
    """True if its weight is kept as (in, out), as GPT-2's Conv1D keeps it."""


@dataclass(frozen=True)
class Architecture:
    """The modules of a base model as one class of transformers lays it out."""

    name: str
    """Folder or Hub name, as the caller gave it."""
    model_class: str
    model_type: str
    """Name of the architecture in ``config.json``, such as ``llama``."""
    is_encoder_decoder: bool
    linear: Mapping[str, Linear]
    """Path of every linear module → its sizes."""
    others: Mapping[str, str]
    """Path of every other module → its class."""

    @classmethod
    def of(cls, name: str, task_type: str | None = None, *, is_local: bool = False) -> "Architecture":
        """Lay out a base model, found as `resolve_model` does, but without its weights or code: only its config.

        The class is that of PEFT's ``task_type``; without one, the class that the config names, which is what servers
        build, or else AutoModel's. ``is_local`` asks nothing of the Hub.

        Raises:
            ConfigError: there is no such config, or transformers cannot lay it out.
        """
        folder = config_folder(name, is_local=is_local)
        return cls._laid_out(name, folder, AUTO_CLASSES[task_type] if task_type else declared_class(name, folder))

    @classmethod
    def _laid_out(cls, name: str, folder: Path, class_name: str) -> "Architecture":
        from transformers.pytorch_utils import Conv1D

        linear, others = {}, {}
        model = empty_model(name, folder, class_name)
        for path, module in model.named_modules():
            if isinstance(module, Conv1D):
                in_features, out_features = module.weight.shape
                linear[path] = Linear(out_features, in_features, is_transposed=True)
            elif isinstance(module, nn.Linear):
                linear[path] = Linear(module.out_features, module.in_features)
            elif path:
                others[path] = type(module).__name__
        return cls(
            name=name,
            model_class=type(model).__name__,
            model_type=str(model.config.model_type),
            is_encoder_decoder=bool(getattr(model.config, "is_encoder_decoder", False)),
            linear={path: linear[path] for path in sorted(linear, key=natural)},
            others=others,
        )

    @classmethod
    def fitting(
        cls, name: str, sites: Collection[str], task_type: str | None = None, *, is_local: bool = False
    ) -> "Architecture":
        """Lay out a base model with the class that an adapter of these sites was made on.

        An adapter's task type settles it, where the base has a class for it. Elsewhere the first class that has all of
        its sites is taken: the inner model names them ``layers.0…``, the language model around it ``model.layers.0…``.
        If none has them all, it is the class that has most.

        Raises:
            ConfigError: there is no such config, or transformers cannot lay it out.
        """
        if task_type is None:
            return cls._with_most(name, sites, is_local=is_local)
        try:
            return cls.of(name, task_type, is_local=is_local)
        except ConfigError as error:  # such as no causal class of a vision model
            try:
                return cls._with_most(name, sites, is_local=is_local)
            except ConfigError:
                raise error from None

    @classmethod
    def _with_most(cls, name: str, sites: Collection[str], *, is_local: bool) -> "Architecture":
        """The first class that has all of some sites, or else the one that has most."""
        best = None
        for candidate in cls._candidates(name, config_folder(name, is_local=is_local)):
            if all(site in candidate.linear for site in sites):
                return candidate
            if best is None or _shared(candidate, sites) > _shared(best, sites):
                best = candidate
        assert best is not None, "the first candidate is laid out, or raises"
        return best

    @classmethod
    def _candidates(cls, name: str, folder: Path) -> Iterator["Architecture"]:
        declared = cls._laid_out(name, folder, declared_class(name, folder))
        yield declared
        seen = {declared.model_class}
        for auto in _USUAL:
            try:
                candidate = cls._laid_out(name, folder, auto)
            except ConfigError:  # not every architecture has a class for every purpose
                continue
            if candidate.model_class not in seen:
                seen.add(candidate.model_class)
                yield candidate

    @classmethod
    def at_hand(cls, name: str, sites: Collection[str], task_type: str | None = None) -> "Architecture | None":
        """`fitting` if the config is on this machine already, else ``None``; nothing is asked of the Hub.

        Raises:
            ConfigError: the config is here, but transformers cannot lay it out.
        """
        try:
            config_folder(name, is_local=True)
        except ConfigError:
            return None
        return cls.fitting(name, sites, task_type, is_local=True)

    @classmethod
    def check_at_hand(cls, name: str, adapter: Lora) -> None:
        """Refuse an adapter that does not fit its base, where the base's config is on this machine.

        The linear modules of a plain BERT follow from its config, so that an adapter that fits one costs no import of
        transformers; all else is laid out.

        Raises:
            AdapterError: the adapter has `faults`.
            ConfigError: the config is here, but transformers cannot lay it out.
        """
        if _fits_plain_bert(name, adapter):
            return
        if architecture := cls.at_hand(name, adapter.sites, adapter.settings.task_type):
            architecture.check(adapter)

    def unknown(self, sites: Iterable[str]) -> tuple[str, ...]:
        """Sites that the base does not have."""
        return tuple(site for site in sites if site not in self.linear and site not in self.others)

    def strays(self, sites: Iterable[str]) -> tuple[str, ...]:
        """Sites that are modules of the base, but not linear ones."""
        return tuple(site for site in sites if site in self.others)

    def misshapen(self, spec: AdapterSpec) -> tuple[Site, ...]:
        """Sites whose sizes are not those of the base."""
        known = ((site, self.linear[site.name]) for site in spec.sites if site.name in self.linear)
        return tuple(
            site
            for site, linear in known
            if (site.out_features, site.in_features) != (linear.out_features, linear.in_features)
        )

    def stores_transposed(self, sites: Iterable[str]) -> bool:
        """True if the base keeps a weight at one of these sites as (in, out): the right value of fan_in_fan_out."""
        return any(self.linear[site].is_transposed for site in sites if site in self.linear)

    def renaming(self, sites: Sequence[str]) -> tuple[str, str] | None:
        """The prefix that these sites have and the one that turns each of them into a linear module of the base."""
        parts = sites[0].split(".")
        for cut in range(len(parts) - 1):  # the longest common ending first
            ending = ".".join(parts[cut:])
            old = sites[0].removesuffix(ending)
            for name in self.linear:
                new = name.removesuffix(ending)
                # A number in the base's prefix is a layer: another layer is no other way to name this one.
                if (
                    new != name
                    and (not new or new.endswith("."))
                    and not any(part.isdecimal() for part in new.split("."))
                    and all(site.startswith(old) and new + site[len(old) :] in self.linear for site in sites)
                ):
                    return old, new
        return None

    def faults(self, adapter: Lora) -> tuple[str, ...]:
        """Reasons, each with the way out, why an adapter does not change this base as it was meant to."""
        found = []
        if unknown := self.unknown(adapter.sites):
            found.append(self._say_unknown(unknown, len(adapter.sites)))
        if strays := self.strays(adapter.sites):
            found.append(
                f"{strays[0]!r} is of class {self.others[strays[0]]} in {self._title}, no linear module"
                f"{_more(strays)}; make the adapter without it."
            )
        if misshapen := self.misshapen(adapter.spec):
            site, linear = misshapen[0], self.linear[misshapen[0].name]
            found.append(
                f"The adapter maps {site.in_features} to {site.out_features} features at {site.name!r}, the base "
                f"{linear.in_features} to {linear.out_features}{_more(misshapen)}; name the base it was made for "
                "with --base."
            )
        transposed = self.stores_transposed(adapter.sites)
        if any(site in self.linear for site in adapter.sites) and adapter.settings.fan_in_fan_out != transposed:
            how = (
                "keeps weights of its sites as (in, out)" if transposed else "keeps no weight of its sites as (in, out)"
            )
            flag, wanted = (str(value).lower() for value in (adapter.settings.fan_in_fan_out, transposed))
            found.append(
                f"fan_in_fan_out is {flag}, but {self._title} {how}; set it to {wanted} in adapter_config.json."
            )
        return tuple(found)

    def check(self, adapter: Lora) -> None:
        """Refuse an adapter that does not fit.

        Raises:
            AdapterError: the adapter has `faults`.
        """
        if faults := self.faults(adapter):
            raise AdapterError(" ".join(faults))

    @property
    def _title(self) -> str:
        return f"{self.model_class} of {self.name}"

    def _say_unknown(self, unknown: Sequence[str], total: int) -> str:
        first = unknown[0]
        said = f"{len(unknown)} of the adapter's {total} sites are not in {self._title}: it has no {first!r}"
        silence = "Loaded all the same, they stay as the base has them, without an error (vLLM's issue 34186)"
        if prefixes := self.renaming(unknown):
            old, new = prefixes
            right = new + first[len(old) :]
            if not old:
                how = f"the prefix {new!r} is missing"
            elif not new:
                how = f"the prefix {old!r} is too much"
            else:
                how = f"the prefix is {new!r}, not {old!r}"
            return f"{said} but {right!r}, so {how}. {silence}; rename its keys, or name another base with --base."
        near = difflib.get_close_matches(first, self.linear, n=1)
        nearest = f", the nearest is {near[0]!r}" if near else ""
        return f"{said}{nearest}. {silence}; name the base it was made for with --base."


def _fits_plain_bert(name: str, adapter: Lora) -> bool:
    """True if the base is at hand, a plain BERT without a head, and has all sites of the adapter in these sizes."""
    if adapter.settings.task_type != "FEATURE_EXTRACTION" or adapter.settings.fan_in_fan_out:
        return False
    try:
        config = read_config(config_folder(name, is_local=True))
    except ConfigError:
        return False
    sizes = linear_sizes(config) if config else {}
    return all(sizes.get(site.name) == (site.out_features, site.in_features) for site in adapter.spec.sites)


def _more(found: Sequence[object]) -> str:
    return f" (the first of {len(found)} such sites)" if len(found) > 1 else ""


def _shared(architecture: Architecture, sites: Iterable[str]) -> int:
    return sum(site in architecture.linear for site in sites)
