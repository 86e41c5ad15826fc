"""Where llama.cpp's GGUF models keep the weights of a base: the tensor of each site, and the order of its rows.

Names come from the package gguf. The order of rows is that in which llama.cpp's converter writes a weight: models whose
queries and keys turn halves of a head are stored with neighbouring pairs (Llama, Mistral), and fused projections that
transformers keeps head by head are stored as all queries, all keys, all values (GPT-NeoX, Bloom, Falcon). Neither moves
an input, so that a LoRA follows by the rows of its B alone. Read from conversion/*.py of llama.cpp, November 2026.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.base_store.gguf_header import gguf_package
from loragen.bases.architecture import HEADED, Architecture
from loragen.bases.empty_model import config_folder, empty_model
from loragen.bases.renaming import renamed
from loragen.errors import AdapterError, named
from loragen.exporters.verdict import last_name

MERGE_INSTEAD = (
    "merge it instead: `loragen merge ADAPTER --out MODEL`, and MODEL through llama.cpp's convert_hf_to_gguf.py"
)
HEAD, EMBEDDINGS = "output.weight", "token_embd.weight"

RowOrder = Callable[[Any, str, int], Tensor | None]
"""Config, site, number of rows → for each row of the GGUF tensor the row of the module; `None` for the same order."""


def _as_it_is(config: Any, site: str, rows: int) -> Tensor | None:
    return None


def _by_pairs(config: Any, site: str, rows: int) -> Tensor | None:
    """Queries and keys: the halves of a head side by side, pair by pair."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": getattr(config, "num_key_value_heads", None)}
    kind = last_name(site)
    if kind not in heads:
        return None
    return torch.arange(rows).reshape(heads[kind] or config.num_attention_heads, 2, -1).swapaxes(1, 2).reshape(-1)


def _by_kind(config: Any, site: str, rows: int) -> Tensor | None:
    """A fused projection: queries, keys and values of a head after one another become all queries, keys, values."""
    if last_name(site) != "query_key_value":
        return None
    return torch.arange(rows).reshape(config.num_attention_heads, 3, -1).swapaxes(0, 1).reshape(-1)


