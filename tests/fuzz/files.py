"""Folders as files by name, written into a folder that is used again and again."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """Files of a folder by relative name, and what was done to it."""

    files: Mapping[str, bytes]
    told: str = ""

    def write(self, folder: Path) -> Path:
        """Put the files into a folder, in place of what is there."""
        shutil.rmtree(folder, ignore_errors=True)
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def files_under(folder: Path) -> dict[str, bytes]:
    """All files of a folder by relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
