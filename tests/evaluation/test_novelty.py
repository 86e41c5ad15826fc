import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.adapters.frame import Frame
from loragen.errors import AdapterError
from loragen.evaluation.novelty import Reference, mixture_weights


@pytest.fixture(scope="module")
def zoo(tiny_zoo):
    return tiny_zoo.select(splits={"experts"})


@pytest.fixture(scope="module")
def reference(zoo):
    return Reference.of(zoo)


@pytest.fixture(scope="module")
def experts(zoo):
    return {expert: zoo.adapter(expert) for expert in zoo.ids}


def mixed(experts, **weights):
    return weighted_sum([experts[expert] for expert in weights], list(weights.values()))


def mean_of(experts):
    return mixed(experts, **dict.fromkeys(experts, 1 / len(experts)))


def stranger(like, seed=100, own_A=False):
    """A random adapter for the sites of another, over its A or over A of its own."""
    rng = torch.Generator().manual_seed(seed)
    lora_a = {s: torch.randn(a.shape, generator=rng) if own_A else a for s, a in like.lora_A.items()}
    lora_b = {site: torch.randn(b.shape, generator=rng) for site, b in like.lora_B.items()}
    return Lora.from_factors(lora_a, lora_b, base_model_name_or_path="tiny-base")


def dense(adapter):
    return torch.cat([adapter.delta_weight(site).flatten() for site in adapter.sites]).double()


def dense_distance(one, other):
    return float((dense(one) - dense(other)).norm())


# --- distances are of delta weights ---


def test_distances_between_points_are_those_of_dense_delta_weights(reference, experts):
    for (i, one), (j, other) in product(enumerate(experts.values()), repeat=2):
        met = float((reference.points[i] - reference.points[j]).norm())
        assert met == pytest.approx(dense_distance(one, other), rel=1e-5)


@pytest.mark.parametrize("skewed", [False, True], ids=["bfloat16 A", "skewed A"])
@pytest.mark.parametrize("own_A", [False, True])
def test_novelty_is_measured_on_dense_delta_weights(zoo, experts, skewed, own_A, monkeypatch):
    if skewed:  # a shared A whose rows are far from orthonormal
        skew = torch.tensor([[2.0, 0.0], [3.0, 0.5]])
        factors = {s: skew @ a.float() for s, a in next(iter(experts.values())).lora_A.items()}
        experts = {
            e: Lora.from_factors(factors, dict(a.lora_B), base_model_name_or_path=None) for e, a in experts.items()
        }
        monkeypatch.setattr(type(zoo), "adapter", lambda _zoo, expert: experts[expert])
    reference = Reference.of(zoo)
    adapter = stranger(next(iter(experts.values())), own_A=own_A)
    novelty = reference.novelty(adapter, top=7)
    mean = mean_of(experts)
    to_mean = dense_distance(adapter, mean)
    spread = math.sqrt(sum(dense_distance(e, mean) ** 2 for e in experts.values()) / len(experts))
    gaps = {expert: dense_distance(adapter, other) for expert, other in experts.items()}
    assert novelty.to_mean == pytest.approx(to_mean / spread, rel=1e-5)
    assert novelty.nearest == min(gaps, key=gaps.__getitem__)
    assert novelty.to_nearest == pytest.approx(min(gaps.values()) / spread, rel=1e-5)
    best = dense_distance(adapter, mixed(experts, **dict(novelty.mixture)))
    assert novelty.to_mixture == pytest.approx(best / spread, rel=1e-5)
    assert_nearest_mixture(torch.stack([dense(e) for e in experts.values()]), dense(adapter), novelty, experts)


def assert_nearest_mixture(vertices, target, novelty, experts):
    """No step from the mixture towards any expert comes nearer: what a projection on a convex set is known by."""
    weights = torch.tensor([dict(novelty.mixture).get(expert, 0.0) for expert in experts]).double()
    found = weights @ vertices
    steps = (vertices - found) @ (target - found)
    assert float(steps.max()) < 1e-4 * float(vertices.square().sum(1).max())


def test_inputs_that_no_expert_reads_add_to_every_distance(reference, experts):
    """The same B over rows of A orthogonal to the experts': all its delta weights lie outside."""
    expert = experts["rain"]
    lora_a = {site: torch.linalg.svd(a.float())[2][-2:] for site, a in expert.lora_A.items()}
    outside = Lora.from_factors(lora_a, dict(expert.lora_B), base_model_name_or_path="tiny-base")
    zero = mixed(experts, rain=0.0)
    novelty, at_zero = reference.novelty(outside), reference.novelty(zero)
    spread = float((reference.points - reference.points.mean(0)).square().sum(1).mean().sqrt())
    assert novelty.to_mean == pytest.approx(math.hypot(at_zero.to_mean, outside.norm() / spread), rel=1e-3)
    assert novelty.mixture[0][0] == at_zero.mixture[0][0]


def test_the_gauge_of_the_factors_changes_nothing(reference, experts):
    adapter = stranger(experts["rain"])
    turn = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    turned = Lora.from_factors(
        {site: turn @ a.float() for site, a in adapter.lora_A.items()},
        {site: b @ torch.linalg.inv(turn) for site, b in adapter.lora_B.items()},
        base_model_name_or_path="tiny-base",
    )
    met, wanted = reference.novelty(turned), reference.novelty(adapter)
    assert met.to_mean == pytest.approx(wanted.to_mean, rel=1e-5)
    assert met.to_mixture == pytest.approx(wanted.to_mixture, rel=1e-5)


