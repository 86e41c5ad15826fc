"""Lists find what an exact search finds, in most of its places, and in the same order with the same similarities."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from loragen.conditions.index import Index, exact_search, unit_rows
from loragen.conditions.inverted_lists import InvertedLists
from loragen.errors import ZooError
from loragen.zoo.zoo import default_zoo


@pytest.fixture(scope="module")
def real() -> torch.Tensor:
    """Embeddings of the descriptions of the bundled zoo, (n, 384)."""
    (file,) = (default_zoo() / "embeddings").glob("*.safetensors")
    return load_file(file)["vectors"]


def around(real: torch.Tensor, number: int, seed: int = 0) -> torch.Tensor:
    """Unit vectors around mixtures of two of the real ones, as descriptions of like tasks have them."""
    rng = torch.Generator().manual_seed(seed)
    pairs = torch.randint(len(real), (number, 2), generator=rng)
    shares = torch.rand(number, 1, generator=rng)
    mixed = shares * real[pairs[:, 0]] + (1 - shares) * real[pairs[:, 1]]
    return unit_rows(F.normalize(mixed, dim=1) + 0.6 / 384**0.5 * torch.randn(number, 384, generator=rng))


def named(number: int) -> list[str]:
    return [f"e{at:06}" for at in range(number)]


@pytest.fixture(scope="module")
def units(real) -> torch.Tensor:
    return around(real, 20_000)


@pytest.fixture(scope="module")
def lists(units) -> InvertedLists:
    return InvertedLists.build(units[:19_900])


@pytest.fixture(scope="module")
def index(units, lists) -> Index:
    return Index.of_table(named(len(units)), units, np.arange(len(units)), lists)


def test_recall_against_exact_search(real, units, index) -> None:
    queries = around(real, 100, seed=1)
    flat = Index.build(index.ids, units)
    for k in (1, 10):
        wanted, met = flat.search_each(queries, k), index.search_each(queries, k)
        shared = [len(set(a) & set(b)) / k for a, b in zip(wanted, met, strict=True)]
        assert sum(shared) / len(shared) >= 0.98, k


def test_recall_for_descriptions_that_are_like_none(real) -> None:
    shuffled = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(3))]
    queries, units = shuffled[:60], around(shuffled[60:], 10_000)
    ids = named(len(units))
    index = Index.of_table(ids, units, np.arange(len(units)), InvertedLists.build(units))
    wanted, met = Index.build(ids, units).search_each(queries, 10), index.search_each(queries, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(wanted, met, strict=True)]) >= 0.98


def test_every_list_read_is_an_exact_search(real, units, lists, index, monkeypatch) -> None:
    monkeypatch.setattr("loragen.conditions.inverted_lists.PROBES", len(lists.centroids))
    left_out = set(index.ids[::3])
    for query in around(real, 2, seed=2):
        assert index.search(query, 10) == exact_search(index.ids, units, query, 10)
        met = index.search(query, 10, exclude=left_out | {"nobody"})
        assert met == exact_search(index.ids, units, query, 10, exclude=left_out)


def test_the_newest_are_found_before_they_are_in_lists(units, index, lists) -> None:
    for at in (19_900, 19_999):
        assert index.search(units[at], 1)[0].id == index.ids[at]
    grown = lists.extended(units)
    assert (grown.covered, len(grown.centroids)) == (20_000, len(lists.centroids))
    assert grown.order.sort().values.equal(torch.arange(20_000))
    wanted = (units @ lists.centroids.T).argmax(1)
    for number in (0, 7, len(grown.centroids) - 1):
        rows = grown.order[grown.starts[number] : grown.starts[number + 1]]
        assert rows.equal((wanted == number).nonzero().flatten())


def test_equal_vectors_go_by_id(real) -> None:
    vectors = around(real, 5_000)
    vectors[100:400] = vectors[100]
    ids = named(5_000)[::-1]
    index = Index.of_table(ids, vectors, np.arange(5_000), InvertedLists.build(vectors))
    assert [hit.id for hit in index.search(vectors[100], 5)] == sorted(ids[100:400])[:5]


def test_a_selection_of_the_rows_in_another_order(real, units, lists) -> None:
    rows = np.random.default_rng(0).permutation(20_000)[:6_000]
    ids = named(6_000)
    part = Index.of_table(ids, units, rows, lists)
    assert torch.equal(part.vectors, units[torch.from_numpy(rows)])
    assert torch.equal(part.vectors_at([5, 2]), part.vectors[[5, 2]])
    queries = around(real, 100, seed=3)
    wanted, met = Index.build(ids, part.vectors).search_each(queries, 4), part.search_each(queries, 4)
    assert np.mean([len(set(a) & set(b)) / 4 for a, b in zip(wanted, met, strict=True)]) >= 0.98
    assert part.search(units[0], 2_000) == exact_search(ids, part.vectors, units[0], 2_000), "of so many, all"


def test_few_that_are_allowed_are_all_found(units, lists) -> None:
    ids, rows = named(60), np.arange(0, 19_900, 335)[:60]
    few = Index.of_table(ids, units, rows, lists)
    assert few.search(units[7], 14) == exact_search(ids, units[torch.from_numpy(rows)], units[7], 14)


def test_what_is_kept_is_read_again(lists, tmp_path) -> None:
    lists.save(tmp_path / "lists")
    assert (tmp_path / "lists").stat().st_size < 19_900 * 4 + len(lists.centroids) * 384 * 4 + 10_000
    read = InvertedLists.load(tmp_path / "lists", 20_000, 384)
    for name in ("centroids", "order", "starts"):
        assert torch.equal(getattr(read, name), getattr(lists, name))


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.pop("lists.order"),
        lambda tensors: tensors["lists.order"].fill_(0),
        lambda tensors: tensors["lists.order"].sub_(1),
        lambda tensors: tensors["lists.starts"].add_(1),
        lambda tensors: tensors["lists.starts"][3:4].fill_(10**9),
        lambda tensors: tensors.update({"lists.centroids": tensors["lists.centroids"][:, 1:].clone()}),
        lambda tensors: tensors.update({"lists.centroids": tensors["lists.centroids"][1:].clone()}),
        lambda tensors: tensors["lists.centroids"].fill_(float("nan")),
        lambda tensors: tensors.update({"lists.starts": tensors["lists.starts"][None].clone()}),
    ],
)
def test_damaged_lists_are_refused(lists, tmp_path, damage) -> None:
    lists.save(tmp_path / "lists")
    tensors = {name: value.clone() for name, value in load_file(tmp_path / "lists").items()}
    damage(tensors)
    save_file(tensors, tmp_path / "lists")
    with pytest.raises(ZooError, match=r"remove it|restore it"):
        InvertedLists.load(tmp_path / "lists", 20_000, 384)
    with pytest.raises(ZooError, match="restore it"):
        InvertedLists.load(tmp_path / "none", 20_000, 384)


def test_lists_of_a_larger_table_are_refused(lists, tmp_path) -> None:
    lists.save(tmp_path / "lists")
    with pytest.raises(ZooError, match="remove it"):
        InvertedLists.load(tmp_path / "lists", 19_899, 384)
