"""Files and folders that are either whole or not there."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loragen.errors import ConfigError


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its place when the block succeeds.

    A folder that stood at ``path`` before stays untouched until then, and is put back if the swap itself fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield staging
        staging.chmod(0o755)
        _swap(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.rename(path)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".retired", dir=path.parent))
    try:
        path.rename(retired / path.name)
        try:
            staging.rename(path)
        except BaseException:
            (retired / path.name).rename(path)
            raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file through a temporary sibling and a rename, so that a reader sees the old or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_to_replace(folders: Sequence[Path], *, force: bool) -> None:
    """Keep what is there from being written over.

    Raises:
        ConfigError: one of the folders exists, and ``force`` is not set.
    """
    for folder in folders:
        if folder.exists() and not force:
            raise ConfigError(f"{folder} exists already; give another --out, or --force to replace it.")


def folder_name(text: str, *, words: int = 8) -> str:
    """A name for a folder from the first words of a text."""
    found: Sequence[str] = re.findall(r"[a-z0-9]+", text.casefold())
    return "-".join(found[:words])[:80] or "task"
