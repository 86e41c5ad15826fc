"""Histories as conditions: their order does not matter, the untrained pool is a mean, and the gate is of whole
experts (card E1, T0)."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import write_tiny_encoder

from loragen.conditions.condition import Conditioner, Evidence
from loragen.conditions.history import MOST_TEXTS, History, item_vectors, read_history
from loragen.conditions.history_pool import START, HistoryPool, PoolConfig
from loragen.conditions.task_vectors import Reader, Reading
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import GeneratorError, TaskError
from loragen.tasks.examples import Examples

WORDS = ("soup", "bread", "cold", "warm", "tea")
TEXTS = tuple(f"{a} {b}" for a in WORDS for b in WORDS if a != b)
TOLD = Examples(TEXTS[:6], labels=(0, 1, 0, 1, 0, 1), label_names=("tea", "soup"))
DESCRIPTION = "Is it soup or tea?"
SIZE = 7


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return TextEncoder.load(str(write_tiny_encoder(tmp_path_factory.mktemp("models") / "encoder", seed=1)))


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    return Reading(model=str(write_tiny_encoder(tmp_path_factory.mktemp("models") / "reader")))


def trained(size=SIZE, *, seed=0, **config):
    """A pool in which nothing is as it began."""
    pool = HistoryPool(size, PoolConfig(**config)).requires_grad_(False)
    rng = torch.Generator().manual_seed(seed)
    for parameter in pool.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return pool


def items(n, *, size=SIZE, seed=0):
    return F.normalize(torch.randn(n, size, generator=torch.Generator().manual_seed(seed)), dim=1)


# --- the pool -------------------------------------------------------------------------------------------------------


def by_hand(pool, x, d):
    """q of one history, text by text."""
    wanted = pool.wanted + (pool.wanted_of_description.weight @ d if d is not None else 0)
    scores = [float((pool.keys.weight @ one) @ wanted) / math.sqrt(pool.config.attention_size) for one in x]
    total = sum(math.exp(score) for score in scores)
    p = sum(math.exp(score) / total * one for score, one in zip(scores, x, strict=True))
    n = (p - p.mean()) / (p.var(unbiased=False) + 1e-5).sqrt() * pool.norm.weight + pool.norm.bias
    hidden = (pool.first.weight @ n + pool.first.bias).clamp_min(0)
    h = p + pool.last.weight @ hidden + pool.last.bias
    h = h / h.norm()
    near = sorted(x, key=lambda one: -float(one @ (h if d is None else d)))[: pool.config.short]
    s = sum(near) / len(near)
    parts = [h, s / s.norm()] if d is None else [d, h, s / s.norm()]
    weights = pool.shares[3 - len(parts) :].exp()
    q = sum(w / weights.sum() * part for w, part in zip(weights, parts, strict=True))
    return q / q.norm()


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("n", [1, 3, 9])
def test_the_query_is_that_of_the_formulas(described, n):
    pool, x = trained(short=4, attention_size=3, hidden_size=5), items(n)
    d = items(1, seed=9)[0] if described else None
    torch.testing.assert_close(pool.read_one(x, d).query[0], by_hand(pool, x, d))


@pytest.mark.parametrize("described", [True, False])
def test_the_untrained_pool_takes_plain_means(described):
    x, d = items(9), items(1, seed=9)[0] if described else None
    pool = HistoryPool.untrained(SIZE, PoolConfig(short=3))
    pooled = pool.read_one(x, d)
    torch.testing.assert_close(pooled.weights, torch.full((1, 9), 1 / 9))
    mean = F.normalize(x.mean(0), dim=0)
    torch.testing.assert_close(pooled.long[0], mean)
    short = F.normalize(x[(x @ (mean if d is None else d)).argsort(descending=True)[:3]].sum(0), dim=0)
    parts = START[1] * mean + START[2] * short + (0 if d is None else START[0] * d)
    torch.testing.assert_close(pooled.query[0], F.normalize(parts, dim=0))


def test_histories_of_a_batch_are_read_as_alone():
    pool, lengths = trained(short=3), (1, 5, 2)
    histories, d = [items(n, seed=n) for n in lengths], items(3, seed=8)
    described = torch.tensor([True, False, True])
    padded = torch.nn.utils.rnn.pad_sequence(histories, batch_first=True, padding_value=0.3)
    batch = pool.read(padded, torch.arange(5) < torch.tensor(lengths)[:, None], d, described)
    for at, one in enumerate(histories):
        alone = pool.read_one(one, d[at] if described[at] else None)
        torch.testing.assert_close(batch.query[at], alone.query[0])
        assert batch.weights[at, lengths[at] :].eq(0).all()


def test_an_untrained_pool_leaves_the_random_state_and_every_part_can_be_learnt():
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    HistoryPool.untrained(SIZE)
    assert torch.equal(torch.rand(4), wanted)
    pool = HistoryPool(SIZE, PoolConfig(short=3))
    goal = items(1, seed=5)[0]
    optimizer = torch.optim.SGD(pool.parameters(), lr=1.0)
    before = {name: value.clone() for name, value in pool.state_dict().items()}
    for _ in range(3):
        optimizer.zero_grad()
        (-(pool.read_one(items(9), items(1, seed=9)[0]).query[0] @ goal)).backward()
        optimizer.step()
    assert [name for name, value in pool.state_dict().items() if torch.equal(value, before[name])] == []


def test_the_gate_of_a_query_is_one_number_an_expert_and_experts_are_mixed_without_cross_terms():
    """RecLoRA's code mixes A and B apart; the mixture that is meant is the concatenation along the rank."""
    from loragen.adapters.adapter import Lora
    from loragen.adapters.combine import weighted_sum
    from loragen.conditions.index import Index
    from loragen.zoo.expert_index import neighbours_in

    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 2, 6, generator=rng), torch.randn(3, 5, 2, generator=rng)
    index = Index.build(["one", "two", "three"], items(3, seed=4))
    query = trained().read_one(items(6), None).query[0]
    gate = {one.id: one.weight for one in neighbours_in(index, query, 3, temperature=0.1)}
    g = torch.tensor([gate[name] for name in index.ids])
    assert float(g.sum()) == pytest.approx(1)
    experts = [Lora.from_factors({"s": a[k]}, {"s": b[k]}, base_model_name_or_path="m") for k in range(3)]
    mixed = weighted_sum(experts, g.tolist()).delta_weight("s")
    blocks = torch.cat([*b], 1) @ torch.diag(g.repeat_interleave(2)) @ torch.cat([*a])
    torch.testing.assert_close(mixed, blocks, atol=1e-4, rtol=1e-4)
    apart = torch.einsum("k,kor->or", g, b) @ torch.einsum("k,kri->ri", g, a)
    assert (apart - mixed).norm() > 0.05 * mixed.norm()


