"""Files of the Hugging Face Hub: named with their commit, of sizes that are known before they are fetched.

What is fetched is data: configs, tokenizers, safetensors and cards, never pickles or code. The commit says which files
these were, also after a name has changed hands.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Self

from loragen.errors import shown

_REVISION = re.compile(r"[A-Za-z0-9_][\w.+/-]{0,254}", re.ASCII)
_REVISION_BEFORE_SUBFOLDER = re.compile(r"refs/[a-z]+/[^/]+|[^/]*")
_PART = re.compile(r"[A-Za-z0-9_][\w.+=-]{0,254}", re.ASCII)


class NotFetchedError(Exception):
    """The Hub and its cache do not give what was asked for; the message is the reason, in a clause."""


@dataclass(frozen=True)
class HubName:
    """A repository of the Hub, with the revision and the folder in it that are meant."""

    repo: str
    revision: str | None = None
    """Branch, tag or commit; `None` for the main branch."""
    subfolder: str = ""

    @classmethod
    def parse(cls, text: str, *, has_subfolder: bool = False) -> Self:
        """Read ``ORG/NAME``, ``ORG/NAME@REVISION`` or, with ``has_subfolder``, ``ORG/NAME@REVISION/SUB/FOLDER``.

        Where a folder can follow, a revision holds no slash, but for ``refs/pr/1`` and its like.

        Raises:
            NotFetchedError: it is no such name.
        """
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # its documented home

        repo, at, rest = text.partition("@")
        revision, subfolder = rest, ""
        if has_subfolder and at:
            match = _REVISION_BEFORE_SUBFOLDER.match(rest)
            revision = match[0] if match else ""
            subfolder = rest[len(revision) + 1 :]
        elif has_subfolder:
            repo, subfolder = "/".join(text.split("/")[:2]), "/".join(text.split("/")[2:])
        try:
            validate_repo_id(repo)
        except ValueError:
            raise NotFetchedError(f"{shown(repo)} is no name of a repository, which has the form ORG/NAME") from None
        if at and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise NotFetchedError(f"{shown(revision)} is no branch, tag or commit")
        if subfolder and not all(_PART.fullmatch(part) for part in subfolder.removesuffix("/").split("/")):
            raise NotFetchedError(f"{shown(subfolder)} is no folder of a repository")
        return cls(repo, revision or None, subfolder.removesuffix("/"))


@dataclass(frozen=True)
class Limits:
    """The most that is fetched at once."""

    files: int
    size: int
    """In bytes."""


MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.txt")
"""Names of the files of a model that are fetched."""
MODEL_LIMITS = Limits(files=1_000, size=250_000_000_000)


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository on this machine."""

    folder: Path
    commit: str
    """In hexadecimal; empty where it is not known."""


def fetched(name: HubName, patterns: Sequence[str], limits: Limits, *, is_local: bool = False) -> Snapshot:
    """Find the files of a repository that match, in the Hub's cache or on the Hub.

    Their number and sizes are asked of the Hub before any of them is fetched.

    Args:
        name: see `HubName`.
        patterns: of the names of files, within the subfolder.
        limits: what exceeds them is refused.
        is_local: ask nothing of the Hub; so it is, too, while the Hub is not reached.

    Raises:
        NotFetchedError: there is no such repository, revision or folder, the files are too large or too many, or one of
            them is a link out of the cache.
    """
    from huggingface_hub import snapshot_download

    wanted = [f"{name.subfolder}/{pattern}" if name.subfolder else pattern for pattern in patterns]
    commit, failure = (None, None) if is_local else _asked(name, wanted, limits)
    try:
        found = snapshot_download(
            name.repo,
            revision=commit or name.revision,
            allow_patterns=wanted,
            local_files_only=commit is None,
        )
    except (OSError, ValueError) as error:  # both of them roots of the Hub's own errors
        raise NotFetchedError(_one_line(failure or error)) from error
    root = Path(found)
    _check_files(root, wanted, limits)
    folder = root / name.subfolder
    if not folder.is_dir():
        raise NotFetchedError(f"{name.repo} has no folder {name.subfolder!r}")
    return Snapshot(folder, commit or (root.name if root.parent.name == "snapshots" else ""))


def _asked(name: HubName, patterns: Sequence[str], limits: Limits) -> tuple[str | None, Exception | None]:
    """The commit that a revision stands for, its files within the limits; or the reason why the Hub did not answer."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name.repo, revision=name.revision, files_metadata=True)
    except Exception as error:  # also whatever the HTTP library raises without a connection
        return None, error
    sizes = {file.rfilename: file.size for file in info.siblings or () if _matches(file.rfilename, patterns)}
    if unknown := [file for file, size in sizes.items() if size is None]:
        raise NotFetchedError(f"the Hub does not say how large {shown(unknown[0])} is")
    _refuse_excess([size or 0 for size in sizes.values()], limits)
    return info.sha, None


def _check_files(root: Path, patterns: Sequence[str], limits: Limits) -> None:
    """Refuse a snapshot on this machine that is too large, or that holds links out of the Hub's own files."""
    names = {path: path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    files = [path for path, name in names.items() if _matches(name, patterns)]
    _refuse_excess([path.stat().st_size for path in files], limits)
    home = (root.parent.parent if root.parent.name == "snapshots" else root).resolve()
    if strays := [path for path in files if not path.resolve().is_relative_to(home)]:
        raise NotFetchedError(f"{strays[0]} is a link out of the Hub's cache")


def _matches(file: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(file, pattern) for pattern in patterns)


def _refuse_excess(sizes: Sequence[int], limits: Limits) -> None:
    if len(sizes) > limits.files or sum(sizes) > limits.size:
        raise NotFetchedError(
            f"it is {len(sizes)} files of {sum(sizes) / 1e9:,.1f} GB, where at most {limits.files} of "
            f"{limits.size / 1e9:,.1f} GB are taken"
        )


def _one_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
