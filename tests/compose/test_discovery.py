"""Outcomes: the greedy search against all subsets, losses against the base's own, projections and boosting."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from compose_tools import random_lora

from loragen.compose.boosting import boosted
from loragen.compose.discovery import discover, measured, subset_weights
from loragen.compose.experts import Experts
from loragen.compose.mixed import mixed, union_labels, with_union_labels
from loragen.compose.null_space import kept_out, leading, protected_directions
from loragen.errors import AdapterError, TaskError
from loragen.tasks.examples import Examples


def table(texts, experts, seed):
    """Losses of each text under each subset."""
    rng = torch.Generator().manual_seed(seed)
    subsets = [some for size in range(experts + 1) for some in combinations(range(experts), size)]
    return {subset: torch.rand(texts, generator=rng) for subset in subsets}


def slow_greedy(losses, text, experts, least_gain, most):
    chosen, best = (), float(losses[()][text])
    while len(chosen) < most:
        options = [tuple(sorted((*chosen, e))) for e in range(experts) if e not in chosen]
        option = min(options, key=lambda some: float(losses[some][text]), default=None)
        if option is None or not best - float(losses[option][text]) > least_gain:
            break
        chosen, best = option, float(losses[option][text])
    return chosen, best


@pytest.mark.parametrize(("least_gain", "most"), [(0.0, 4), (0.1, 2), (0.3, 3)])
def test_the_search_is_greedy_for_each_text(least_gain, most):
    losses = table(30, 4, 0)
    found = discover(lambda subset, rows: losses[subset][list(rows)], 30, 4, least_gain=least_gain, most=most)
    for text in range(30):
        subset, best = slow_greedy(losses, text, 4, least_gain, most)
        assert found.subsets[text] == subset
        assert float(found.losses[text]) == pytest.approx(best)
    assert torch.equal(found.base_losses, losses[()])
    assert torch.equal(found.single_losses[:, 2], losses[(2,)])
    assert found.gain == pytest.approx(float((losses[()] - found.losses).mean()))
    assert found.targets(4).sum(1).tolist() == [len(subset) for subset in found.subsets]


def test_a_subset_is_measured_for_those_that_want_it_alone():
    losses, asked = table(10, 3, 1), []

    def measure(subset, rows):
        asked.append((subset, tuple(rows)))
        return losses[subset][list(rows)]

    discover(measure, 10, 3, least_gain=0.0, most=3)
    assert len(asked) == len(set(asked))
    assert sum(len(subset) == 1 for subset, _ in asked) == 3


@pytest.mark.parametrize("mean", [True, False])
def test_losses_are_those_of_the_base_under_the_sum_or_the_mean(base, experts, examples, mean):
    whole, _ = mixed(examples)
    data = base.prepare(whole.subset(range(12)), max_length=32)
    found = measured(base, experts, data, mean=mean)((0, 2), [3, 5])
    weights = subset_weights((0, 2), 3, mean=mean)
    from loragen.adapters.combine import weighted_sum

    with base.adapted(weighted_sum(experts.loras, weights.tolist())):
        read = base.read(data)
    wanted = F.cross_entropy(read.logits, read.targets, reduction="none")
    assert torch.allclose(found, wanted[[3, 5]], atol=1e-4)
    assert weights.sum() == (1 if mean else 2)


# --- null space ---


def test_what_is_kept_out_is_orthogonal_to_what_others_write(base, experts, ids):
    frozen, active = experts.loras[:2], random_lora(base, 9)
    directions = protected_directions(base, frozen, ids, 64)
    folded = kept_out(active, directions)
    for site, v in directions.items():
        assert torch.allclose(v.T @ v, torch.eye(v.shape[1], dtype=v.dtype), atol=1e-8)
        assert v.shape[1] <= min(5, len(ids))
        assert float((v.T @ folded.lora_B[site].double()).abs().max()) < 1e-5
        assert float((v.T @ active.lora_B[site].double()).abs().max()) > 0.1
    with torch.no_grad(), base.adapted(folded):
        assert base.states(ids).isfinite().all()


def test_directions_are_the_singular_vectors_of_the_mean_additions(base, experts, ids):
    frozen = experts.loras[:1]
    site = frozen[0].sites[0]
    (v,) = (protected_directions(base, frozen, ids, 2)[site],)
    a, b = frozen[0].scaled_factors(site)
    rows = []
    for row in ids:
        kept = []
        handle = base.model.get_submodule(site).register_forward_hook(
            lambda _m, inputs, _o, kept=kept: kept.append(inputs[0])
        )
        with torch.no_grad(), base.adapted(frozen[0]):
            base.states([row])
        handle.remove()
        rows.append((kept[0][0] @ a.T @ b.T).mean(0))
    _, _, right = torch.linalg.svd(torch.stack(rows))
    assert torch.allclose((right[:2].double() @ v).abs(), torch.eye(2, dtype=torch.float64), atol=1e-3)


def test_rounding_errors_are_no_directions():
    assert leading(torch.zeros(3, 4), 2).shape == (4, 0)
    assert leading(torch.ones(3, 4), 2).shape == (4, 1)


def test_directions_of_nothing_are_refused(base, experts, ids):
    with pytest.raises(AdapterError, match="0 directions of 1 frozen"):
        protected_directions(base, experts.loras[:1], ids, 0)


# --- boosting ---


def test_a_round_is_kept_if_it_helps_and_adds_ranks(base, examples):
    data = base.prepare(examples[0], max_length=32)
    options = {"r": 2, "steps": 20, "batch_size": 8, "learning_rate": 5e-2, "rng": torch.Generator().manual_seed(0)}
    lora = random_lora(base, 0, size=0.0)
    found = boosted(lora, base, data, rounds=2, least_gain=1e-3, rank=None, **options)
    assert len(found.losses) > 1
    assert found.losses[-1] < found.losses[0] - 1e-3
    assert {site.r for site in found.adapter.spec.sites} == {3 + 2 * (len(found.losses) - 1)}
    none = boosted(lora, base, data, rounds=2, least_gain=100.0, rank=None, **options)
    assert len(none.losses) == 1
    assert {site.r for site in none.adapter.spec.sites} == {3}
    squeezed = boosted(lora, base, data, rounds=1, least_gain=1e-3, rank=2, **options)
    assert {site.r for site in squeezed.adapter.spec.sites} == {2}


# --- mixed tasks ---


def test_labels_of_one_name_are_one_label():
    tasks = (
        Examples(("a", "b"), labels=(0, 1), label_names=("x", "y")),
        Examples(("c",), labels=(1,), label_names=("z", "y")),
    )
    whole, owners = mixed(tasks)
    assert whole.label_names == ("x", "y", "z")
    assert whole.outputs == ("x", "y", "y")
    assert owners == (0, 0, 1)


def test_texts_without_labels_are_refused():
    with pytest.raises(TaskError, match="task 1 have no labels"):
        with_union_labels([Examples(("a",))], union_labels([Examples(("a",))]))


def test_experts_are_checked_before_anything(base):
    assert len(Experts.of([random_lora(base, 0)], ["a"])) == 1
