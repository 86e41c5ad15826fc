"""The thread that computes, and the adapters that it has at hand."""

import errno
import shutil
import threading
from concurrent.futures import Future
from dataclasses import dataclass

import pytest
import torch
from models import write_tiny_encoder

from loragen.adapters.adapter import Lora
from loragen.adapters.folders import WEIGHTS_NAME
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.errors import AdapterError, ConfigError
from loragen.inference import Adapter
from loragen.serving.batcher import MOST_ROWS, Batcher, Embed, Stopped, Work
from loragen.serving.folders import NoRoom, UnknownAdapter
from loragen.serving.settings import Limits
from loragen.serving.store import AdapterStore

SITES = [f"encoder.layer.{i}.attention.self.{name}" for i in (0, 1) for name in ("query", "value")]
TEXTS = ["warm soup", "tea", "a cold bread with tea and soup", "bread"]
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
def batcher(base):
    running = Batcher(base)
    yield running
    running.stop()


def adapter(base, seed: int, *, r: int = 4, sites=SITES, hidden: int = 16) -> Adapter:
    rng = torch.Generator().manual_seed(seed)
    lora = Lora.from_factors(
        {site: torch.randn(r, hidden, generator=rng) for site in sites},
        {site: torch.randn(hidden, r, generator=rng) / 3 for site in sites},
        base_model_name_or_path=base.name,
        task_type="FEATURE_EXTRACTION",
    )
    return Adapter(lora, base.name)


@dataclass(frozen=True, eq=False)
class Held(Work[str]):
    """A work that lasts until it is let go on, and may fail."""

    begun: threading.Event
    go_on: threading.Event
    fails: bool = False

    @property
    def size(self) -> int:
        return 1

    @classmethod
    def compute(cls, base, works) -> None:
        works[0].begun.set()
        works[0].go_on.wait(10)
        if works[0].fails:
            raise MemoryError("no room")
        for work in works:
            work.done.set_result("done")


def held(batcher: Batcher, *, fails: bool = False) -> Held:
    """A work that the batcher is at, so that what comes next is taken together."""
    work = Held(threading.Event(), threading.Event(), fails)
    batcher.add(work)
    work.begun.wait(10)
    return work


def test_works_of_different_adapters_get_together_what_they_get_alone(base, batcher) -> None:
    factors = [{}, *(base.factors_of(adapter(base, seed, r=rank).lora) for seed, rank in ((1, 4), (2, 2), (3, 8)))]
    rows, alone = base.tokenize(TEXTS, max_length=64), []
    for one in factors:
        with base.using(one):
            alone.append(base.encode(rows))
    first = held(batcher)
    together = [batcher.add(Embed(rows, one)) for one in factors]
    assert batcher.waiting == 4
    first.go_on.set()
    for own, future in zip(alone, together, strict=True):
        assert torch.allclose(future.result(10), own, atol=1e-5)


def test_more_rows_than_a_batch_holds_come_back_in_their_order(base, batcher) -> None:
    rows = base.tokenize([f"{'soup ' * (at % 7 + 1)}{at}" for at in range(2 * MOST_ROWS + 3)], max_length=64)
    found = batcher.add(Embed(rows, base.factors_of(adapter(base, 1).lora))).result(10)
    with base.using(base.factors_of(adapter(base, 1).lora)):
        assert torch.allclose(found, base.encode(rows), atol=1e-5)


def test_an_error_reaches_those_who_wait_and_the_thread_lives_on(base, batcher) -> None:
    failing = held(batcher, fails=True)
    failing.go_on.set()
    with pytest.raises(MemoryError, match="no room"):
        failing.done.result(10)
    strange = Embed(base.tokenize(TEXTS, max_length=64), {"no.such.site": (torch.ones(1, 16), torch.ones(16, 1))})
    with pytest.raises(AdapterError):
        batcher.add(strange).result(10)
    assert batcher.add(Embed(base.tokenize(TEXTS, max_length=64), {})).result(10).shape == (4, 16)


def test_kinds_of_works_are_taken_in_turn(base, batcher) -> None:
    first = held(batcher)
    embeds = [batcher.add(Embed(base.tokenize(["tea"], max_length=64), {})) for _ in range(2)]
    other = Held(threading.Event(), threading.Event())
    batcher.add(other)
    last = batcher.add(Embed(base.tokenize(["soup"], max_length=64), {}))
    first.go_on.set()
    other.begun.wait(10)
    assert all(future.done() for future in (*embeds, last))
    other.go_on.set()
    assert other.done.result(10) == "done"


def test_stop_finishes_what_waits(base) -> None:
    running = Batcher(base)
    first = held(running)
    waiting = [running.add(Embed(base.tokenize(TEXTS, max_length=64), {})) for _ in range(3)]
    threading.Timer(0.1, first.go_on.set).start()
    running.stop()
    assert all(future.done() and future.exception() is None for future in waiting)
    with pytest.raises(Stopped):
        running.add(Embed([[1]], {}))


