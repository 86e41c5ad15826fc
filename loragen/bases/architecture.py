"""The adaptable modules of a base model, from its config alone, and whether an adapter fits them.

The model is laid out on torch's meta device, where a parameter has a shape and no memory: a base of any size takes a
second and none of its weights. What is asked of an adapter here is what PEFT and servers do not ask: each of its sites
must be a linear module of the base, under that very name, with those very sizes.
"""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from loragen.adapters.adapter import AdapterSpec, Lora, Site
from loragen.adapters.settings import natural
from loragen.bases.hub import EMBEDDED_MODEL, quiet_loading, resolve_model
from loragen.bases.plain_bert import linear_sizes, read_config
from loragen.errors import AdapterError, ConfigError

_CONFIG = "config.json"

# PEFT's task types name the class a base is loaded with.
_AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
# What an adapter without a task type may have been made on, beside the class that its base's config names.
_USUAL = ("AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification")


@dataclass(frozen=True)
class Linear:
    """Sizes of a linear module, and whether its weight is kept as (in, out), as GPT-2's Conv1D does."""

    out_features: int
    in_features: int
    is_transposed: bool = False


@dataclass(frozen=True)
class Blueprint:
    """The modules of a base model as one class of transformers lays it out."""

    name: str
    """Folder or Hub name, as it was asked for."""
    model_class: str
    model_type: str
    """What ``config.json`` calls the architecture, such as ``llama``."""
    is_encoder_decoder: bool
    linear: Mapping[str, Linear]
    """Path of every linear module → its sizes."""
    others: Mapping[str, str]
    """Path of every other module → its class."""

    @classmethod
    def of(cls, name: str, task_type: str | None = None, *, is_local: bool = False) -> "Blueprint":
        """Lay out a base model, found as `resolve_model` does, but without its weights or code: only its config.

        The class is that of PEFT's ``task_type``; without one, the class that the config names, which is what servers
        build, or else AutoModel's. ``is_local`` asks nothing of the Hub.

        Raises:
            ConfigError: there is no such config, or transformers cannot lay it out.
        """
        folder = _config_folder(name, is_local=is_local)
        return _laid_out(name, folder, _AUTO_CLASSES[task_type] if task_type else _declared(name, folder))

    @classmethod
    def fitting(
        cls, name: str, sites: Collection[str], task_type: str | None = None, *, is_local: bool = False
    ) -> "Blueprint":
        """Lay out a base model with the class that an adapter of these sites was made on.

        An adapter's task type settles it. Without one, the first class that has all of its sites is taken: the inner
        model names them ``layers.0…``, the language model around it ``model.layers.0…``. If none has them all, it is
        the class that has most.

        Raises:
            ConfigError: there is no such config, or transformers cannot lay it out.
        """
        if task_type is not None:
            return cls.of(name, task_type, is_local=is_local)
        best = None
        for candidate in _candidates(name, _config_folder(name, is_local=is_local)):
            if all(site in candidate.linear for site in sites):
                return candidate
            if best is None or _shared(candidate, sites) > _shared(best, sites):
                best = candidate
        assert best is not None, "the first candidate is laid out, or raises"
        return best

    @classmethod
    def at_hand(cls, name: str, sites: Collection[str], task_type: str | None = None) -> "Blueprint | None":
        """`fitting` if the config is on this machine already, else ``None``; nothing is asked of the Hub.

        Raises:
            ConfigError: the config is here, but transformers cannot lay it out.
        """
        try:
            _config_folder(name, is_local=True)
        except ConfigError:
            return None
        return cls.fitting(name, sites, task_type, is_local=True)

    @classmethod
    def check_at_hand(cls, name: str, adapter: Lora) -> None:
        """Refuse an adapter that does not fit its base, where the base's config is on this machine.

        The linear modules of a plain BERT follow from its config, so that an adapter that fits one costs no import of
        transformers; all else is laid out.

        Raises:
            AdapterError: what `faults` says.
            ConfigError: the config is here, but transformers cannot lay it out.
        """
        if _fits_plain_bert(name, adapter):
            return
        if blueprint := cls.at_hand(name, adapter.sites, adapter.settings.task_type):
            blueprint.check(adapter)

    def unknown(self, sites: Iterable[str]) -> tuple[str, ...]:
        """Those sites that the base does not have."""
        return tuple(site for site in sites if site not in self.linear and site not in self.others)

    def strays(self, sites: Iterable[str]) -> tuple[str, ...]:
        """Those sites that are modules of the base, but no linear ones."""
        return tuple(site for site in sites if site in self.others)

    def misshapen(self, spec: AdapterSpec) -> tuple[Site, ...]:
        """Those sites whose sizes are not the base's."""
        known = ((site, self.linear[site.name]) for site in spec.sites if site.name in self.linear)
        return tuple(
            site
            for site, linear in known
            if (site.out_features, site.in_features) != (linear.out_features, linear.in_features)
        )

    def stores_transposed(self, sites: Iterable[str]) -> bool:
        """Tell whether the base keeps a weight at one of these sites as (in, out): what fan_in_fan_out is to say."""
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
        """Say in words, with the way out, what keeps an adapter from changing this base as it was meant to."""
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
            AdapterError: what `faults` says.
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
    """Whether the base is at hand, a plain BERT without a head, and has all sites of the adapter in these sizes."""
    if adapter.settings.task_type != "FEATURE_EXTRACTION" or adapter.settings.fan_in_fan_out:
        return False
    try:
        config = read_config(_config_folder(name, is_local=True))
    except ConfigError:
        return False
    sizes = linear_sizes(config) if config else {}
    return all(sizes.get(site.name) == (site.out_features, site.in_features) for site in adapter.spec.sites)


