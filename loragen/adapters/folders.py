"""Where the adapter is in a folder, and what a folder is that holds none."""

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from torch import Tensor

from loragen.adapters import mlx
from loragen.adapters.folder_files import WEIGHTS_NAME as WEIGHTS_NAME
from loragen.adapters.reading import HEADER_BYTES, MOST_TENSORS, WEIGHTS_BYTES, read_json, read_tensors
from loragen.adapters.settings import CONFIG_NAME, natural
from loragen.errors import AdapterError, named, shown

INDEX_NAME = f"{WEIGHTS_NAME}.index.json"
FILES = (CONFIG_NAME, WEIGHTS_NAME, INDEX_NAME, "adapter_model-*-of-*.safetensors", mlx.WEIGHTS_NAME)
"""Patterns of the files that an adapter may have."""

COMPOSITION_NAME = "composition.yaml"
"""In the folder of a dynamic composition, which holds several adapters and is none."""
MOST_ENTRIES = 1000
"""Entries of a folder that are looked at in search of an adapter."""
_MOST_SHARDS = 1000
_SHARD = re.compile(r"adapter_model-\d{5}-of-\d{5}\.safetensors")
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,18})")
_WRITTEN = "give the path of a folder that PEFT's save_pretrained wrote"
# The first pattern that the name of an entry matches says what its folder is.
_HOLDS = (
    (r"zoo\.yaml", "it is a zoo; give one of the folders in its experts/"),
    (r"generator\.yaml", "it is a generator; make an adapter with it by `loragen generate --generator`"),
    (r"fold\.yaml", "it is a fold of a zoo; give one of the folders in the zoo's experts/"),
    (r"model_index\.json", "it is a pipeline of diffusers; loragen takes adapters of transformers models"),
    (r"pytorch_lora_weights\.(safetensors|bin)", "it is an adapter of diffusers; use it with diffusers"),
    (r"adapters\.npz", "it is an adapter of an early version of MLX; write it again with a later one"),
    (r"pytorch_adapter\.bin|head_config\.json", "it is an adapter of AdapterHub's; convert it to PEFT's format"),
    (r"(pytorch_model|model|consolidated)\b.*\.(safetensors|bin|pth|index\.json)", "whole model"),
    (r".*\.gguf", "it holds a model of llama.cpp (GGUF); give the adapter in PEFT's format"),
    (r"config\.json|modules\.json", "whole model"),
    (
        r"global_step\d+|pytorch_model_fsdp.*|.*\.distcp",
        "its weights are in shards of a training run; gather them first",
    ),
)
_WHOLE_MODEL = (
    "it is a whole model, or one into which an adapter was merged: use it with transformers, or name it as --base "
    "beside an adapter"
)


def find_adapter(folder: Path) -> tuple[Path, str | None]:
    """The folder of an adapter: the one given, or the only one in it that holds an adapter, with a remark on that.

    Raises:
        AdapterError: there is no such folder, or it holds no adapter or several.
    """
    try:
        if not folder.is_dir():
            raise AdapterError(_no_folder(folder))
        if os.path.lexists(folder / CONFIG_NAME):
            return folder, None
        if os.path.lexists(folder / COMPOSITION_NAME):
            raise AdapterError(
                "it is a dynamic composition, which is no single adapter; use it with classify, complete, evaluate or "
                "serve, or name one of the folders in its experts/."
            )
        found = list(_inside(folder)) or [deeper for each in _folders(folder) for deeper in _inside(each)]
        if not found:
            raise AdapterError(_no_adapter(folder))
        if len(found) == 1:
            return found[0], f"the adapter was taken from {_inner(found[0], folder)} in {named(folder.name)}"
        newest = _newest(found)
        names = [_inner(each, folder) for each in sorted(found, key=lambda each: natural(each.name[:200]))]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise AdapterError(
            f"it holds {len(names)} adapters: {', '.join(names[:5])}{more}; name one of them. The newest is "
            f"{folder / _inner(newest, folder)}."
        )
    except (OSError, ValueError) as error:
        if isinstance(error, AdapterError):
            raise
        raise AdapterError(f"the folder cannot be read ({error}); check the path and its permissions.") from error


def _inner(inside: Path, folder: Path) -> str:
    return named(str(inside.relative_to(folder)))


def _no_folder(folder: Path) -> str:
    if folder.is_file():
        return f"there is no such folder, it is a file; {_WRITTEN}, such as {folder.parent}."
    return f"there is no such folder; {_WRITTEN}."


