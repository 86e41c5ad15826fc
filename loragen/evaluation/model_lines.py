"""Models as lines of a JSON file that grows by one at a time; a line that an interruption cut off does not count."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from loragen.config import StrictModel
from loragen.errors import ConfigError, cut
from loragen.files import atomic_write
from loragen.paths import read_capped

Model = TypeVar("Model", bound=StrictModel)
LARGEST = 2**30
"""Bytes of the file."""


def read_lines(path: Path, kind: type[Model]) -> Iterator[Model]:
    """The models whose lines are whole; none where there is no file.

    Raises:
        ConfigError: a whole line is no such model.
    """
    if not path.exists():
        return
    content = read_capped(path, LARGEST, kind="cells")
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if line.endswith(b"\n"):
            yield kind.checked(_parsed(line, f"{path}:{number}"), source=f"{path}:{number}")


def append_line(path: Path, model: StrictModel) -> None:
    """Add a model in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(model.model_dump(mode="json", exclude_defaults=True)) + "\n")


def mend_lines(path: Path) -> None:
    """Cut off a half line that an interruption left, so that the next model begins a line of its own."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        atomic_write(path, content[: content.rfind(b"\n") + 1])


def _parsed(line: bytes, place: str) -> object:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError) as error:  # no JSON, or not even text
        raise ConfigError(
            f"{place} is damaged ({cut(error)}); remove the line, and its cell is computed again."
        ) from error