def _more(found: Sequence[object]) -> str:
    return f" (the first of {len(found)} such sites)" if len(found) > 1 else ""


def _shared(blueprint: Blueprint, sites: Iterable[str]) -> int:
    return sum(site in blueprint.linear for site in sites)


def _config_folder(name: str, *, is_local: bool) -> Path:
    """The folder of a base's ``config.json``; from the Hub no other file is fetched."""
    known = name in (EMBEDDED_MODEL, f"sentence-transformers/{EMBEDDED_MODEL}") or Path(name).expanduser().is_dir()
    if not known:
        return _hub_config(name, is_local=is_local).parent
    folder = resolve_model(name)
    if not (folder / _CONFIG).is_file():
        raise ConfigError(f"{folder} holds no {_CONFIG}; give the folder of a transformers model, or its Hub name.")
    return folder


def _hub_config(name: str, *, is_local: bool) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        with quiet_loading():
            return Path(hf_hub_download(name, _CONFIG, local_files_only=is_local))
    except (OSError, ValueError) as error:  # both of them roots of the Hub's own errors
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"There is no config of the base {name!r}: it is no folder here, and the Hub gave none ({reason}). "
            f"Check the name, or go online once to fetch its {_CONFIG}."
        ) from error


def _declared(name: str, folder: Path) -> str:
    """The class that a config names, if transformers has it, else AutoModel."""
    import transformers

    with _config_errors(f"{name!r} has a {_CONFIG} that cannot be read"):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    known = (each for each in config.architectures or () if isinstance(getattr(transformers, each, None), type))
    return next(known, "AutoModel")


def _candidates(name: str, folder: Path) -> Iterator[Blueprint]:
    declared = _laid_out(name, folder, _declared(name, folder))
    yield declared
    seen = {declared.model_class}
    for auto_class in _USUAL:
        try:
            candidate = _laid_out(name, folder, auto_class)
        except ConfigError:  # not every architecture has a class for every purpose
            continue
        if candidate.model_class not in seen:
            seen.add(candidate.model_class)
            yield candidate


def _laid_out(name: str, folder: Path, maker: str) -> Blueprint:
    """Build a model of transformers' class ``maker``, or of what an auto class ``maker`` takes, without memory."""
    import transformers
    from transformers.pytorch_utils import Conv1D

    linear, others = {}, {}
    with _config_errors(f"{name!r} cannot be laid out as {maker}"), torch.device("meta"):
        # Attention that is not installed must not keep a model from being laid out.
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, attn_implementation="eager")
        made = getattr(transformers, maker)
        is_auto = maker.startswith("Auto")
        model: nn.Module = made.from_config(config, trust_remote_code=False) if is_auto else made(config)
        for path, module in model.named_modules():
            if isinstance(module, Conv1D):
                in_features, out_features = module.weight.shape
                linear[path] = Linear(out_features, in_features, is_transposed=True)
            elif isinstance(module, nn.Linear):
                linear[path] = Linear(module.out_features, module.in_features)
            elif path:
                others[path] = type(module).__name__
    return Blueprint(
        name=name,
        model_class=type(model).__name__,
        model_type=str(config.model_type),
        is_encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        linear={path: linear[path] for path in sorted(linear, key=natural)},
        others=others,
    )


@contextmanager
def _config_errors(what: str) -> Iterator[None]:
    """Turn whatever transformers raises over a config into a ConfigError, and keep its remarks to itself."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # a foreign config can fail at any place of any architecture
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"The base {what} ({reason}); an architecture was wanted that the installed transformers has such a class "
            "for, since no code that comes with a model is run."
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def auto_class(task_type: str | None) -> str:
    """The auto class of transformers that adapters of one of PEFT's task types are made on."""
    return _AUTO_CLASSES.get(task_type or "", "AutoModel")
