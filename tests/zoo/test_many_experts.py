"""A zoo of many experts in shards gives what the same experts give in folders."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from many_experts import NUMBER, TEXT, asked, coordinates, made_expert
from many_experts import encoder as encoder
from many_experts import folders as folders
from many_experts import many as many
from many_experts import packed as packed

from loragen.conditions.index import exact_search
from loragen.errors import ConfigError, GeneratorError, ZooError
from loragen.files import write_folder
from loragen.generators.landmark_ridge import LandmarkRidge
from loragen.generators.registry import open_generator
from loragen.generators.ridge import Ridge
from loragen.generators.sg.fit import SGTrainConfig, fit_sg, read_experts
from loragen.generators.sg.model import SGConfig
from loragen.zoo.card import ZOO_MANIFEST, Card
from loragen.zoo.card_table import TABLE
from loragen.zoo.embedding_table import DESCRIPTIONS, EMBEDDINGS, LISTS, VECTORS
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.pack import write_packed
from loragen.zoo.shards import SHARDS
from loragen.zoo.zoo import Zoo

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


def test_ridge_with_all_as_landmarks_is_ridge(folders, packed, encoder, monkeypatch) -> None:
    monkeypatch.setattr("loragen.generators.landmark_ridge.SHOWN", 20)
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
        assert len(met.neighbours) == 20 < len(experts)
        ridge = open_generator("ridge", Zoo.open(packed.root), encoder)


def test_fewer_landmarks_come_near(packed, encoder, monkeypatch) -> None:
    library = ExpertIndex.of(packed.select(splits={"experts"}), encoder)
    monkeypatch.setattr("loragen.generators.landmark_ridge.LANDMARKS", 30)
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


# --- writing ---


def test_shards_and_rows_follow_the_order_of_writing(tmp_path, tiny_zoo, many) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / ZOO_MANIFEST).write_bytes((tiny_zoo.root / ZOO_MANIFEST).read_bytes())
    card, adapter = made_expert(1)
    write_packed(
        tmp_path / "zoo", ((card.model_copy(update={"id": f"e{number:04}"}), adapter) for number in range(300))
    )
    zoo = Zoo.open(tmp_path / "zoo")
    columns = zoo.cards.columns()
    assert columns.row.tolist() == list(range(300))
    assert np.bincount(columns.shard).tolist() == [25] * 12
    assert zoo.adapter("e0299").files() == adapter.files()
    assert (zoo.root / TABLE).stat().st_size < 300 * 1_500 + 50_000
