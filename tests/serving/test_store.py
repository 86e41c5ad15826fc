"""Adapters of a server on disk and in memory: caps, names, links, damage, and all of it at once."""

import errno
import shutil
import threading

import pytest
import torch
from models import write_tiny_encoder
from tiny_adapters import SITES, adapter

from loragen.adapters.folders import WEIGHTS_NAME
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.errors import AdapterError, ConfigError
from loragen.inference import Adapter
from loragen.serving.folders import NoRoom, UnknownAdapter
from loragen.serving.settings import Limits
from loragen.serving.store import AdapterStore

BAD_NAMES = [
    "",
    ".",
    "..",
    "a/b",
    "../a",
    "/etc",
    "a\\b",
    "con",
    "COM1.txt",
    "-x",
    ".hidden",
    "a.",
    "x" * 200,
    "ü",
    "a\0",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> LabelTextEncoder:
    return LabelTextEncoder.load(str(write_tiny_encoder(tmp_path_factory.mktemp("batches") / "base")))


@pytest.fixture
def store(base, tmp_path) -> AdapterStore:
    kept = AdapterStore(tmp_path / "adapters", base, Limits())
    for seed, name in enumerate(("first", "second", "third")):
        kept.add(name, adapter(base, seed))
    return kept


def test_the_memory_of_adapters_is_counted_and_bounded(store, base, tmp_path) -> None:
    one = store.get("first").bytes
    assert one == len(SITES) * 2 * 4 * 16 * 4
    assert store.bytes == 3 * one  # what was added is at hand
    small = AdapterStore(tmp_path / "adapters", base, Limits.model_construct(cache=2 * one))
    first = small.get("first")
    small.get("second")
    assert small.get("first") is first
    small.get("third")  # the second leaves, which was used least
    assert small.bytes == 2 * one
    assert small.get("first") is first
    again = small.get("second")
    assert small.get("second") is again
    small.remove("second")
    assert small.bytes == one
    small.add("second", adapter(base, 9, r=64))
    assert small.get("second").bytes == small.bytes > 2 * one  # one alone may be beyond the cap


def test_a_replaced_folder_is_read_anew(store, base) -> None:
    before = store.get("first")
    store.add("first", adapter(base, 11), replace=True)
    after = store.get("first")
    assert not torch.equal(before.factors[SITES[0]][0], after.factors[SITES[0]][0])
    assert store.facts("first").stamp == after.facts.stamp
    assert store.bytes == 3 * after.bytes


def test_what_was_added_is_as_it_is_read(store, base) -> None:
    store.add("fresh", adapter(base, 5))
    at_hand, read = store.get("fresh"), AdapterStore(store.folders.root, base, Limits()).get("fresh")
    one, other = at_hand.facts, read.facts
    assert (one.stamp, one.labels, one.description) == (other.stamp, other.labels, other.description)
    for site, factors in read.factors.items():
        assert all(torch.equal(one, other) for one, other in zip(factors, at_hand.factors[site], strict=True))


def test_a_damaged_adapter_is_told_apart_and_others_are_listed(store, base) -> None:
    (store.folders.root / "second" / WEIGHTS_NAME).write_bytes(b"no weights")
    shutil.copytree(store.folders.root / "first", store.folders.root / "third", dirs_exist_ok=True)
    (store.folders.root / "notes.txt").write_text("not an adapter")
    found, broken = store.listed()
    assert [one.name for one in found] == ["first", "third"]
    assert list(broken) == ["second"]
    with pytest.raises(AdapterError):
        store.get("second")


def test_an_adapter_of_another_base_is_refused(store, base) -> None:
    Adapter(adapter(base, 1).over("elsewhere/base").lora, "elsewhere/base").save(store.folders.root / "foreign")
    with pytest.raises(AdapterError, match="another base"):
        store.get("foreign")
    store.add("wide", adapter(base, 1, hidden=8))
    with pytest.raises(AdapterError, match="maps 8 to 8 features"):
        store.get("wide")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_is_no_name_is_refused_everywhere(store, base, name) -> None:
    for ask in (store.folders.folder, store.get, store.facts, store.folders.files, store.folders.written, store.remove):
        with pytest.raises(UnknownAdapter):
            ask(name)
    for replace in (False, True):
        with pytest.raises(ConfigError):
            store.add(name, adapter(base, 1), replace=replace)
    assert store.folders.names() == ["first", "second", "third"]


@pytest.mark.parametrize("part", ["folder", "weights"])
def test_links_are_refused_everywhere(store, base, part) -> None:
    if part == "folder":
        (store.folders.root / "link").symlink_to(store.folders.root / "first")
    else:
        (store.folders.root / "link").mkdir()
        (store.folders.root / "link" / WEIGHTS_NAME).symlink_to(store.folders.root / "first" / WEIGHTS_NAME)
    assert "link" not in store.folders.names()
    for ask in (store.folders.folder, store.get, store.facts, store.folders.files, store.folders.written, store.remove):
        with pytest.raises(UnknownAdapter):
            ask("link")
    before = (store.folders.root / "first" / WEIGHTS_NAME).read_bytes()
    if part == "folder":
        with pytest.raises(ConfigError, match="a link"):
            store.add("link", adapter(base, 1), replace=True)
    else:
        store.add("link", adapter(base, 1), replace=True)  # a link within a folder makes room, what it leads to stays
    assert (store.folders.root / "first" / WEIGHTS_NAME).read_bytes() == before


def test_caps_on_number_and_bytes(store, base, tmp_path) -> None:
    few = AdapterStore(tmp_path / "adapters", base, Limits(adapters=3))
    with pytest.raises(NoRoom, match="3 adapters"):
        few.add("fourth", adapter(base, 4))
    few.add("third", adapter(base, 4), replace=True)
    little = AdapterStore(tmp_path / "adapters", base, Limits.model_construct(disk=100, adapters=10))
    with pytest.raises(NoRoom, match="on disk"):
        little.add("fourth", adapter(base, 4))


def test_a_file_where_the_folder_is_to_be_is_one_error(base, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be kept"):
        AdapterStore(tmp_path / "file", base, Limits())


def test_a_full_disk_is_said_and_leaves_nothing_behind(store, base, monkeypatch) -> None:
    def full(*_args, **_options) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(store.folders.root))

    monkeypatch.setattr("safetensors.torch.save_file", full)
    monkeypatch.setattr("loragen.files._sync_tree", full)
    with pytest.raises(NoRoom, match="No space left") as met:
        store.add("fourth", adapter(base, 4))
    assert str(store.folders.root) not in str(met.value)
    assert sorted(path.name for path in store.folders.root.iterdir()) == ["first", "second", "third"]


def test_folders_with_files_of_others_are_not_deleted(store) -> None:
    (store.folders.root / "first" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        store.remove("first")
    assert store.get("first").facts.name == "first"


def test_what_a_killed_server_left_is_swept(store, base) -> None:
    for name in (".first.0a1b2c3d.deleted", ".fourth.abcdefgh.partial"):
        shutil.copytree(store.folders.root / "first", store.folders.root / name)
    assert AdapterStore(store.folders.root, base, Limits()).folders.names() == ["first", "second", "third"]
    assert sorted(path.name for path in store.folders.root.iterdir()) == ["first", "second", "third"]


def test_reading_writing_and_deleting_at_once_gives_whole_adapters_or_none(store, base) -> None:
    faults: list[BaseException] = []
    end = threading.Event()

    def go_on(act) -> None:
        while not end.is_set():
            try:
                act()
            except UnknownAdapter:
                pass
            except BaseException as error:
                faults.append(error)
                end.set()

    two, four = adapter(base, 1, r=2), adapter(base, 2, r=4)
    acts = [
        lambda: store.add("busy", two, replace=True) or store.add("busy", four, replace=True),
        lambda: store.remove("third") or store.add("third", two),
        *(lambda name=name: store.get(name) for name in ("busy", "third")),
        lambda: (store.listed(), store.folders.files("busy"), store.folders.files("third")),
    ]
    threads = [threading.Thread(target=go_on, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    end.wait(1.5)
    end.set()
    for thread in threads:
        thread.join()
    assert faults == []