# --- what stands at the ends ---


def test_an_expert_is_a_replay_of_itself(reference, experts):
    for expert, adapter in experts.items():
        novelty = reference.novelty(adapter)
        assert (novelty.nearest, novelty.to_nearest, novelty.to_mixture) == (expert, 0, 0)
        assert novelty.is_replay
        assert novelty.mixture == ((expert, pytest.approx(1)),)


def test_a_replay_ends_at_two_percent_of_the_experts_own_way_to_the_mean(reference, experts):
    mean = mean_of(experts)
    for adapter in experts.values():  # which lie at different distances from the mean
        assert reference.novelty(weighted_sum([adapter, mean], [0.9805, 0.0195])).is_replay
        assert not reference.novelty(weighted_sum([adapter, mean], [0.9795, 0.0205])).is_replay


def test_the_mean_is_no_news_and_a_replay_of_no_one(reference, experts):
    novelty = reference.novelty(mean_of(experts))
    assert (novelty.to_mean, novelty.to_mixture) == (0, 0)
    assert 0.1 < novelty.to_nearest < 2
    assert not novelty.is_replay


def test_a_mixture_is_found_with_its_weights(reference, experts):
    novelty = reference.novelty(mixed(experts, rain=0.5, bank=0.3, mood=0.2), top=2)
    assert novelty.to_mixture == 0
    assert novelty.to_nearest > 0.1
    assert novelty.mixture == (("rain", pytest.approx(0.5, abs=1e-5)), ("bank", pytest.approx(0.3, abs=1e-5)))
    assert len(reference.novelty(mixed(experts, rain=0.5, bank=0.3, mood=0.2)).mixture) == 3


def test_twice_an_expert_is_beyond_all_mixtures(reference, experts):
    mean = mean_of(experts)
    beyond = weighted_sum([experts["rain"], mean], [4.0, -3.0])
    novelty = reference.novelty(beyond)
    assert novelty.to_mean == pytest.approx(4 * reference.novelty(experts["rain"]).to_mean, rel=1e-5)
    assert novelty.to_nearest == pytest.approx(3 / 4 * novelty.to_mean, rel=1e-5)
    assert 0.5 * novelty.to_mean < novelty.to_mixture <= novelty.to_nearest
    assert not novelty.is_replay


def test_of_one_expert_mean_nearest_and_mixture_are_one(zoo, experts):
    alone = Reference.of(zoo.select(without=set(zoo.ids) - {"rain"}))
    assert alone.novelty(experts["rain"]).is_replay
    novelty = alone.novelty(experts["bank"])
    assert novelty.to_mean == novelty.to_nearest == novelty.to_mixture > 0


def test_a_site_that_no_expert_has_is_refused(reference):
    foreign = Lora.from_factors({"other": torch.ones(1, 3)}, {"other": torch.ones(2, 1)}, base_model_name_or_path=None)
    with pytest.raises(AdapterError, match="'other', which is not among the frame's 3 sites"):
        reference.novelty(foreign)


# --- the best mixture ---


def distance_to(vertices, weights, target):
    return (weights @ vertices - target).norm(dim=-1)


@pytest.mark.parametrize("seed", range(8))
def test_no_mixture_on_a_fine_grid_is_nearer(seed):
    rng = torch.Generator().manual_seed(seed)
    vertices, target = torch.randn(3, 2, generator=rng).double(), torch.randn(2, generator=rng).double()
    steps = torch.linspace(0, 1, 201).double()
    first, second = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    grid = torch.stack([first, second, 1 - first - second], dim=1)
    brute = distance_to(vertices, grid[grid[:, 2] > -1e-9], target).min()
    found = distance_to(vertices, mixture_weights(vertices, target), target)
    assert brute - 0.02 <= float(found) <= brute + 1e-9


@given(
    n=st.integers(1, 12),
    k=st.integers(1, 8),
    seed=st.integers(0, 10**6),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
    repeats=st.booleans(),
)
def test_weights_are_a_mixture_that_no_step_improves(n, k, seed, offset, repeats):
    rng = torch.Generator().manual_seed(seed)
    vertices, target = torch.randn(n, k, generator=rng).double(), torch.randn(k, generator=rng).double() + offset
    if repeats:
        vertices = torch.cat([vertices, vertices])
    weights = mixture_weights(vertices, target)
    assert float(weights.min()) >= 0
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    found = weights @ vertices
    assert float(((vertices - found) @ (target - found)).max()) < 1e-8 * (1 + offset) ** 2


def test_a_target_among_equal_vertices_is_met():
    weights = mixture_weights(torch.ones(3, 2), torch.ones(2))
    assert float(weights.sum()) == pytest.approx(1)


def test_experts_in_frames_of_their_own_are_placed_in_a_common_one(zoo, experts, monkeypatch):
    """Without a shared A the frame of the largest rank holds a part, and the distances are of that part."""
    adapters = {e: stranger(a, seed, own_A=True) for seed, (e, a) in enumerate(experts.items())}
    monkeypatch.setattr(type(zoo), "adapter", lambda _zoo, expert: adapters[expert])
    reference = Reference.of(zoo)
    frame = Frame.fit(list(adapters.values()))
    held = [frame.adapter(frame.coordinates(adapter), base=None) for adapter in adapters.values()]
    for i, j in product(range(len(held)), repeat=2):
        met = float((reference.points[i] - reference.points[j]).norm())
        assert met == pytest.approx(dense_distance(held[i], held[j]), rel=1e-4, abs=1e-4)
