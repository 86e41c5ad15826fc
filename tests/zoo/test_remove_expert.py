"""Experts are taken out of zoos, in folders and packed, whole or not at all, and their weights with them."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from shutil import copyfile, copytree, rmtree

import pytest
import torch
from many_experts import NUMBER, asked, coordinates, made_expert
from many_experts import encoder as encoder
from many_experts import folders as folders
from many_experts import many as many
from many_experts import packed as packed

from loragen import files
from loragen.errors import ConfigError, ZooError
from loragen.generators.registry import open_generator
from loragen.zoo import remove, tidy
from loragen.zoo.card import EXPERTS, ZOO_MANIFEST
from loragen.zoo.changes import CHANGES, read_changes
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.insert_expert import insert_expert
from loragen.zoo.pack import pack_zoo
from loragen.zoo.remove import remove_expert
from loragen.zoo.zoo import Zoo

GONE = [made_expert(number)[0].id for number in (NUMBER - 1, 7, 0, NUMBER - 2)]
"""The last ones, the first and one between."""


@pytest.fixture
def copied(folders, tmp_path) -> Zoo:
    return Zoo.open(copytree(folders.root, tmp_path / "folders"))


def everything(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file() and path.name != CHANGES)


def numbers_of(zoo: Zoo, expert: str) -> bytes:
    """A run of bytes that no other expert has."""
    b = next(iter(zoo.adapter(expert).lora_B.values()))
    return b.contiguous().view(torch.uint8).numpy().tobytes()


# --- what is left ---


@pytest.mark.parametrize("kind", ["copied", "packed"])
def test_what_is_left_is_a_zoo_that_never_had_them(kind, request, folders, encoder, tmp_path) -> None:
    zoo = request.getfixturevalue(kind)
    ExpertIndex.of(zoo, encoder)
    weights = {name: numbers_of(zoo, name) for name in GONE}
    assert all(one in everything(zoo.root) for one in weights.values())
    removed = remove_expert(GONE, zoo)
    now, wanted = Zoo.open(zoo.root), folders.select(without=GONE)
    assert (now.ids, list(now), now.fingerprint) == (wanted.ids, list(wanted), wanted.fingerprint)
    assert (removed.ids, removed.left, removed.fingerprint) == (tuple(GONE), len(now), now.fingerprint)
    left = everything(zoo.root)
    assert not any(one in left for one in weights.values()), "their weights are gone from the disk"
    if kind == "packed":
        assert not any(f'"id":"{name}"'.encode() in left for name in GONE), "and so are their cards"
    assert not any(dict(now.check()).values())
    query = encoder.encode([made_expert(7)[0].description])[0]
    fresh = pack_zoo(wanted, tmp_path / "fresh")
    hits = [ExpertIndex.of(one, encoder).index.search(query, 9) for one in (now, fresh)]
    assert [hit.id for hit in hits[0]] == [hit.id for hit in hits[1]]


@pytest.mark.parametrize("embedded", [True, False])
def test_rows_of_those_that_went_are_not_given_to_those_that_come(folders, packed, encoder, embedded: bool) -> None:
    if embedded:
        ExpertIndex.of(packed, encoder)
    remove_expert(GONE, packed)
    zoo = Zoo.open(packed.root)
    assert zoo.cards.size() == NUMBER
    assert len(ExpertIndex.of(zoo, encoder).index) == NUMBER - len(GONE), "also where the last row is of one that went"
    for number in (NUMBER + 1, NUMBER + 3):
        zoo = insert_expert(zoo, *made_expert(number), encoder=encoder if embedded else None)
    assert zoo.cards.size() == NUMBER + 2
    library = ExpertIndex.of(zoo, encoder)
    for number in (1, NUMBER - 3, NUMBER + 1, NUMBER + 3):
        card, adapter = made_expert(number)
        assert zoo.card(card.id) == card
        assert zoo.adapter(card.id).files() == adapter.files()
        found = library.paraphrases[zoo.ids.index(card.id)]
        torch.testing.assert_close(found, encoder.encode(card.descriptions), atol=1e-6, rtol=0)
    assert not any(dict(zoo.check()).values())


def test_a_regression_on_sums_counts_them_no_more(packed, encoder) -> None:
    open_generator("ridge", packed, encoder)
    remove_expert(GONE[:2], packed)
    zoo = Zoo.open(packed.root)
    met = open_generator("ridge", zoo, encoder)
    rmtree(zoo.root / "ridge")
    anew = open_generator("ridge", Zoo.open(packed.root), encoder)
    assert met.sums.number == anew.sums.number == len(zoo.drawn_on)
    made = [one.generate(asked(encoder), rng=torch.Generator())[0].adapter for one in (met, anew)]
    torch.testing.assert_close(*(coordinates(zoo, one) for one in made))


# --- refusals ---


@pytest.mark.parametrize("kind", ["copied", "packed"])
def test_what_is_not_there_or_would_be_the_last_stays(kind, request) -> None:
    zoo = request.getfixturevalue(kind)
    before = everything(zoo.root)
    with pytest.raises(ZooError, match="has no expert 'e00000x'"):
        remove_expert([GONE[0], "e00000x"], zoo)
    with pytest.raises(ZooError, match="would be left"):
        remove_expert(zoo.ids, zoo)
    with pytest.raises(ZooError, match="would be left"):
        remove_expert(zoo.drawn_on.ids, zoo.root)
    with pytest.raises(ZooError, match="No expert was named"):
        remove_expert([], zoo)
    assert everything(zoo.root) == before
    assert read_changes(zoo.root) == ()


def test_a_folder_that_holds_what_is_not_ours_stays(copied) -> None:
    (copied.folder(GONE[1]) / "thesis.txt").write_text("all of it")
    with pytest.raises(ConfigError, match=r"holds thesis\.txt, which loragen did not write"):
        remove_expert(GONE, copied)
    assert Zoo.open(copied.root).ids == copied.ids


# --- kills ---


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


def killed_at(call: int, zoo: Zoo) -> bool:
    """Remove two experts in a fork that is killed at a call; `False` if it ended before."""
    child = os.fork()
    if not child:
        watched = Watched(call)
        names = ((os, "fsync"), (os, "write"), (os, "rename"), (os, "rmdir"), (os, "truncate"), (remove, "take_out"))
        for module, name in (*names, (remove, "wipe"), (tidy, "wipe_row"), (tidy, "set_wiped"), (files, "sync")):
            setattr(module, name, watched(getattr(module, name)))
        try:
            remove_expert(FEW[:2], zoo)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


FEW = [made_expert(number)[0].id for number in range(6)]


@pytest.fixture
def few(folders, tmp_path) -> Zoo:
    """A zoo of six experts in folders."""
    root = tmp_path / "few"
    for name in FEW:
        copytree(folders.folder(name), root / EXPERTS / name)
    copyfile(folders.root / ZOO_MANIFEST, root / ZOO_MANIFEST)
    return Zoo.open(root)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
@pytest.mark.parametrize("kind", ["folders", "packed"])
def test_a_removal_that_is_killed_leaves_each_expert_there_or_not(kind, few, tmp_path) -> None:
    zoo = few if kind == "folders" else pack_zoo(few, tmp_path / "packed")
    weights = {name: numbers_of(zoo, name) for name in FEW[:2]}
    by_number = [few.select(without=FEW[:n]).fingerprint for n in range(3)]
    call, was_killed, states = 1, True, set()
    while was_killed:
        root = copytree(zoo.root, tmp_path / f"at{call}")
        was_killed = killed_at(call, Zoo.open(root))
        now = Zoo.open(root)
        gone = len(FEW) - len(now)
        states.add((gone, was_killed))
        assert (set(FEW) - set(now.ids), now.fingerprint) == (set(FEW[:gone]), by_number[gone])
        card, adapter = made_expert(NUMBER + 1)
        again = insert_expert(now, card, adapter)  # the next one that writes puts all in order
        left = everything(root)
        assert all(name in again.cards or weights[name] not in left for name in FEW[:2])
        told = [(change.what, change.id) for change in read_changes(root)]
        assert told == [*(("removed", name) for name in FEW[:gone]), ("added", card.id)]
        assert read_changes(root)[-1].after == again.fingerprint
        assert not any(dict(again.check()).values())
        rmtree(root)
        call += 1
    assert {(0, True), (1, True), (2, True), (2, False)} <= states


# --- two at once ---

CHANGING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from many_experts import NUMBER, made_expert
from loragen.zoo.insert_expert import insert_expert
from loragen.zoo.remove import remove_expert
from loragen.zoo.zoo import Zoo
roots, first = [Path(root) for root in sys.argv[1:3]], int(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + 4, 2):
    for root in roots:
        insert_expert(Zoo.open(root), *made_expert(NUMBER + number))
        remove_expert(made_expert(number)[0].id, root)
"""


