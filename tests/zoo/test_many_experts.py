"""A zoo of many experts in shards gives what the same experts give in folders, and an expert is added whole or not."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from models import write_tiny_encoder
from tiny_experts import SITES

from loragen.adapters.adapter import Lora
from loragen.conditions.condition import Conditioner, Evidence
from loragen.conditions.index import exact_search
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, GeneratorError, ZooError
from loragen.files import write_folder
from loragen.generators.landmark_ridge import LandmarkRidge
from loragen.generators.registry import open_generator
from loragen.generators.ridge import Ridge
from loragen.generators.sg.fit import SGTrainConfig, fit_sg, read_experts
from loragen.generators.sg.model import SGConfig
from loragen.locks import lock
from loragen.recipes.expert import Start
from loragen.zoo.add import add_expert
from loragen.zoo.card import CARD, EXPERTS, ZOO_MANIFEST, Card, Imported
from loragen.zoo.card_table import TABLE
from loragen.zoo.embedding_table import DESCRIPTIONS, EMBEDDINGS, LISTS, VECTORS, EmbeddingTable
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.pack import pack_zoo, write_packed
from loragen.zoo.shards import SHARDS
from loragen.zoo.zoo import Zoo

NUMBER = 120
TEXT = "Say which soup is hot."
WORDS = ("soup", "tea", "bread", "warm", "cold", "rain", "bank", "card", "news", "shop", "hot", "red", "late", "sharp")


def made_expert(number: int) -> tuple[Card, Lora]:
    """A random expert over the A that all share; every tenth is there for validation."""
    rng = torch.Generator().manual_seed(number)
    lora_a = Start.random(SITES, 2, rng=torch.Generator().manual_seed(0)).lora_A
    lora_b = {site: torch.randn(out, 2, generator=rng).bfloat16() for site, (_, out) in SITES.items()}
    adapter = Lora.from_factors(
        {site: a.bfloat16() for site, a in lora_a.items()},
        lora_b,
        base_model_name_or_path="tiny-base",
        task_type="FEATURE_EXTRACTION",
    )
    words = [WORDS[at] for at in torch.randint(len(WORDS), (4,), generator=rng).tolist()]
    card = Card(
        id=f"e{number * 7919 % 100_003:06}",  # no order of making
        split="experts" if number % 10 else "validation",
        description=f"Sort {' '.join(words)}.",
        paraphrases=tuple(f"{word}?" for word in words[: number % 3]),
        labels=("yes", "no"),
        licence="MIT" if number % 2 else "CC BY 4.0",
        base="tiny-base",
        base_hash="0" * 64,
        provenance=Imported(r=2, lora_alpha=2, use_rslora=False, energy_kept=1.0, missing=()),
        versions={},
    )
    return card, adapter


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> TextEncoder:
    return TextEncoder.load(str(write_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_zoo) -> Zoo:
    root = tmp_path_factory.mktemp("many") / "zoo"
    root.mkdir()
    (root / ZOO_MANIFEST).write_bytes((tiny_zoo.root / ZOO_MANIFEST).read_bytes())
    for number in range(NUMBER):
        card, adapter = made_expert(number)
        folder = root / EXPERTS / card.id
        folder.mkdir(parents=True)
        for name, content in {**adapter.files(), CARD: card.to_yaml().encode()}.items():
            (folder / name).write_bytes(content)
    return Zoo.open(root)


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory) -> Zoo:
    return pack_zoo(folders, tmp_path_factory.mktemp("packed") / "zoo")


@pytest.fixture
def many(monkeypatch) -> None:
    """What else begins with thousands of experts begins with some."""
    for name in ("zoo.expert_index", "conditions.inverted_lists", "generators.sg.library"):
        monkeypatch.setattr(f"loragen.{name}.MOST_FLAT", 20)
    monkeypatch.setattr("loragen.generators.sg.fit.MOST_FITTED", NUMBER - 1)
    monkeypatch.setattr("loragen.generators.registry.MOST_EXACT", 20)
    monkeypatch.setattr("loragen.conditions.inverted_lists.PROBES", NUMBER)
    monkeypatch.setattr("loragen.zoo.shards.MOST_ROWS", 50)
    monkeypatch.setattr("loragen.zoo.embedding_table._AT_ONCE", 32)


@pytest.fixture
def packed(folders, tmp_path, many) -> Zoo:
    return pack_zoo(folders, tmp_path / "packed")


def asked(encoder: TextEncoder, text: str = TEXT):
    return Conditioner(encoder).condition(Evidence(text))


def coordinates(zoo: Zoo, adapter: Lora) -> torch.Tensor:
    return torch.cat([adapter.delta_weight(site).flatten() for site in adapter.sites])


# --- the same cards, adapters and search ---


def test_cards_and_adapters_are_those_of_the_folders(folders, packed) -> None:
    assert (packed.ids, len(packed), list(packed)) == (folders.ids, NUMBER, list(folders))
    assert packed.fingerprint == folders.fingerprint
    assert len(list((packed.root / SHARDS).iterdir())) == 3
    for name in folders.ids[::5]:
        assert packed.adapter(name).files() == folders.adapter(name).files()
    assert {fault for _, fault in packed.check()} == {None}


def test_search_is_that_of_the_folders(folders, packed, encoder) -> None:
    for selection in ({"splits": {"experts"}}, {"splits": {"experts"}, "licences": {"mit"}}, {}):
        wanted = ExpertIndex.of(folders.select(**selection), encoder)
        for _ in range(2):  # computed, and read
            met = ExpertIndex.of(packed.select(**selection), encoder)
            assert met.index.ids == wanted.index.ids
            torch.testing.assert_close(met.index.vectors, wanted.index.vectors, atol=1e-6, rtol=0)
            for at in (0, 7, -1):
                torch.testing.assert_close(met.paraphrases[at], wanted.paraphrases[at], atol=1e-6, rtol=0)
            query = encoder.encode([TEXT])[0]
            near = met.index.search(query, 5)
            assert near == exact_search(met.index.ids, met.index.vectors, query, 5)
            assert [hit.id for hit in near] == [hit.id for hit in wanted.index.search(query, 5)]


def test_nothing_is_read_that_is_not_drawn_on(packed, encoder, monkeypatch) -> None:
    library = ExpertIndex.of(packed.select(splits={"experts"}), encoder)
    wanted = open_generator("topk", packed, encoder).generate(asked(encoder), rng=torch.Generator())[0]
    drawn = {neighbour.id for neighbour in wanted.neighbours}
    for name in {packed.cards.place(name).shard for name in library.zoo.ids} - {
        packed.cards.place(name).shard for name in drawn
    }:
        (packed.root / SHARDS / f"{name:06}.safetensors").unlink()
    monkeypatch.setattr(Card, "model_validate_json", None)
    again = open_generator("topk", Zoo.open(packed.root), encoder).generate(asked(encoder), rng=torch.Generator())[0]
    assert again.adapter.files() == wanted.adapter.files()


# --- the same generation ---


def test_topk_gives_the_same_bytes(folders, packed, encoder) -> None:
    made = [
        open_generator("topk", zoo, encoder).generate(asked(encoder), rng=torch.Generator())[0]
        for zoo in (folders, packed)
    ]
    assert [n.id for n in made[0].neighbours] == [n.id for n in made[1].neighbours]
    assert (
        made[0]
        .adapter.delta_weight(made[0].adapter.sites[0])
        .allclose(made[1].adapter.delta_weight(made[1].adapter.sites[0]), atol=1e-5)
    )


def sg_config(root: Path) -> SGTrainConfig:
    sg = SGConfig(top_k=3, components=8, latent_size=2, hidden_size=8)
    return SGTrainConfig(
        generator="sg", zoo=root, encoder="x", out=root, sg=sg, epochs=1, steps_per_epoch=4, batch_size=8
    )


def test_a_trained_sg_is_that_of_the_folders(folders, packed, encoder, monkeypatch) -> None:
    monkeypatch.setattr("loragen.generators.sg.fit.MOST_SIMILARITIES", 700)
    experts = packed.select(splits={"experts"})
    monkeypatch.setattr("loragen.generators.sg.fit.MOST_FITTED", len(experts) - 1)
    # With all but one of the experts for the codec, by its shape alone: the directions are those of nearly all.
    data = read_experts(experts, encoder, components=8)
    assert data.library.lists is not None
    assert data.samples.shape == (len(experts), 1, 8)
    frame, codec = data.frame, data.codec
    wanted = torch.stack([codec.encode(frame.coordinates(folders.adapter(name))) for name in experts.ids])
    torch.testing.assert_close(data.samples[:, 0], wanted)

    generator, _ = fit_sg(sg_config(packed.root), experts, encoder)
    assert generator.manifest.experts == ()
    folder = packed.root / "generators" / "sg"
    write_folder(folder, generator.files())
    for read in (open_generator("sg", packed, encoder), open_generator("sg", folders_with(folders, folder), encoder)):
        a, b = (g.generate(asked(encoder), rng=torch.Generator().manual_seed(3))[0] for g in (read, generator))
        assert a.adapter.files() == b.adapter.files()
        assert a.neighbours == b.neighbours


def folders_with(zoo: Zoo, generator: Path) -> Zoo:
    target = zoo.root / "generators" / "sg"
    copytree(generator, target, dirs_exist_ok=True)
    return zoo


def test_a_library_of_many_gives_the_mixtures_of_one_of_few(packed, encoder) -> None:
    experts = packed.select(splits={"experts"})
    library = read_experts(experts, encoder, components=8).library
    few = type(library)(library.ids, library.means, library.variances + 0.5, library.embeddings)
    many = type(library)(few.ids, few.means, few.variances, few.embeddings, library.lists)
    weights = {few.ids[5]: 0.25, few.ids[2]: 0.5, few.ids[40]: 0.25}
    similarities = torch.randn(6, len(few.ids), generator=torch.Generator().manual_seed(0))
    for a, b in (
        (few.mixture_of(weights), many.mixture_of(weights)),
        (
            few.nearest_mixture(similarities, top_k=3, temperature=0.1),
            many.nearest_mixture(similarities, top_k=3, temperature=0.1),
        ),
    ):
        torch.testing.assert_close(a.mean, b.mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(a.variance, b.variance, atol=1e-5, rtol=1e-4)


def test_an_sg_without_a_number_of_directions_is_refused(packed, encoder) -> None:
    with pytest.raises(ConfigError, match="components"):
        read_experts(packed, encoder, components=None)


def test_ridge_with_all_as_landmarks_is_ridge(folders, packed, encoder) -> None:
    experts = packed.select(splits={"experts"})
    ridge = open_generator("ridge", packed, encoder)
    assert isinstance(ridge, LandmarkRidge)
    exact = Ridge(ExpertIndex.of(folders.select(splits={"experts"}), encoder), ridge.sums.alpha, ridge.sums.bandwidth)
    for _ in range(2):  # fitted, and read
        met, wanted = (g.generate(asked(encoder), rng=torch.Generator())[0] for g in (ridge, exact))
        torch.testing.assert_close(
            coordinates(packed, met.adapter), coordinates(packed, wanted.adapter), atol=2e-4, rtol=1e-3
        )
        weights = {n.id: n.weight for n in wanted.neighbours}
        for neighbour in met.neighbours:
            assert neighbour.weight == pytest.approx(weights[neighbour.id], abs=1e-5)
        assert len(met.neighbours) == 100 < len(experts)
        ridge = open_generator("ridge", Zoo.open(packed.root), encoder)


def test_fewer_landmarks_come_near(packed, encoder, monkeypatch) -> None:
    library = ExpertIndex.of(packed.select(splits={"experts"}), encoder)
    monkeypatch.setattr("loragen.generators.landmark_ridge.LANDMARKS", 60)
    ridge = LandmarkRidge.fit(library)
    exact = Ridge(library, ridge.sums.alpha, ridge.sums.bandwidth)
    met, wanted = (
        coordinates(packed, g.generate(asked(encoder), rng=torch.Generator())[0].adapter) for g in (ridge, exact)
    )
    mean = coordinates(packed, Ridge(library, 1e9, 1.0).generate(asked(encoder), rng=torch.Generator())[0].adapter)
    assert (met - wanted).norm() < 0.5 * (mean - wanted).norm()


def test_damaged_sums_are_told(packed, encoder) -> None:
    open_generator("ridge", packed, encoder)
    (file,) = (packed.root / "ridge").iterdir()
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(GeneratorError, match="remove it"):
        open_generator("ridge", packed, encoder)


# --- damaged embeddings ---


@pytest.mark.parametrize("name", [VECTORS, DESCRIPTIONS, LISTS])
@pytest.mark.parametrize("is_cut", [True, False])
def test_damaged_embeddings_are_told(packed, encoder, name: str, is_cut: bool) -> None:
    ExpertIndex.of(packed, encoder)
    file = packed.root / EMBEDDINGS / encoder.key / name
    if is_cut:
        file.write_bytes(file.read_bytes()[:-4])
    else:
        file.unlink()
    if name == LISTS and not is_cut:
        assert len(ExpertIndex.of(packed, encoder).index) == NUMBER, "lists are made again"
        return
    with pytest.raises(ZooError, match="restore it"):
        ExpertIndex.of(packed, encoder)


# --- adding one ---


@pytest.mark.parametrize("with_encoder", [True, False])
def test_what_is_added_is_there_as_in_a_zoo_packed_anew(folders, packed, encoder, with_encoder: bool) -> None:
    ExpertIndex.of(packed, encoder)
    before = {file: file.read_bytes() for file in (packed.root / SHARDS).iterdir()}
    zoo = packed
    for number in (NUMBER, NUMBER + 1, NUMBER + 3):
        zoo = add_expert(zoo, *made_expert(number), encoder=encoder if with_encoder else None)
    assert len(zoo) == NUMBER + 3
    for file, content in before.items():
        assert file.read_bytes() == content, "what was there is not touched"
    assert zoo.cards.embedded(encoder.key) == NUMBER + (3 if with_encoder else 0)
    grown = Zoo.open(copytree(folders.root, packed.root.with_name("grown")))
    for number in (NUMBER, NUMBER + 1, NUMBER + 3):
        grown = add_expert(grown, *made_expert(number))
    assert (zoo.ids, list(zoo), zoo.fingerprint) == (grown.ids, list(grown), grown.fingerprint)
    assert {fault for _, fault in zoo.check()} == {None}
    met, wanted = ExpertIndex.of(zoo, encoder), ExpertIndex.of(grown, encoder)
    torch.testing.assert_close(met.index.vectors, wanted.index.vectors, atol=1e-6, rtol=0)
    card, _ = made_expert(NUMBER + 1)
    assert card.id in {hit.id for hit in met.index.search(encoder.encode([card.description])[0], 3)}


def test_ridge_after_an_expert_was_added_counts_it_and_reads_no_other(packed, encoder, monkeypatch) -> None:
    ridge = open_generator("ridge", packed, encoder)
    zoo = add_expert(packed, *made_expert(NUMBER + 1), encoder=encoder)
    monkeypatch.setattr(type(ridge.sums), "begin", None)
    grown = open_generator("ridge", zoo, encoder)
    assert (ridge.sums.number, grown.sums.number) == (NUMBER - NUMBER // 10, NUMBER - NUMBER // 10 + 1)
    library = ExpertIndex.of(zoo.select(splits={"experts"}), encoder)
    exact = Ridge(library, ridge.sums.alpha, ridge.sums.bandwidth)
    met, wanted = (g.generate(asked(encoder), rng=torch.Generator())[0].adapter for g in (grown, exact))
    torch.testing.assert_close(coordinates(zoo, met), coordinates(zoo, wanted), atol=0.02, rtol=0.02)


def test_an_expert_that_does_not_fit_is_refused(packed, folders, tiny_zoo) -> None:
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
            add_expert(packed, bad_card, bad)
    with pytest.raises(ZooError, match="already"):
        add_expert(folders, made_expert(3)[0], adapter)
    with lock(packed.root), pytest.raises(ConfigError, match="written by another process"):
        add_expert(packed, card, adapter)
    assert Zoo.open(packed.root).ids == folders.ids


CALLS = ("os.fsync", "os.replace", "os.open", "os.unlink")
ADD = """
import os, signal, sys
sys.path[:0] = {paths!r}
import torch
from pathlib import Path
from test_many_experts import NUMBER, made_expert
from loragen.conditions.text_encoder import TextEncoder
from loragen.zoo import add, embedding_table, shards
from loragen.zoo.zoo import Zoo