def _by_group(config: Any, site: str, rows: int) -> Tensor | None:
    """The same where several heads of queries share one of keys and values, as in Falcon."""
    if last_name(site) != "query_key_value":
        return None
    heads = config.num_attention_heads
    size = config.hidden_size // heads
    groups = (rows // size - heads) // 2
    parts = torch.arange(rows).reshape(groups, heads // groups + 2, size)
    return torch.cat([parts[:, :-2].reshape(-1), parts[:, -2].reshape(-1), parts[:, -1].reshape(-1)])


@dataclass(frozen=True)
class Family:
    """How llama.cpp keeps the models of one of transformers' types."""

    arch: str
    """Name in ``gguf.MODEL_ARCH``."""
    order: RowOrder = _as_it_is


FAMILIES = {
    **{kind: Family("LLAMA", _by_pairs) for kind in ("llama", "mistral", "mixtral")},
    **{kind: Family(kind.upper(), _by_pairs) for kind in ("arcee", "granite", "olmo", "smollm3")},
    **{kind: Family("BERT") for kind in ("bert", "camembert", "distilbert", "roberta", "xlm-roberta")},
    **{kind: Family(kind.upper()) for kind in ("apertus", "cohere2", "ernie4_5", "eurobert", "exaone4", "gemma")},
    **{kind: Family(kind.upper()) for kind in ("gemma2", "glm4", "gpt2", "mpt", "nemotron", "olmo2", "olmoe", "phi3")},
    **{kind: Family(kind.upper()) for kind in ("qwen2", "qwen3", "seed_oss", "stablelm", "starcoder2", "t5")},
    "bloom": Family("BLOOM", _by_kind),
    "cohere": Family("COMMAND_R"),
    "falcon": Family("FALCON", _by_group),
    "gemma3_text": Family("GEMMA3"),
    "glm": Family("CHATGLM"),
    "gpt_bigcode": Family("STARCODER"),
    "gpt_neox": Family("GPTNEOX", _by_kind),
    "hunyuan_v1_dense": Family("HUNYUAN_DENSE"),
    "ministral3": Family("MISTRAL3", _by_pairs),
    "modernbert": Family("MODERN_BERT"),
    "mt5": Family("T5"),
    "olmo3": Family("OLMO2"),
    "phi": Family("PHI2"),
    "qwen2_moe": Family("QWEN2MOE"),
    "qwen3_moe": Family("QWEN3MOE"),
}
"""By the type in a base's config."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where a GGUF model keeps the weight of a site."""

    tensor: str
    """Name, such as ``blk.0.attn_q.weight``."""
    rows: Tensor | None
    """For each row of the tensor the row of the module; `None` for the same order."""

    def stored(self, weight: Tensor) -> Tensor:
        """A matrix of the module's rows in the order of the tensor's."""
        return weight if self.rows is None else weight[self.rows]

    def restored(self, stored: Tensor) -> Tensor:
        """A matrix of the tensor's rows in the order of the module's."""
        return stored if self.rows is None else stored[torch.argsort(self.rows)]


@dataclass(frozen=True, eq=False)
class Placed:
    """An adapter whose every site has its tensor."""

    adapter: Lora
    """Under the names that its sites have in the base."""
    arch: str
    """llama.cpp's name of the architecture, such as ``llama``."""
    places: Mapping[str, Place]
    """By site, in the adapter's order."""
    is_tied: bool
    """True if the base's head shares its weight with the embeddings."""


def placed(adapter: Lora, base: str, *, is_local: bool) -> Placed:
    """Find the tensor of each site of an adapter in the GGUF models of its base.

    Args:
        adapter: the adapter.
        base: folder or Hub name of the base, of which only the config is read.
        is_local: ask nothing of the Hub.

    Raises:
        AdapterError: the adapter does not fit the base, or a site has no tensor there; the message names it.
        ConfigError: there is no config of the base.
    """
    gguf = gguf_package()
    if adapter.settings.task_type in HEADED:
        raise AdapterError(
            f"The adapter is of the task type {adapter.settings.task_type}, whose head a GGUF file of it cannot hold; "
            "`loragen combine ADAPTER --without-head --out OUT` makes one of the model inside."
        )
    architecture = Architecture.fitting(base, adapter.sites, adapter.settings.task_type, is_local=is_local)
    adapter = renamed(adapter, architecture)
    flag = architecture.stores_transposed(adapter.sites)  # PEFT puts a wrong one right
    architecture.check(replace(adapter, settings=replace(adapter.settings, fan_in_fan_out=flag)))
    model = empty_model(base, config_folder(base, is_local=is_local), architecture.model_class)
    config = model.config.get_text_config()
    family = FAMILIES.get(config.model_type)
    if family is None or not hasattr(gguf.MODEL_ARCH, family.arch):
        raise AdapterError(
            f"It is not known here how llama.cpp keeps a model of the type {named(config.model_type)}; known are "
            f"{', '.join(sorted(FAMILIES))}. Where llama.cpp runs it, {MERGE_INSTEAD}."
        )
    arch = gguf.MODEL_ARCH[family.arch]
    table = gguf.get_tensor_name_map(arch, _blocks(config))
    places = {}
    for site in adapter.spec.sites:
        tensor = next((name for each in _names(site.name) if (name := table.get_name(each))), None)
        if tensor is None or f"{tensor}.weight" == EMBEDDINGS:
            raise AdapterError(
                f"llama.cpp's models of the architecture {gguf.MODEL_ARCH_NAMES[arch]} have no matrix of their own for "
                f"{site.name!r}; make the adapter without it, or {MERGE_INSTEAD}."
            )
        places[site.name] = Place(f"{tensor}.weight", family.order(config, site.name, site.out_features))
    is_tied = bool(getattr(config, "tie_word_embeddings", False))
    return Placed(adapter, gguf.MODEL_ARCH_NAMES[arch], places, is_tied)


def _blocks(config: Any) -> int:
    """Layers of a model; an encoder-decoder's two halves share their numbers."""
    return int(max(config.num_hidden_layers, getattr(config, "num_decoder_layers", None) or 0))


def _names(site: str) -> Iterator[str]:
    """A module's name as the package knows it: that of an inner model may lack a prefix, or have one too many."""
    yield site
    for prefix in ("model.", "bert.", "distilbert.", "roberta."):
        if site.startswith(prefix):
            yield site.removeprefix(prefix)
    for prefix in ("model.", "transformer.", "gpt_neox."):
        yield prefix + site
