"""Names of tensors in the files of adapters: one table of renames, and the one pattern of a factor.

PEFT writes ``base_model.model.SITE.lora_A.weight``. What training tools put around these names is taken off; of a name
that PEFT itself reads, nothing is changed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from loragen.adapters.folder_files import PREFIX as PREFIX
from loragen.adapters.foreign import foreign_key
from loragen.errors import AdapterError, shown

LONGEST = 500
"""Characters of a name."""
EMBEDDINGS = frozenset(
    {
        *("embed_tokens", "wte", "word_embeddings", "shared", "embed_in", "tok_embeddings", "embeddings"),
        *("token_embedding", "embedding"),
    }
)
"""Last names of modules that turn tokens into vectors."""
HEADS = frozenset({"lm_head", "embed_out", "output_layer"})
"""Last names of modules that turn vectors into tokens."""

_WRAPPERS = "_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module"
# In this order, each as often as it applies. A pattern that names PEFT's prefix leaves it standing.
_RENAMES = (
    (re.compile(rf"(?:(?<=\.)|^)({_WRAPPERS})\."), "", "taken out"),  # torch.compile, FSDP, checkpointing, DeepSpeed
    (re.compile(r"^(module|model|pretrained_model|policy)\.(?=(\w+\.){0,2}base_model\.model\.)"), "", "taken off"),
    (re.compile(r"^(base_model\.model)\.(?=base_model\.model\.)"), "", "taken off once"),
    (re.compile(r"^(?!base_model\.model\.)(?:module\.)*()"), PREFIX, "put in front"),
    (re.compile(r"(?<=^base_model\.model\.)(module)\."), "", "taken out"),  # DistributedDataParallel
)
_FACTOR = re.compile(r"base_model\.model\.(?P<site>.+)\.lora_(?P<factor>[AB])(?:\.(?P<name>[^.]+))?\.weight")
_SAVED_ALONG = re.compile(r"(?:base_model\.model\.)?(?P<module>.+?)(?P<is_layer>\.base_layer)?\.(?P<kind>weight|bias)")


@dataclass(frozen=True, eq=False)
class NamedTensors:
    """Tensors of an adapter by what they are."""

    lora_A: dict[str, Tensor] = field(default_factory=dict)
    lora_B: dict[str, Tensor] = field(default_factory=dict)
    saved_along: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the base, by the name of the parameter."""
    others: dict[str, str] = field(default_factory=dict)
    """Name after the prefix → name in the file of all else, such as the weights of a head."""
    renamed: str = ""
    """The renames in words; empty where there were none."""


def named_tensors(tensors: Mapping[str, Tensor], source: str) -> NamedTensors:
    """Sort the tensors of a file by what they are.

    Raises:
        AdapterError: a name stands for nothing that is known, or for the same as another; or several adapters lie in
            the file. ``source`` names the file.
    """
    found, renames = NamedTensors(), _Renames()
    plain = {key: renames.applied(_checked(key, source)) for key in sorted(tensors)}  # files have no order
    factors = {key: match for key, name in plain.items() if (match := _FACTOR.fullmatch(name))}
    _refuse_several(factors, source)
    for key in plain:
        tensor = tensors[key]
        if match := factors.get(key):
            _put(found.lora_A if match["factor"] == "A" else found.lora_B, match["site"], tensor, key, source)
        elif match := _saved_along(plain[key]):
            _put(found.saved_along, f"{match['module']}.{match['kind']}", tensor, key, source)
        else:
            found.others[plain[key].removeprefix(PREFIX)] = key
    return NamedTensors(found.lora_A, found.lora_B, found.saved_along, found.others, renames.told())


def _refuse_several(factors: Mapping[str, re.Match[str]], source: str) -> None:
    """Refuse a file of several adapters; a key without a name is of the one that PEFT calls ``default``."""
    examples = {match["name"] or "default": key for key, match in factors.items()}
    if len(examples) > 1:
        told = ", ".join(f"{shown(name)} ({key})" for name, key in sorted(examples.items())[:4])
        raise AdapterError(
            f"{source} holds {len(examples)} adapters in one: {told}; save each by itself, with PEFT's "
            "save_pretrained(..., selected_adapters=[NAME])."
        )


def site_of(key: str) -> str | None:
    """The module of a factor's key, renamed as need be; `None` for a key of another kind."""
    match = _FACTOR.fullmatch(_Renames().applied(key)) if len(key) <= LONGEST else None
    return match["site"] if match else None


def refuse_others(others: Mapping[str, str], source: str) -> None:
    """Refuse tensors that are no factors of a LoRA.

    Raises:
        AdapterError: there are such; the first one is named, and said to be what it is.
    """
    for name, key in others.items():
        reason, way_out = foreign_key(name)
        raise AdapterError(f"{source} holds {key}: {reason}; {way_out}.")


def _saved_along(plain: str) -> re.Match[str] | None:
    """The parts of the name of a base's weight that PEFT saves along: of an adapted module, or of an embedding."""
    match = _SAVED_ALONG.fullmatch(plain)
    if match is None or ".lora_" in plain:
        return None
    is_embedding = match["module"].rpartition(".")[2] in EMBEDDINGS | HEADS
    return match if match["is_layer"] or is_embedding else None


def _put(group: dict[str, Tensor], name: str, tensor: Tensor, key: str, source: str) -> None:
    if not all(name.split(".")):
        raise AdapterError(f"{source} holds {key}, which names no module; export the adapter again.")
    if name in group:
        raise AdapterError(f"{source} holds {key}, but names {name} twice; remove one of them.")
    group[name] = tensor


def _checked(key: str, source: str) -> str:
    if len(key) > LONGEST or not key.isprintable():
        raise AdapterError(
            f"{source} holds the name {shown(key)}; names of modules have at most {LONGEST} characters, all of them "
            "printable. Export the adapter again."
        )
    return key


class _Renames:
    """The renames that were made, counted by kind, with the first one as an example."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._example = ""

    def applied(self, key: str) -> str:
        """The name that PEFT would have written; a name that belongs to another kind of file stays as it is."""
        plain = key
        for pattern, replacement, verb in _RENAMES:
            if replacement and not re.search(r"\.lora_[AB]\.|\.base_layer\.", plain):
                continue  # the prefix is put before what is part of a LoRA alone
            while match := pattern.search(plain):
                plain = plain[: match.start()] + replacement + plain[match.end() :]
                self._count(f"{(match[1] or PREFIX.rstrip('.'))!r} {verb}")
        match = _FACTOR.fullmatch(plain)
        short = plain
        if match and match["name"] not in (None, "default"):  # PEFT itself reads keys with its own name for one adapter
            self._count(f"the adapter's name {match['name']!r} taken out")
            short = f"{PREFIX}{match['site']}.lora_{match['factor']}.weight"
        if short != key:
            self._example = self._example or f"{key} is read as {short}"
        return plain

    def _count(self, kind: str) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + 1

    def told(self) -> str:
        """All renames in words."""
        if not self._counts:
            return ""
        kinds = [f"{kind} ({count} times)" for kind, count in self._counts.items()]
        return f"keys renamed: {', '.join(kinds[:6])}, so that {self._example}"
