"""Pruned bases in folders of their own, to train adapters on in less memory and time (LoRAM, arXiv 2502.13533)."""

import errno
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError

from loragen.adapters.index_map import PRUNED, IndexMap
from loragen.bases.beside_weights import copy_beside_weights
from loragen.bases.empty_model import declared_class
from loragen.bases.hub import quiet_loading, resolve_model, weights_hash
from loragen.bases.pretrained import Pretrained, load_pretrained, read_model_config
from loragen.bases.pruning import Kept, index_map, pruned_copy
from loragen.errors import ConfigError, shown
from loragen.files import atomic_folder, refuse_to_replace

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@final
@dataclass(frozen=True)
class PrunedBase:
    """A pruned base that was written to a folder, with its index map."""

    folder: Path
    base: str
    """The full base."""
    kept: Kept
    parameters: int
    all_parameters: int
    """Of the full base."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"folder": str(self.folder)}


def prune_base(
    base: str, out: Path | str, *, neurons: float = 0.25, heads: float = 0.0, force: bool = False
) -> PrunedBase:
    """Write a base without its weakest neurons and attention heads: a plain model folder, and an index map in it.

    Adapters are trained on the folder as on any base, in less memory and time; `recover` then makes them adapters of
    the full base. Kept are the neurons and heads of the largest weight norm, as many in every layer. Heads that share
    their keys and values are pruned together. The architecture's config must have a place for the number of heads:
    Llama's wants a divisor of the hidden size, and BERT's has none at all.

    Args:
        base: folder or Hub name of the full base.
        out: folder to be written.
        neurons: share of each feed-forward layer's neurons that is left out, from 0 to below 1.
        heads: share of each layer's attention heads that is left out, from 0 to below 1.
        force: replace what stands at ``out``, if it is ours.

    Raises:
        ConfigError: there is no such base; which neurons and heads belong together is not known for its architecture,
            or its config has no place for such a model; or something stands at ``out`` that may not be replaced.
    """
    target = Path(out)
    refuse_to_replace([target], force=force, read=(base,))
    folder = resolve_model(base)
    dtype = _stored_dtype(read_model_config(base, folder))
    loaded = load_pretrained(base, folder, declared_class(base, folder), dtype=dtype)
    loaded.refuse_made_up(base)
    indices, kept = index_map(loaded.model, base=base, base_hash=weights_hash(folder), neurons=neurons, heads=heads)
    smaller: Any = pruned_copy(loaded.model, indices)
    smaller.config = _config_of(loaded.model, base, kept)
    with atomic_folder(target, replace=force) as staging:
        copy_beside_weights(folder, staging)
        _write(smaller, loaded, indices, staging, target)
        (staging / "README.md").write_text(_readme(base, kept), encoding="utf-8")
        _check_written(smaller, loaded, staging, dtype)
    before, after = (sum(one.numel() for one in model.parameters()) for model in (loaded.model, smaller))
    return PrunedBase(target, base, kept, after, before)


def _stored_dtype(config: dict[str, Any]) -> torch.dtype:
    """The precision that a model's weights are kept in, as its config says."""
    return _DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), torch.float32)


def _config_of(model: Any, base: str, kept: Kept) -> Any:
    """The config of the pruned model.

    Raises:
        ConfigError: it has no place for this number of heads.
    """
    values = model.config.to_dict() | {"intermediate_size": kept.neurons}
    if kept.heads != kept.all_heads:
        if not hasattr(model.config, "num_key_value_heads"):
            raise ConfigError(
                f"The config of {shown(base)}, of the architecture {shown(model.config.model_type)}, has no place for "
                "heads that were pruned: their size is the hidden size by their number there. Prune neurons alone, "
                "with --heads 0; the recipe 'loram' prunes heads too, in memory."
            )
        size = getattr(model.config, "head_dim", None) or model.config.hidden_size // kept.all_heads
        values |= {"num_attention_heads": kept.heads, "num_key_value_heads": kept.key_value_heads, "head_dim": size}
    try:
        return type(model.config).from_dict(values)
    except Exception as error:  # its checks are those of any architecture
        raise ConfigError(
            f"The config of {shown(base)} does not take {kept.heads} of its {kept.all_heads} heads, where the hidden "
            f"size is {model.config.hidden_size}; give another share with --heads."
        ) from error


def _write(smaller: Any, loaded: Pretrained, indices: IndexMap, staging: Path, target: Path) -> None:
    weights = {name: weight for name, weight in smaller.state_dict().items() if name not in loaded.made_up}
    try:
        with quiet_loading():
            smaller.save_pretrained(staging, state_dict=weights)
    except SafetensorError as error:  # its writer's own error for a disk that fails
        raise OSError(errno.EIO, str(error), str(target)) from error
    (staging / PRUNED).write_text(indices.to_json(), encoding="utf-8")


def _check_written(smaller: Any, loaded: Pretrained, staging: Path, dtype: torch.dtype) -> None:
    """Load the pruned model back, and its map: they must be those that were meant.

    Raises:
        ConfigError: they are not.
    """
    read = load_pretrained(str(staging), staging, type(smaller).__name__, dtype=dtype)
    met, wanted = read.model.state_dict(), smaller.state_dict()
    same = met.keys() == wanted.keys() and read.made_up == loaded.made_up
    if not same or not all(name in read.made_up or torch.equal(met[name], wanted[name]) for name in wanted):
        raise ConfigError("The pruned model does not read back as it was written; check the disk. Nothing was kept.")
    IndexMap.load(staging)


def _readme(base: str, kept: Kept) -> str:
    return f"""# {base}, pruned

{kept.neurons} of {kept.all_neurons} neurons of each feed-forward layer and {kept.heads} of {kept.all_heads} attention
heads of each layer of `{base}` were kept, those of the largest weight norm. It is meant for the training of LoRAs
(LoRAM, arXiv 2502.13533), not for use by itself: `loragen recover` makes them adapters of the full model, by the index
map in `{PRUNED}`. The licence is that of the full model.
"""