def test_a_cancelled_work_is_skipped(base, batcher) -> None:
    first = held(batcher)
    futures: list[Future] = [batcher.add(Embed(base.tokenize(TEXTS, max_length=64), {})) for _ in range(3)]
    assert futures[1].cancel()
    first.go_on.set()
    assert futures[0].result(10).shape == futures[2].result(10).shape == (4, 16)


def test_an_adapter_that_is_read_leaves_the_base_alone_that_computes(base, tmp_path, monkeypatch) -> None:
    kept = AdapterStore(tmp_path / "adapters", base, Limits())
    kept.add("one", adapter(base, 1))
    monkeypatch.setattr(type(base), "using", lambda *_args: pytest.fail("the base was changed beside the batcher"))
    assert kept.get("one").name == "one"


# --- the store ---


@pytest.fixture
def store(base, tmp_path) -> AdapterStore:
    kept = AdapterStore(tmp_path / "adapters", base, Limits())
    for seed, name in enumerate(("first", "second", "third")):
        kept.add(name, adapter(base, seed))
    return kept


def test_the_memory_of_adapters_is_counted_and_bounded(store, base, tmp_path) -> None:
    one = store.get("first").bytes
    assert one == store.bytes == len(SITES) * 2 * 4 * 16 * 4
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
    assert store.facts("first").stamp == after.stamp
    assert store.bytes == after.bytes


def test_a_damaged_adapter_is_told_apart_and_others_are_listed(store, base) -> None:
    (store.root / "second" / WEIGHTS_NAME).write_bytes(b"no weights")
    shutil.copytree(store.root / "first", store.root / "third", dirs_exist_ok=True)
    (store.root / "notes.txt").write_text("not an adapter")
    found, broken = store.listed()
    assert [one.name for one in found] == ["first", "third"]
    assert list(broken) == ["second"]
    with pytest.raises(AdapterError):
        store.get("second")


def test_an_adapter_of_another_base_is_refused(store, base) -> None:
    Adapter(adapter(base, 1).over("elsewhere/base").lora, "elsewhere/base").save(store.root / "foreign")
    with pytest.raises(AdapterError, match="another base"):
        store.get("foreign")
    store.add("wide", adapter(base, 1, hidden=8))
    with pytest.raises(AdapterError, match="maps 8 to 8 features"):
        store.get("wide")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_is_no_name_is_refused_everywhere(store, base, name) -> None:
    for ask in (store.folder, store.get, store.facts, store.files, store.written, store.remove):
        with pytest.raises(UnknownAdapter):
            ask(name)
    for replace in (False, True):
        with pytest.raises(ConfigError):
            store.add(name, adapter(base, 1), replace=replace)
    assert store.names() == ["first", "second", "third"]


@pytest.mark.parametrize("part", ["folder", "weights"])
def test_links_are_refused_everywhere(store, base, part) -> None:
    if part == "folder":
        (store.root / "link").symlink_to(store.root / "first")
    else:
        (store.root / "link").mkdir()
        (store.root / "link" / WEIGHTS_NAME).symlink_to(store.root / "first" / WEIGHTS_NAME)
    assert "link" not in store.names()
    for ask in (store.folder, store.get, store.facts, store.files, store.written, store.remove):
        with pytest.raises(UnknownAdapter):
            ask("link")
    before = (store.root / "first" / WEIGHTS_NAME).read_bytes()
    if part == "folder":
        with pytest.raises(ConfigError, match="a link"):
            store.add("link", adapter(base, 1), replace=True)
    else:
        store.add("link", adapter(base, 1), replace=True)  # a link within a folder makes room, what it leads to stays
    assert (store.root / "first" / WEIGHTS_NAME).read_bytes() == before


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
        raise OSError(errno.ENOSPC, "No space left on device", str(store.root))

    monkeypatch.setattr("safetensors.torch.save_file", full)
    monkeypatch.setattr("loragen.files._sync_tree", full)
    with pytest.raises(NoRoom, match="No space left") as met:
        store.add("fourth", adapter(base, 4))
    assert str(store.root) not in str(met.value)
    assert sorted(path.name for path in store.root.iterdir()) == ["first", "second", "third"]


def test_folders_with_files_of_others_are_not_deleted(store) -> None:
    (store.root / "first" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        store.remove("first")
    assert store.get("first").name == "first"


def test_what_a_killed_server_left_is_swept(store, base) -> None:
    for name in (".first.0a1b2c3d.deleted", ".fourth.abcdefgh.partial"):
        shutil.copytree(store.root / "first", store.root / name)
    assert AdapterStore(store.root, base, Limits()).names() == ["first", "second", "third"]
    assert sorted(path.name for path in store.root.iterdir()) == ["first", "second", "third"]


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
        lambda: (store.listed(), store.files("busy"), store.files("third")),
    ]
    threads = [threading.Thread(target=go_on, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    end.wait(1.5)
    end.set()
    for thread in threads:
        thread.join()
    assert faults == []
