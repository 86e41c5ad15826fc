"""A Hub of one's own: repositories as folders, commits and sizes told, files fetched into a cache like the real one."""

import hashlib
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest


class FakeHub:
    """In place of the Hub while a test runs; ``asked`` and ``fetched`` say what was wanted from it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        self.repos: dict[tuple[str, str], Path] = {}
        """(repository, revision) → folder; commits are hashes of both."""
        self.sizes: dict[str, int | None] = {}
        """Sizes that the Hub tells in place of the true ones."""
        self.asked: list[tuple[str, str | None]] = []
        self.fetched: list[str] = []
        self.cache = root / "hub-cache"
        self.is_online = True
        self._local = huggingface_hub.snapshot_download
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(self.cache))
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self._snapshot)
        monkeypatch.setattr(
            huggingface_hub.HfApi, "model_info", lambda _api, repo, **options: self._info(repo, **options)
        )

    def commit(self, repo: str, revision: str = "main") -> str:
        return hashlib.sha1(f"{repo} {revision}".encode(), usedforsecurity=False).hexdigest()

    def _folder(self, repo: str, revision: str | None) -> tuple[str, Path]:
        for (name, known), folder in self.repos.items():
            if name == repo and (revision or "main") in (known, self.commit(name, known)):
                return self.commit(name, known), folder
        raise OSError(f"404: {repo} has no {revision}")

    def _info(self, repo: str, *, revision: str | None, files_metadata: bool):
        assert files_metadata
        self.asked.append((repo, revision))
        if not self.is_online:
            raise RuntimeError("no connection")
        commit, folder = self._folder(repo, revision)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [path.relative_to(folder).as_posix() for path in files]
        sizes = [self.sizes.get(name, path.stat().st_size) for name, path in zip(names, files, strict=True)]
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in zip(names, sizes, strict=True)]
        return SimpleNamespace(sha=commit, siblings=siblings)

    def _snapshot(self, repo: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        if local_files_only:
            return self._local(repo, revision=revision, allow_patterns=allow_patterns, local_files_only=True)
        assert self.is_online
        commit, folder = self._folder(repo, revision)
        home = self.cache / f"models--{repo.replace('/', '--')}"
        snapshot = home / "snapshots" / commit
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                self.fetched.append(name)
                blob = home / "blobs" / hashlib.sha256(name.encode()).hexdigest()
                blob.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, blob)
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                (snapshot / name).unlink(missing_ok=True)
                (snapshot / name).symlink_to(blob)
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / "main").write_text(commit)
        return str(snapshot)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> FakeHub:
    """An empty Hub and an empty cache of it."""
    return FakeHub(tmp_path, monkeypatch)