# --- histories ------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(order=st.permutations(range(len(TEXTS))), length=st.integers(1, len(TEXTS)), labelled=st.booleans())
def test_permuted_histories_are_read_alike_to_the_last_bit(encoder, order, length, labelled):
    labels = tuple(at % 3 for at in range(length)) if labelled else None
    plain = Examples(TEXTS[:length], labels=labels, label_names=WORDS[:3] if labelled else ())
    one, other = History.of(plain), History.of(plain.subset([at for at in order if at < length]))
    assert one == other
    pool = trained(16)
    first, second = (read_history(history, DESCRIPTION, encoder, pool) for history in (one, other))
    assert torch.equal(first.query, second.query)
    assert first.few == second.few


def test_an_item_is_its_text_or_the_direction_between_text_and_label(encoder):
    history = History.of(TOLD)
    texts, labels = (encoder.encode(part) for part in (history.texts, history.labels))
    assert torch.equal(item_vectors(History(history.texts), encoder), texts)
    torch.testing.assert_close(item_vectors(history, encoder), F.normalize((texts + labels) / 2, dim=1))


def test_pairs_follow_their_texts_and_repeated_texts_count_twice(encoder):
    history = History.of(Examples(("soup", "soup", "tea"), pairs=("cold", "cold", "warm")))
    assert history.texts == ("soup cold", "soup cold", "tea warm")
    long = HistoryPool.untrained(16).read_one(item_vectors(history, encoder), None).long[0]
    soup, tea = encoder.encode(["soup cold", "tea warm"])
    torch.testing.assert_close(long, F.normalize(2 * soup + tea, dim=0))


def test_a_base_is_given_the_nearest_texts_alone_each_once(encoder):
    history = History.of(Examples(TEXTS * 2))
    pool = HistoryPool.untrained(16, PoolConfig(short=3))
    few = read_history(history, DESCRIPTION, encoder, pool).few
    described, vectors = encoder.encode([DESCRIPTION])[0], encoder.encode(TEXTS)
    pooled = F.normalize(vectors.mean(0), dim=0)
    near = {TEXTS[at] for query in (described, pooled) for at in (vectors @ query).topk(1).indices.tolist()}
    assert near <= set(few.texts)
    assert len(few) == len(set(few.texts)) <= 6


