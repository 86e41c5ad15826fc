"""Bases that `loragen base get` keeps on this machine: where they lie, what is recorded, which name means which.

A kept base is a folder of the cache: its record, the plain model that transformers reads, and the GGUF file that it was
made from. The record of a base of the Hub points to the Hub's own cache instead.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, final
from urllib.parse import quote, unquote

from pydantic import Field

from loragen.bases.hub_files import MODEL_FILES, MODEL_LIMITS, HubName, NotFetchedError, fetched
from loragen.bases.known import known_base
from loragen.config import StrictModel
from loragen.errors import ConfigError, cut, shown
from loragen.paths import expanded, is_dir

RECORD = "base.yaml"
MODEL = "model"
"""Folder of the plain model within that of a kept base."""
SOURCE = "source.gguf"
"""The GGUF file that the plain model was made from."""
LONGEST_NAME = 150
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@final
class KeptBase(StrictModel):
    """The record of a kept base."""

    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
    kind: Literal["gguf", "hub"]
    """A GGUF file that was made plain here, or a model in the Hub's cache."""
    source: str
    """Package and version, name of a file, or name on the Hub."""
    licence: str | None
    """`None` where the source states none."""
    sha256: _Sha256 | None
    """Of the GGUF file."""
    weights_hash: _Sha256
    """See `loragen.bases.hub.weights_hash`."""
    dtype: str
    parameters: Annotated[int, Field(ge=0, lt=10**12)]
    made: datetime
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]*$", max_length=64)] = ""
    """Of the Hub."""


def cache_folder() -> Path:
    """Where loragen keeps what can be got again: ``LORAGEN_CACHE``, or ``loragen`` in the user's cache folder.

    Raises:
        ConfigError: the user has no home, or that of another one is named who is not known here.
    """
    if own := os.environ.get("LORAGEN_CACHE"):
        return Path(os.path.abspath(expanded(own)))
    shared = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(shared) if os.path.isabs(shared) else expanded("~/.cache")) / "loragen"  # its standard says absolute


def kept_folder(name: str) -> Path:
    """Folder of the base that is, or would be, kept by a name."""
    return cache_folder() / "bases" / quote(name, safe="@", errors="surrogatepass")


def kept_base(name: str) -> KeptBase | None:
    """The record of the base that is kept by this name, or that is known by this name on the Hub.

    Raises:
        ConfigError: the record cannot be read.
    """
    for each in dict.fromkeys((name, row.name if (row := known_base(name)) else name)):
        if is_kept(each):
            return read_record(each)
    return None


def is_kept(name: str) -> bool:
    """True if a base is kept by this name, be its record readable or not; nothing is where nobody has a home."""
    if not 0 < len(name) <= LONGEST_NAME or name.startswith("."):
        return False
    try:
        return is_dir(kept_folder(name))
    except ConfigError:
        return False


def kept_names() -> list[str]:
    """Names of all kept bases, also of those whose records cannot be read."""
    home = cache_folder() / "bases"
    folders = [path for path in home.iterdir() if path.is_dir()] if is_dir(home) else []
    return sorted(unquote(path.name) for path in folders if not path.name.startswith("."))


def read_record(name: str) -> KeptBase:
    """The record of the base that is kept by a name.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    folder = kept_folder(name)
    try:
        record = KeptBase.from_yaml(folder / RECORD)
        if record.name != name:
            raise ConfigError(f"its record is of {shown(record.name)}")
    except ConfigError as error:
        raise ConfigError(
            f"The kept base {shown(name)} is damaged ({cut(error)}); get it again with `loragen base get` and --force, "
            f"or remove {cut(folder)}."
        ) from error
    return record


def model_folder(record: KeptBase) -> Path:
    """Folder of the plain model of a kept base; the network is not asked.

    Raises:
        ConfigError: it is there no more.
    """
    way_out = "get it again with `loragen base get` and --force"
    if record.kind == "gguf":
        if is_dir(folder := kept_folder(record.name) / MODEL):
            return folder
        raise ConfigError(f"The kept base {shown(record.name)} has lost its folder {cut(folder)}; {way_out}.")
    try:
        name = HubName.parse(record.source)
        pinned = HubName(name.repo, record.commit or name.revision)
        return fetched(pinned, MODEL_FILES, MODEL_LIMITS, is_local=True).folder
    except NotFetchedError as error:
        raise ConfigError(
            f"The kept base {shown(record.name)} is no more in the Hub's cache ({cut(error)}); {way_out}."
        ) from error


def source_gguf(name: str) -> Path | None:
    """The GGUF file that a kept base was made from; `None` for any other base.

    Raises:
        ConfigError: the record of the base cannot be read.
    """
    record = kept_base(name)
    file = kept_folder(record.name) / SOURCE if record is not None else None
    return file if file is not None and file.is_file() else None