def _entries(folder: Path) -> list[str]:
    """Names of entries, those of other programs' own left out."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in islice(entries, MOST_ENTRIES) if not entry.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    return [path for name in _entries(folder)[:100] if (path := folder / name).is_dir()]


def _inside(folder: Path) -> Iterator[Path]:
    return (folder / name for name in _entries(folder) if (folder / name / CONFIG_NAME).is_file())


def _newest(folders: list[Path]) -> Path:
    """The checkpoint of the most steps or, where not all are checkpoints, the one that was written last."""
    steps = [_CHECKPOINT.fullmatch(folder.name) for folder in folders]
    if all(steps):
        return max(zip(steps, folders, strict=True), key=lambda pair: int(pair[0][1]) if pair[0] else 0)[1]
    return max(folders, key=lambda folder: ((folder / CONFIG_NAME).stat().st_mtime_ns, natural(folder.name[:200])))


def _no_adapter(folder: Path) -> str:
    names = _entries(folder)
    start = f"it has no {CONFIG_NAME}"
    if WEIGHTS_NAME in names:
        return f"{start} beside {WEIGHTS_NAME}; fetch or copy the config too."
    for pattern, what in _HOLDS:
        if any(re.fullmatch(pattern, name[:300]) for name in names):
            return f"{start}: {_WHOLE_MODEL if what == 'whole model' else what}."
    if loose := [name for name in names if name.endswith(".safetensors")]:
        return (
            f"{start}, and its weights are {shown(loose[0])}, as tools for image models name them; {_WRITTEN}, or use "
            "it with the tool that it was made for."
        )
    return f"{start}; {_WRITTEN}." if names else f"it is empty; {_WRITTEN}."


def read_weights(folder: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of an adapter in PEFT's files, in one or in shards, and the name of their file.

    Raises:
        AdapterError: there is no such file, or it is damaged or a pickle.
    """
    if os.path.lexists(folder / WEIGHTS_NAME):
        return read_tensors(folder / WEIGHTS_NAME), WEIGHTS_NAME
    if os.path.lexists(folder / INDEX_NAME):
        return _read_shards(folder), INDEX_NAME
    raise AdapterError(_no_weights(folder))


def _no_weights(folder: Path) -> str:
    names = _entries(folder)
    if "adapter_model.bin" in names:
        return (
            "it holds adapter_model.bin, a pickle, which can run any code when it is read; if you trust it, load it "
            f"with PEFT and save it again as {WEIGHTS_NAME}."
        )
    start = f"it has no {WEIGHTS_NAME}"
    if any(map(_SHARD.fullmatch, names)):
        return f"{start} but shards of it, and no {INDEX_NAME}, which says what is in them; fetch that file too."
    if loose := [name for name in names if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".npz", ".gguf"))]:
        return f"{start} but {shown(loose[0])}; if that is the adapter in PEFT's format, rename it, else convert it."
    return f"{start}; {_WRITTEN}, and fetch its weights too."


def _read_shards(folder: Path) -> dict[str, Tensor]:
    """The tensors of several files, each key in the one that the index names for it.

    Raises:
        AdapterError: the index or a shard is missing or damaged, or they disagree.
    """
    placed = read_json(folder / INDEX_NAME, HEADER_BYTES).get("weight_map")
    if not isinstance(placed, dict) or not placed or len(placed) > MOST_TENSORS:
        raise AdapterError(f"{INDEX_NAME} has no weight_map of 1 to {MOST_TENSORS:,} tensors; fetch it again.")
    for key, name in placed.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]{0,200}\.safetensors", name):
            raise AdapterError(
                f"{INDEX_NAME} places {shown(key)} in {shown(name)}; the plain name of a safetensors file in the "
                "same folder was wanted."
            )
    files = sorted(set(placed.values()))
    if len(files) > _MOST_SHARDS:
        raise AdapterError(f"{INDEX_NAME} names {len(files):,} files; at most {_MOST_SHARDS:,} are read.")
    tensors: dict[str, Tensor] = {}
    left = WEIGHTS_BYTES
    for name in files:
        if not (folder / name).exists():
            raise AdapterError(f"the shard {name} of {INDEX_NAME} is missing; fetch it too.")
        shard = read_tensors(folder / name, left)
        left -= (folder / name).stat().st_size
        wanted = {key for key, file in placed.items() if file == name}
        if odd := sorted(wanted ^ shard.keys()):
            raise AdapterError(
                f"{INDEX_NAME} and {name} disagree on {shown(odd[0])} ({len(odd)} such); fetch both from one place."
            )
        tensors |= shard
    return tensors