def test_two_processes_at_once_lose_nothing(copied, packed, folders) -> None:
    paths = os.pathsep.join(map(str, (Path(__file__).parents[2], Path(__file__).parents[1])))
    both = [
        subprocess.Popen(
            [sys.executable, "-c", CHANGING, copied.root, packed.root, Path(__file__).parent, str(first)],
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
        )
        for first in (1, 2)
    ]
    assert [one.stdout.readline() for one in both] == ["ready\n"] * 2
    for one in both:
        one.stdin.write("\n")
        one.stdin.flush()
    assert [(one.communicate(timeout=200)[1], one.returncode) for one in both] == [("", 0)] * 2
    came, went = ({made_expert(more + number)[0].id for number in range(1, 5)} for more in (NUMBER, 0))
    for root in (copied.root, packed.root):
        now, changes = Zoo.open(root), read_changes(root)
        assert set(now.ids) == (set(folders.ids) | came) - went
        told = sorted((change.what, change.id) for change in changes)
        assert told == sorted([*(("added", name) for name in came), *(("removed", name) for name in went)])
        states = [folders.fingerprint, *(change.after for change in changes)]
        assert [change.before for change in changes] == states[:-1], "each begins where the one before it ended"
        assert states[-1] == now.fingerprint
        assert not any(dict(now.check()).values())
