"""The thread that computes, and what is computed together."""

import threading
from concurrent.futures import Future
from dataclasses import dataclass

import pytest
import torch
from models import write_tiny_encoder
from tiny_adapters import adapter

from loragen.bases.text_encoder import LabelTextEncoder
from loragen.errors import AdapterError
from loragen.serving.batcher import MOST_ROWS, Batcher, Embed, Stopped, Work
from loragen.serving.settings import Limits
from loragen.serving.store import AdapterStore

TEXTS = ["warm soup", "tea", "a cold bread with tea and soup", "bread"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> LabelTextEncoder:
    return LabelTextEncoder.load(str(write_tiny_encoder(tmp_path_factory.mktemp("batches") / "base")))


@pytest.fixture
def batcher(base):
    running = Batcher(base)
    yield running
    running.stop()


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
    assert kept.get("one").facts.name == "one"
