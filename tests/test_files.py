import hashlib
import stat
from pathlib import Path

import pytest

from loragen.files import atomic_folder, atomic_write, sha256_of


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def old(tmp_path):
    folder = tmp_path / "adapter"
    (folder / "sub").mkdir(parents=True)
    (folder / "kept.txt").write_text("old")
    (folder / "sub" / "deep.txt").write_text("old too")
    return folder


def test_a_new_folder_appears_whole_with_its_parents(tmp_path):
    path = tmp_path / "not" / "yet" / "there"
    with atomic_folder(path) as staging:
        (staging / "file.txt").write_text("new")
        assert staging.parent == path.parent, "a rename is atomic within one file system alone"
        assert not path.exists()
    assert contents(tmp_path) == {"not/yet/there/file.txt": "new"}


def test_a_folder_is_replaced_and_not_mixed(old, tmp_path):
    with atomic_folder(old) as staging:
        (staging / "file.txt").write_text("new")
        assert contents(old) == {"kept.txt": "old", "sub/deep.txt": "old too"}
    assert contents(old) == {"file.txt": "new"}
    assert list(tmp_path.iterdir()) == [old]


def write_half(path, error):
    with atomic_folder(path) as staging:
        (staging / "file.txt").write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_the_old_folder(old, tmp_path, error):
    with pytest.raises(error):
        write_half(old, error)
    assert contents(old) == {"kept.txt": "old", "sub/deep.txt": "old too"}
    assert list(tmp_path.iterdir()) == [old]


def test_a_block_that_raises_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(ValueError, match="no luck"):
        write_half(tmp_path / "adapter", ValueError("no luck"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", ["retiring the old", "moving in the new"])
def test_a_swap_that_fails_leaves_the_old_folder(old, tmp_path, monkeypatch, failing):
    rename = Path.rename

    def faulty(self, target):
        if (self == old) if failing == "retiring the old" else self.name.endswith(".partial"):
            raise OSError("device is busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", faulty)
    with pytest.raises(OSError, match="device is busy"), atomic_folder(old) as staging:
        (staging / "file.txt").write_text("new")
    assert contents(old) == {"kept.txt": "old", "sub/deep.txt": "old too"}
    assert list(tmp_path.iterdir()) == [old]


def test_others_may_read_what_is_written(tmp_path):
    with atomic_folder(tmp_path / "folder"):
        pass
    atomic_write(tmp_path / "file", "text")
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize(("content", "written"), [("naïve", "naïve".encode()), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_a_file_is_written_and_replaced(tmp_path, content, written):
    path = tmp_path / "sub" / "file.bin"
    for _ in range(2):
        atomic_write(path, content)
        assert path.read_bytes() == written
        assert list(path.parent.iterdir()) == [path]
        path.write_text("something longer than what comes next")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def faulty(source, target):
        assert Path(source).read_text() == "new", "the new content is whole before it takes the place of the old"
        raise OSError("disk is full")

    monkeypatch.setattr("os.replace", faulty)
    with pytest.raises(OSError, match="disk is full"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
