"""From a GGUF file to a plain folder: the dequantised weights in float32, read back and compared."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from loragen.base_store.gguf_header import GgufHeader
from loragen.bases.hub import quiet_loading
from loragen.bases.pretrained import load_pretrained, load_tokenizer
from loragen.errors import ConfigError, LoragenError, cut, shown

MODEL_CLASS = "AutoModelForCausalLM"
_SPARE = 1.2
"""A model may have so many times the parameters that the file has: some files leave out what two layers share."""
STEPS = 4


@final
@dataclass(frozen=True)
class PlainModel:
    """What was written."""

    parameters: int
    dtype: str


def write_plain_model(file: Path, header: GgufHeader, out: Path, step: Callable[[int], None]) -> PlainModel:
    """Write the model in a GGUF file as a folder for transformers: config, safetensors, tokenizer, chat template.

    Args:
        file: the GGUF file, whose header has been read.
        header: of the file.
        out: folder to write, which is made.
        step: called with the number of steps done, of `STEPS`.

    Raises:
        ConfigError: transformers cannot read such a model, the file lacks weights of it, or the disk has no room.
    """
    import transformers

    name = str(file)
    _refuse_full_disk(out.parent, 4 * header.parameters)
    place: dict[str, Any] = {"gguf_file": str(file.resolve()), "local_files_only": True, "trust_remote_code": False}
    with _by_transformers(header):
        config = transformers.AutoConfig.from_pretrained(file.parent, **place)
        _refuse_other_sizes(config, header)
        step(1)
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **place)
        model, told = getattr(transformers, MODEL_CLASS).from_pretrained(
            file.parent, config=config, dtype=torch.float32, output_loading_info=True, **place
        )
        step(2)
    if missing := sorted(told["missing_keys"]):
        raise ConfigError(f"The GGUF file has no weights for {shown(missing[0])}; fetch it again, or give another one.")
    _forget_quantisation(model)
    with _by_transformers(header):
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    step(3)
    load_tokenizer(name, out)
    _compare(model, load_pretrained(name, out, MODEL_CLASS).model)
    for path in out.iterdir():
        path.chmod(0o644)
    step(4)
    return PlainModel(sum(parameter.numel() for parameter in model.parameters()), "float32")


@contextmanager
def _by_transformers(header: GgufHeader) -> Iterator[None]:
    """Turn whatever transformers raises over the file into a ConfigError, and keep its remarks and bars to itself."""
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), getattr(reader, "tqdm", None)
    logging.set_verbosity_error()
    if bar is not None:  # which heeds no setting of transformers
        reader.tqdm = partial(bar, disable=True)
    try:
        with quiet_loading():
            yield
    except (LoragenError, MemoryError):
        raise
    except Exception as error:  # a foreign file can fail at any place of any architecture
        raise ConfigError(
            f"transformers cannot read this GGUF file, of the architecture {shown(header.architecture)} "
            f"({cut(error)}); give the file of another model, or a folder that transformers reads."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bar is not None:
            reader.tqdm = bar


def _refuse_full_disk(folder: Path, wanted: int) -> None:
    if (free := shutil.disk_usage(folder).free) < wanted:
        raise ConfigError(
            f"The weights in float32 take {wanted / 1e9:,.1f} GB, and {cut(folder)} has {free / 1e9:,.1f} GB free; "
            "make room, or set LORAGEN_CACHE to a folder on another disk."
        )


def _refuse_other_sizes(config: Any, header: GgufHeader) -> None:
    """Refuse a config that needs more weights than the file holds, before any memory is taken for them."""
    import transformers

    with torch.device("meta"):
        laid_out = getattr(transformers, MODEL_CLASS).from_config(config, trust_remote_code=False)
    needed = sum(parameter.numel() for parameter in laid_out.parameters())
    if needed > _SPARE * header.parameters:
        raise ConfigError(
            f"The GGUF file holds {header.parameters:,} weights, and the model that it describes has {needed:,}; fetch "
            "it again, or give another one."
        )


def _forget_quantisation(model: nn.Module) -> None:
    """Make a dequantised model one that transformers saves as a plain one."""
    for owner, attribute in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(owner, attribute):
            delattr(owner, attribute)


def _compare(written: nn.Module, read: nn.Module) -> None:
    """Refuse a folder that gives other weights than were written to it."""
    wanted, found = written.state_dict(), read.state_dict()
    other = sorted(key for key in wanted if key not in found or not torch.equal(wanted[key], found[key]))
    if other or len(wanted) != len(found):
        raise ConfigError(f"The weights read back differ from those written ({other[:3]}); get the base again.")
