import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.conditions.index import Hit, Index, exact_search
from loragen.errors import ZooError


def unit_circle(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


@st.composite
def searches(draw):
    """Vectors with many repeats under shuffled ids, a query that may be one of them, k, and ids to leave out."""
    size, dimension = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    distinct = torch.randn(draw(st.integers(1, size)), dimension, generator=rng, dtype=torch.float64).float()
    if draw(st.booleans()):  # whole numbers make ties between vectors that differ
        distinct = distinct.round() + (distinct.round().abs().sum(1, keepdim=True) == 0)
    picks = torch.randint(len(distinct), (size,), generator=rng)
    ids = [f"e{number:02}" for number in torch.randperm(size, generator=rng).tolist()]
    query = distinct[0] if draw(st.booleans()) else torch.randn(dimension, generator=rng) + 1e-3
    return (
        ids,
        distinct[picks],
        query,
        draw(st.integers(1, size + 2)),
        draw(st.sets(st.sampled_from([*ids, "foreign"]))),
    )


@given(searches())
def test_index_and_exact_search_agree(search):
    ids, vectors, query, k, exclude = search
    found = Index.build(ids, vectors).search(query, k, exclude)
    wanted = exact_search(ids, vectors, query, k, exclude)
    assert [hit.id for hit in found] == [hit.id for hit in wanted]
    assert [hit.similarity for hit in found] == pytest.approx([hit.similarity for hit in wanted], abs=1e-5)
    assert len(found) == min(k, len(set(ids) - exclude))


@given(searches())
def test_exact_search_ranks_cosines(search):
    ids, vectors, query, k, exclude = search
    hits = exact_search(ids, vectors, query, k, exclude)
    cosines = dict(zip(ids, torch.cosine_similarity(vectors, query[None]).tolist(), strict=True))
    assert [hit.similarity for hit in hits] == pytest.approx([cosines[hit.id] for hit in hits], abs=1e-5)
    assert hits == sorted(hits, key=lambda hit: (-hit.similarity, hit.id))
    left = set(ids) - exclude - {hit.id for hit in hits}
    assert all(cosines[one] <= hits[-1].similarity + 1e-5 for one in left)


@given(searches())
def test_order_of_building_does_not_matter(search):
    ids, vectors, query, k, exclude = search
    backwards = Index.build(ids[::-1], vectors.flip(0))
    assert backwards.search(query, k, exclude) == Index.build(ids, vectors).search(query, k, exclude)


def test_known_angles():
    index = Index.build(["east", "north", "west"], 7 * unit_circle(0, 90, 180))
    assert index.search(unit_circle(60)[0], k=2) == [Hit("north", 0.866025), Hit("east", 0.5)]
    assert index.search(unit_circle(60)[0], k=5, exclude=["north", "nobody"]) == [Hit("east", 0.5), Hit("west", -0.5)]
    assert index.search(unit_circle(60)[0], k=1, exclude=index.ids) == []


def test_ties_go_by_id_even_where_k_cuts_them():
    ids = [f"e{number:03}" for number in range(200, 0, -1)]
    index = Index.build(ids, torch.ones(200, 384))
    assert [hit.id for hit in index.search(torch.ones(384), k=3)] == ["e001", "e002", "e003"]


def test_many_queries_at_once():
    rng = torch.Generator().manual_seed(0)
    vectors = torch.cat([torch.randn(100, 16, generator=rng), torch.ones(100, 16)])
    queries = torch.cat([torch.randn(30, 16, generator=rng), torch.ones(1, 16)])  # the last one meets nothing but ties
    ids = [f"e{number}" for number in range(200, 0, -1)]
    found = Index.build(ids, vectors).search_each(queries, k=4, exclude=["e3"])
    assert found == [exact_search(ids, vectors, query, 4, ["e3"]) for query in queries]


def test_the_caller_keeps_its_vectors():
    vectors = 3 * torch.ones(2, 4, requires_grad=True)
    Index.build(["a", "b"], vectors)
    assert vectors.eq(3).all()


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        ([], torch.empty(0, 2), "zoo is empty"),
        (["a", "b", "a"], torch.ones(3, 2), "more than once: a"),
        (["a", "b"], torch.tensor([[1.0, 0.0], [0.0, 0.0]]), r"those at \[1\]"),
        (["a", "b"], torch.tensor([[float("nan"), 0.0], [0.0, 1.0]]), r"those at \[0\]"),
    ],
)
def test_what_cannot_be_indexed_is_refused(ids, vectors, message):
    with pytest.raises(ZooError, match=message):
        Index.build(ids, vectors)


@pytest.mark.parametrize("query", [torch.ones(3), torch.ones(2, 2), torch.tensor(1.0)])
def test_queries_of_another_shape_are_refused(query):
    index = Index.build(["a"], torch.ones(1, 2))
    with pytest.raises(ZooError, match=r"the index \(2,\)"):
        index.search(query, k=1)
    with pytest.raises(ZooError, match=r"the index \(2,\)"):
        exact_search(["a"], torch.ones(1, 2), query, k=1)