def test_what_lies_in_an_encoders_cache_is_no_past_text(encoder, tmp_path):
    cached = TextEncoder.load(encoder.name, tmp_path / "cache")
    read_history(History.of(Examples(TEXTS)), "", cached, HistoryPool.untrained(16))
    assert not (tmp_path / "cache").exists()


def test_of_a_large_history_the_same_part_is_read_in_any_order():
    texts = tuple(f"text {number}" for number in range(MOST_TEXTS + 50))
    one, other = History.of(Examples(texts), "mine.txt"), History.of(Examples(texts[::-1]), "mine.txt")
    assert one == other
    assert len(one) == MOST_TEXTS
    assert set(one.texts) < set(texts)
    assert one.notes == (
        "Of the 5,050 texts of mine.txt, 5,000 are read, which are the most; which ones does not depend on their "
        "order.",
    )


def test_histories_come_from_lists_examples_and_files(tmp_path):
    (tmp_path / "mine.csv").write_text("text,label\nwarm soup,soup\ncold tea,tea\n")
    assert History.given(tmp_path / "mine.csv") == History(("cold tea", "warm soup"), ("tea", "soup"))
    (tmp_path / "mine.txt").write_text("warm soup\ncold tea\n")
    assert History.given(tmp_path / "mine.txt") == History.given(["warm soup", "cold tea"])
    with pytest.raises(TaskError, match=r"holds no text; at least one past text"):
        History.given([])
    with pytest.raises(TaskError, match=r"'warm soup'; give a list of them, or a Path"):
        History.given("warm soup")
    with pytest.raises(TaskError, match=r"shows nothing; leave it out"):
        History.given(["soup", " "])


# --- conditions -----------------------------------------------------------------------------------------------------


def test_the_query_stands_in_place_of_the_embedding(encoder):
    history, pool = History.of(Examples(TEXTS)), trained(16)
    conditioner = Conditioner(encoder, pool=pool)
    for description in (DESCRIPTION, ""):
        condition = conditioner.condition(Evidence(description, history=history))
        assert torch.equal(condition.embedding, read_history(history, description, encoder, pool).query)
        assert not torch.allclose(condition.embedding, encoder.encode([DESCRIPTION])[0], atol=1e-3)
    untrained = Conditioner(encoder).condition(Evidence("", history=history)).embedding
    torch.testing.assert_close(
        untrained @ HistoryPool.untrained(16).read_one(item_vectors(history, encoder), None).query[0], torch.tensor(1.0)
    )


def test_task_vectors_are_read_from_the_short_slice_and_from_the_tasks_own_examples(encoder, reading):
    history = History.of(TOLD)
    few = read_history(history, "", encoder, HistoryPool.untrained(16)).few
    conditioner = Conditioner(encoder, reading, ("description", "texts", "examples"))
    alone = conditioner.condition(Evidence("", history=history)).task_vectors
    wanted = Reader.load(reading).task_vectors("", examples=few)
    assert set(alone) == {"texts", "examples"} == set(wanted)
    assert all(torch.equal(alone[kind], wanted[kind]) for kind in wanted)
    own = Examples(("tea tea",), labels=(0,), label_names=("tea",))
    both = conditioner.condition(Evidence(DESCRIPTION, history=history, examples=own)).task_vectors
    few = read_history(history, DESCRIPTION, encoder, HistoryPool.untrained(16)).few
    of_all = Reader.load(reading).texts(Examples((*few.texts, *own.texts))).mean(0)
    torch.testing.assert_close(both["texts"], of_all, atol=1e-5, rtol=1e-5)
    assert torch.equal(both["description"], Reader.load(reading).descriptions([DESCRIPTION])[0])


@pytest.mark.parametrize(("kinds", "said"), [(("description",), "a history does not"), (("examples",), "no labels")])
def test_a_history_that_would_not_bear_on_the_adapter_is_refused(encoder, reading, kinds, said):
    with pytest.raises(GeneratorError, match=rf"{said}.* use sg, or a generator"):
        Conditioner(encoder, reading, kinds).condition(Evidence(DESCRIPTION, history=History.of(Examples(TEXTS))))


def test_an_empty_description_wants_a_history():
    with pytest.raises(TaskError, match="description is empty"):
        Evidence("")
    assert Evidence("", history=History(("soup",))).description == ""
