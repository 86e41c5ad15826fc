"""An expert is added to a zoo whole or not at all, and is then like those that were there."""

import os
import signal
from shutil import copytree

import pytest
import torch
from many_experts import NUMBER, asked, coordinates, made_expert
from many_experts import encoder as encoder
from many_experts import folders as folders
from many_experts import many as many
from many_experts import packed as packed

from loragen.adapters.adapter import Lora
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, ZooError
from loragen.generators.registry import open_generator
from loragen.generators.ridge import Ridge
from loragen.locks import lock
from loragen.zoo import insert_expert as inserting
from loragen.zoo.card import Card
from loragen.zoo.changes import read_changes
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.insert_expert import insert_expert
from loragen.zoo.shards import SHARDS
from loragen.zoo.zoo import Zoo

# --- adding one ---


@pytest.mark.parametrize("with_encoder", [True, False])
def test_what_is_added_is_there_as_in_a_zoo_packed_anew(folders, packed, encoder, with_encoder: bool) -> None:
    ExpertIndex.of(packed, encoder)
    before = {file: file.read_bytes() for file in (packed.root / SHARDS).iterdir()}
    zoo = packed
    for number in (NUMBER, NUMBER + 1, NUMBER + 3):
        zoo = insert_expert(zoo, *made_expert(number), encoder=encoder if with_encoder else None)
    assert len(zoo) == NUMBER + 3
    for file, content in before.items():
        assert file.read_bytes() == content, "what was there is not touched"
    assert zoo.cards.embedded(encoder.key) == NUMBER + (3 if with_encoder else 0)
    grown = Zoo.open(copytree(folders.root, packed.root.with_name("grown")))
    for number in (NUMBER, NUMBER + 1, NUMBER + 3):
        grown = insert_expert(grown, *made_expert(number))
    assert (zoo.ids, list(zoo), zoo.fingerprint) == (grown.ids, list(grown), grown.fingerprint)
    met, wanted = ExpertIndex.of(zoo, encoder), ExpertIndex.of(grown, encoder)
    torch.testing.assert_close(met.index.vectors, wanted.index.vectors, atol=1e-6, rtol=0)
    query = encoder.encode([made_expert(NUMBER + 1)[0].description])[0]
    assert [hit.id for hit in met.index.search(query, 9)] == [hit.id for hit in wanted.index.search(query, 9)]


def test_ridge_after_an_expert_was_added_counts_it_and_reads_no_other(packed, encoder, monkeypatch) -> None:
    ridge = open_generator("ridge", packed, encoder)
    zoo = insert_expert(packed, *made_expert(NUMBER + 1), encoder=encoder)
    monkeypatch.setattr(type(ridge.sums), "begin", None)
    grown = open_generator("ridge", zoo, encoder)
    assert (ridge.sums.number, grown.sums.number) == (NUMBER - NUMBER // 10, NUMBER - NUMBER // 10 + 1)
    library = ExpertIndex.of(zoo.select(splits={"experts"}), encoder)
    exact = Ridge(library, ridge.sums.alpha, ridge.sums.bandwidth)
    met, wanted = (g.generate(asked(encoder), rng=torch.Generator())[0].adapter for g in (grown, exact))
    torch.testing.assert_close(coordinates(zoo, met), coordinates(zoo, wanted), atol=0.02, rtol=0.02)


def test_an_expert_that_does_not_fit_is_refused(packed, folders, monkeypatch) -> None:
    monkeypatch.setattr(inserting, "PATIENCE_S", 0.1)
    card, adapter = made_expert(NUMBER + 1)
    other = Lora(adapter.settings, {s: a + 1 for s, a in adapter.lora_A.items()}, adapter.lora_B)
    wide = Lora(adapter.settings, adapter.lora_A, {s: b.float() for s, b in adapter.lora_B.items()})
    still = Lora(adapter.settings, adapter.lora_A, {s: b * 0 for s, b in adapter.lora_B.items()})
    for bad_card, bad, message in (
        (made_expert(3)[0], adapter, "already"),
        (card.model_copy(update={"base": "another"}), adapter, "of the base"),
        (card, other, "share the A"),
        (card, wide, "another shape or type"),
        (card, still, "does nothing"),
    ):
        with pytest.raises(ZooError, match=message):
            insert_expert(packed, bad_card, bad)
    with pytest.raises(ZooError, match="already"):
        insert_expert(folders, made_expert(3)[0], adapter)
    with lock(packed.root), pytest.raises(ConfigError, match="written by another process"):
        insert_expert(packed, card, adapter)
    assert Zoo.open(packed.root).ids == folders.ids


class Watched:
    """Kills this process at one of its calls of some functions."""

    def __init__(self, last: int) -> None:
        self.left = last

    def __call__(self, call):
        def wrapped(*arguments, **named):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return wrapped


def killed_at(call: int, zoo: Zoo, card: Card, adapter: Lora, encoder: TextEncoder) -> bool:
    """Add an expert in a fork that is killed at a call; `False` if it ended before."""
    child = os.fork()
    if not child:
        watched = Watched(call)
        os.fsync = watched(os.fsync)
        for name in ("insert", "write_row", "set_embedded", "last_place", "file_hash"):
            setattr(inserting, name, watched(getattr(inserting, name)))
        try:
            insert_expert(zoo, card, adapter, encoder=encoder)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
def test_an_add_that_is_killed_leaves_the_zoo_before_or_after(folders, packed, encoder, tmp_path) -> None:
    ExpertIndex.of(packed, encoder)
    card, adapter = made_expert(NUMBER + 1)
    wanted = encoder.encode(card.descriptions)
    call, was_killed, states = 1, True, set()
    while was_killed:
        root = copytree(packed.root, tmp_path / f"at{call}")
        was_killed = killed_at(call, Zoo.open(root), card, adapter, encoder)
        zoo = Zoo.open(root)
        states.add((len(zoo), was_killed))
        assert zoo.ids in (folders.ids, tuple(sorted((*folders.ids, card.id))))
        assert zoo.select(without={card.id}).fingerprint == folders.fingerprint
        assert len(ExpertIndex.of(zoo, encoder).index) == len(zoo)
        if len(zoo) == NUMBER:  # the next one takes the place of what was not written whole
            zoo = insert_expert(zoo, card, adapter, encoder=encoder)
        assert zoo.adapter(card.id).files() == adapter.files()
        (line,) = read_changes(root)  # of a killed one that came to nothing none is left
        assert (line.what, line.id, line.before, line.after) == (
            *("added", card.id, folders.fingerprint, zoo.fingerprint),
        )
        library = ExpertIndex.of(zoo, encoder)
        torch.testing.assert_close(library.paraphrases[zoo.ids.index(card.id)], wanted, atol=1e-6, rtol=0)
        call += 1
    assert {(NUMBER, True), (NUMBER + 1, False)} <= states
    assert call > 6