root, key, last = Path({root!r}), {encoder!r}, {last}
encoder = TextEncoder.load(key)
expert = made_expert(NUMBER + 1)
zoo = Zoo.open(root)
encoder.encode(["warm"])
count = 0

def watched(call):
    def wrapped(*arguments, **named):
        global count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return wrapped

os.fsync = watched(os.fsync)
add.insert, add.write_row, add.set_embedded = map(watched, (add.insert, add.write_row, add.set_embedded))
add.last_place, add.file_hash = map(watched, (add.last_place, add.file_hash))
add.add_expert(zoo, *expert, encoder=encoder)
print(count)
"""


def test_an_add_that_is_killed_leaves_the_zoo_before_or_after(folders, packed, encoder, tmp_path) -> None:
    ExpertIndex.of(packed, encoder)
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    card, adapter = made_expert(NUMBER + 1)
    last, was_killed = 1, True
    states = set()
    while was_killed:
        root = copytree(packed.root, tmp_path / f"at{last}")
        code = ADD.format(paths=paths, root=str(root), encoder=str(encoder.folder), last=last)
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ.copy())
        was_killed = ended.returncode == -signal.SIGKILL
        assert was_killed or ended.returncode == 0, ended.stderr
        zoo = Zoo.open(root)
        states.add(len(zoo))
        assert zoo.ids in (folders.ids, tuple(sorted((*folders.ids, card.id))))
        assert {fault for _, fault in zoo.check()} == {None}
        assert len(ExpertIndex.of(zoo, encoder).index) == len(zoo)
        if len(zoo) == NUMBER:  # the next one takes the place of what was not written whole
            zoo = add_expert(zoo, card, adapter, encoder=encoder)
        assert zoo.adapter(card.id).files() == adapter.files()
        library = ExpertIndex.of(zoo, encoder)
        at = zoo.ids.index(card.id)
        torch.testing.assert_close(library.paraphrases[at], encoder.encode(card.descriptions), atol=1e-6, rtol=0)
        last += 1
    assert states == {NUMBER, NUMBER + 1}
    assert last > 6


# --- larger than a test's usual ---


def test_three_thousand_in_one_reading(tmp_path, tiny_zoo, many) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / ZOO_MANIFEST).write_bytes((tiny_zoo.root / ZOO_MANIFEST).read_bytes())
    _, adapter = made_expert(1)
    card, _ = made_expert(1)
    write_packed(
        tmp_path / "zoo", ((card.model_copy(update={"id": f"e{number:04}"}), adapter) for number in range(1_000))
    )
    zoo = Zoo.open(tmp_path / "zoo")
    columns = zoo.cards.columns()
    assert columns.row.tolist() == list(range(1_000))
    assert np.bincount(columns.shard).tolist() == [50] * 20
    assert zoo.adapter("e0999").files() == adapter.files()
    assert (zoo.root / TABLE).stat().st_size < 1_000 * 1_500
    assert EmbeddingTable.of(zoo.root, TextEncoder.load()).table.ids == zoo.ids
