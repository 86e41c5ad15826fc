import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from loragen.errors import ConfigError
from loragen.files import MANIFEST, atomic_folder, atomic_write, refuse_to_replace, sha256_of, sweep
from loragen.renames import exchange, rename_to_new


def contents(folder):
    """Files by name, without the manifest of those that are ours."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): path.read_text() for path in found}


@pytest.fixture
def old(tmp_path):
    folder = tmp_path / "adapter"
    (folder / "sub").mkdir(parents=True)
    (folder / "kept.txt").write_text("old")
    (folder / "sub" / "deep.txt").write_text("old too")
    (folder / MANIFEST).write_text('{"files": ["kept.txt", "sub/deep.txt"]}')
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

    monkeypatch.setattr("loragen.files.exchange", lambda _one, _other: False)
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


# --- what is not ours ---


def test_a_folder_with_files_of_others_is_left_alone(tmp_path):
    folder = tmp_path / "adapter"
    with atomic_folder(folder) as staging:
        (staging / "file.txt").write_text("ours")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.txt, which loragen did not write"), atomic_folder(folder):
        pytest.fail("the work must not begin")
    assert contents(folder).keys() == {"file.txt", "notes.txt"}
    (folder / "notes.txt").unlink()
    with atomic_folder(folder) as staging:
        (staging / "other.txt").write_text("new")
    assert contents(folder).keys() == {"other.txt"}


def test_a_folder_of_before_manifests_is_replaced(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "card.yaml"):
        (folder / name).write_text("old")
    with atomic_folder(folder) as staging:
        (staging / "adapter_config.json").write_text("new")
    assert (folder / "adapter_config.json").read_text() == "new"
    assert not (folder / "card.yaml").exists()


def test_a_damaged_manifest_makes_nothing_ours(tmp_path):
    folder = tmp_path / "adapter"
    with atomic_folder(folder) as staging:
        (staging / "card.yaml").write_text("ours")
    (folder / MANIFEST).write_text("{")
    with pytest.raises(ConfigError, match="did not write"), atomic_folder(folder):
        pass


def test_without_replacing_what_came_meanwhile_is_left(tmp_path):
    folder = tmp_path / "adapter"
    with pytest.raises(ConfigError, match="exists already"), atomic_folder(folder, replace=False) as staging:  # noqa: PT012
        (staging / "file.txt").write_text("mine")
        folder.mkdir()
        (folder / "theirs.txt").write_text("theirs")
    assert contents(folder) == {"theirs.txt": "theirs"}
    assert list(tmp_path.iterdir()) == [folder]


def test_without_replacing_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "adapter").mkdir()
    with atomic_folder(tmp_path / "adapter", replace=False) as staging:
        (staging / "file.txt").write_text("new")
    assert contents(tmp_path / "adapter") == {"file.txt": "new"}


def test_a_file_in_the_place_of_a_folder_is_left(tmp_path):
    (tmp_path / "adapter").write_text("a file")
    with pytest.raises(ConfigError, match="is a file"), atomic_folder(tmp_path / "adapter"):
        pass
    assert (tmp_path / "adapter").read_text() == "a file"


# --- kills ---


def test_a_folder_that_a_killed_process_moved_aside_is_put_back(tmp_path):
    folder = tmp_path / "adapter"
    with atomic_folder(folder) as staging:
        (staging / "file.txt").write_text("old")
    folder.rename(tmp_path / ".adapter.retired")
    (tmp_path / ".adapter.abcd1234.partial").mkdir()
    (tmp_path / ".adapter.b.abcd1234.partial").mkdir()  # of a folder named adapter.b
    with pytest.raises(ValueError, match="no luck"), atomic_folder(folder):  # noqa: PT012
        assert (folder / "file.txt").read_text() == "old"
        raise ValueError("no luck")
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", ".adapter.b.abcd1234.partial"}


def test_what_killed_writers_left_is_cleared_away_and_what_others_write_is_left(tmp_path):
    left = (".file.txt.abcd1234.partial", ".adapter.abcd1234.partial", ".adapter.lock", ".gone.lock")
    for name in left:
        (tmp_path / name).touch()
    kept = {".file.txt.swp", "adapter.partial", ".x.partial", ".adapter.b.lock.txt"}
    for name in kept:
        (tmp_path / name).touch()
    atomic_write(tmp_path / "file.txt", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", *kept, *left[1:]}, "of this file alone"
    refuse_to_replace([tmp_path / "adapter"], force=False)
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", *kept, ".gone.lock"}
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", *kept}


def test_the_half_made_file_of_a_writer_that_still_runs_is_left(tmp_path):
    script = "import os, sys, time; from pathlib import Path; from loragen.files import atomic_write\n"
    script += "os.fsync = lambda _: (print('writing', flush=True), sys.stdin.readline())\n"
    script += "atomic_write(Path(sys.argv[1]), 'theirs')"
    path = tmp_path / "file.txt"
    other = subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "writing\n"
    atomic_write(path, "ours")
    assert path.read_text() == "ours"
    sweep(tmp_path)
    other.communicate("go on\n" * 3)
    assert other.returncode == 0
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_half_of_what_was_moved_aside_does_not_return(tmp_path, monkeypatch):
    monkeypatch.setattr("loragen.files.exchange", lambda _one, _other: False)
    folder = tmp_path / "adapter"
    with atomic_folder(folder) as staging:
        (staging / "file.txt").write_text("old")
    monkeypatch.setattr("loragen.files.shutil.rmtree", lambda *_, **__: None)  # as if killed before it is removed
    with atomic_folder(folder) as staging:
        (staging / "file.txt").write_text("new")
    monkeypatch.undo()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    refuse_to_replace([folder], force=False)
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import os, sys
from pathlib import Path
from loragen import files

steps = int(sys.argv[2])
def killing(name):
    real = getattr(os, name)
    def call(*arguments, **options):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), 9)
        return real(*arguments, **options)
    return call
for name in ("rename", "replace", "open", "fsync", "mkdir", "rmdir", "unlink", "write", "chmod"):
    setattr(os, name, killing(name))
with files.atomic_folder(Path(sys.argv[1])) as staging:
    for name in ("a.txt", "b.txt"):
        (staging / name).write_text("new")
"""


