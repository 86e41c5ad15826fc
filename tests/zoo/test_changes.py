"""The log of a zoo: whole lines, taken back where no change came, and read within bounds."""

import errno
import os
from pathlib import Path
from shutil import copytree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loragen.errors import ZooError
from loragen.zoo import changes
from loragen.zoo.changes import CHANGES, fingerprint_of, last_change, logged, note, read_changes, settle
from loragen.zoo.zoo import Zoo

A, B, C = (fingerprint_of({name: "0" * 64}) for name in "abc")


@pytest.fixture
def zoo(tiny_zoo, tmp_path) -> Zoo:
    return Zoo.open(copytree(tiny_zoo.root, tmp_path / "zoo"))


def test_a_fingerprint_is_that_of_the_zoo_in_any_order(tiny_zoo) -> None:
    turned = dict(reversed(tiny_zoo.hashes.items()))
    assert list(turned) != list(tiny_zoo.hashes)
    assert fingerprint_of(turned) == tiny_zoo.fingerprint != fingerprint_of(turned | {"bank": "0" * 64})


def test_lines_come_back_as_they_were_written(tmp_path) -> None:
    assert (read_changes(tmp_path), last_change(tmp_path)) == ((), None)
    note(tmp_path, "added", A, B, expert="soup", sha256=C)
    note(tmp_path, "found", B, C)
    first, last = read_changes(tmp_path)
    assert (first.what, first.id, first.sha256, first.before, first.after) == ("added", "soup", C, A, B)
    assert last == last_change(tmp_path)
    assert (last.what, last.id, last.before, last.after) == ("found", "", B, C)
    assert first.time.endswith("+00:00")


@pytest.mark.parametrize(
    ("now", "left"), [(A, 0), (B, 1), (C, 1)], ids=["it did not come", "it came", "it came, and more without the log"]
)
def test_a_line_whose_change_did_not_come_is_taken_back(tmp_path, now, left) -> None:
    note(tmp_path, "added", C, A, expert="tea", sha256=C)
    note(tmp_path, "added", A, B, expert="soup", sha256=C)
    settle(tmp_path, now)
    assert [change.id for change in read_changes(tmp_path)] == ["tea", "soup"][: 1 + left]


@settings(max_examples=20)
@given(st.integers(1, 10_000), st.integers(0, 10))
def test_a_line_that_was_cut_off_anywhere_is_taken_back(tmp_path_factory, cut: int, number: int) -> None:
    root = tmp_path_factory.mktemp("log")
    for _ in range(number):
        note(root, "found", A, B)
    whole = (root / CHANGES).read_bytes() if number else b""
    note(root, "removed", A, B, expert="soup", sha256=C)
    line = (root / CHANGES).stat().st_size - len(whole)
    os.truncate(root / CHANGES, len(whole) + cut % line)
    assert len(read_changes(root)) == number, "whoever reads meanwhile sees whole lines alone"
    settle(root, C)
    assert (root / CHANGES).read_bytes() == whole


def test_of_a_long_log_the_end_is_read(tmp_path, monkeypatch) -> None:
    for name in ("first", "second", "third"):
        note(tmp_path, "added", A, B, expert=name, sha256=C)
    size = (tmp_path / CHANGES).stat().st_size
    monkeypatch.setattr(changes, "LARGEST_LOG", size - 1)
    assert [change.id for change in read_changes(tmp_path)] == ["second", "third"]
    monkeypatch.setattr(changes, "LARGEST_LOG", size + 1)
    assert [change.id for change in read_changes(tmp_path)] == ["first", "second", "third"]


@pytest.mark.parametrize("content", [b"{\n", b'{"what": "added"}\n', b"[]\n", b"\xff\n", b" " * 5_000 + b"\n"])
def test_a_damaged_log_is_one_line_with_a_way_out(tmp_path, content: bytes) -> None:
    (tmp_path / CHANGES).write_bytes(content)
    for read in (read_changes, last_change, lambda root: settle(root, A)):
        with pytest.raises(ZooError, match=r"changes\.jsonl is damaged; restore it, or remove the file") as caught:
            read(tmp_path)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_neither_read_nor_written(tmp_path, kind: str) -> None:
    other = tmp_path / "diary"
    other.write_text("Dear")
    {
        "link": lambda path: path.symlink_to(other),
        "folder": Path.mkdir,
        "pipe": os.mkfifo,
    }[kind](tmp_path / CHANGES)
    for act in (read_changes, lambda root: note(root, "found", A, B), lambda root: settle(root, A)):
        with pytest.raises(ZooError, match="is no file of its own"):
            act(tmp_path)
    assert other.read_text() == "Dear"


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path, monkeypatch) -> None:
    note(tmp_path, "found", A, B)
    before = (tmp_path / CHANGES).read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:20]))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        note(tmp_path, "found", B, C)
    assert (tmp_path / CHANGES).read_bytes() == before


@pytest.mark.parametrize("comes", [False, True])
def test_a_change_that_fails_leaves_a_line_only_where_it_came_nevertheless(zoo, comes: bool) -> None:
    def fail() -> None:
        hashes = dict(zoo.hashes)
        sha256 = hashes.pop("bank")
        with logged(zoo.root, "removed", "bank", sha256, before=zoo.fingerprint, after=fingerprint_of(hashes)):
            if comes:
                zoo.folder("bank").rename(zoo.root / "experts" / ".bank")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    told = read_changes(zoo.root)
    assert [(change.id, change.after) for change in told] == [("bank", Zoo.open(zoo.root).fingerprint)] * comes