def test_a_kill_at_any_call_leaves_the_old_folder_or_the_new_one(tmp_path):
    old, new = {"a.txt": "old"}, {"a.txt": "new", "b.txt": "new"}
    seen = set()
    for steps in range(60):
        folder = tmp_path / str(steps) / "adapter"
        with atomic_folder(folder) as staging:
            (staging / "a.txt").write_text("old")
        made = subprocess.run([sys.executable, "-c", SCRIPT, folder, str(steps)], capture_output=True)
        found = contents(folder)
        assert found in (old, new), steps
        seen.add(found == new)
        with atomic_folder(folder) as staging:
            (staging / "a.txt").write_text("next")
        assert [path.name for path in folder.parent.iterdir()] == ["adapter"], "what was left is cleared away"
        if made.returncode == 0:
            break
    assert seen == {False, True}
    assert made.returncode == 0, "the last one ends by itself"


# --- locks ---


def test_one_writer_at_a_time(tmp_path):
    folder = tmp_path / "adapter"
    script = "import sys; from pathlib import Path; from loragen.files import atomic_folder\n"
    script += "with atomic_folder(Path(sys.argv[1])): pass"
    with atomic_folder(folder):
        made = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True)
        assert made.returncode != 0
        assert f"is being written by another process (number {os.getpid()})" in made.stderr
    subprocess.run([sys.executable, "-c", script, folder], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_of_many_writers_one_wins(tmp_path):
    script = "import sys, time; from pathlib import Path; from loragen.files import atomic_folder\n"
    script += "with atomic_folder(Path(sys.argv[1]), replace=False): time.sleep(0.2)"
    call = [sys.executable, "-c", script, tmp_path / "adapter"]
    runs = [subprocess.Popen(call, stderr=subprocess.DEVNULL) for _ in range(6)]
    assert sorted(run.wait() == 0 for run in runs) == [False] * 5 + [True]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


# --- the system ---


def test_folders_are_exchanged_in_one_step_where_the_system_can(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    (one / "file").write_text("one")
    other.mkdir()
    if exchange(one, other):
        assert contents(other) == {"file": "one"}
        assert contents(one) == {}


def test_without_exchange_a_folder_is_replaced_as_well(old, tmp_path, monkeypatch):
    monkeypatch.setattr("loragen.files.exchange", lambda _one, _other: False)
    with atomic_folder(old) as staging:
        (staging / "file.txt").write_text("new")
    assert contents(old) == {"file.txt": "new"}
    assert list(tmp_path.iterdir()) == [old]


def test_a_folder_moves_only_where_nothing_is(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(OSError, match=r"exists|not empty"):
        rename_to_new(tmp_path / "one", tmp_path / "other")
