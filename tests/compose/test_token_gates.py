"""Gates by the token: arrow, mora and smora against their formulas, a token at a time, and in their limits."""

import math

import pytest
import torch
from compose_tools import SITES, random_lora, slow_states, states_under

from loragen.adapters.combine import weighted_sum
from loragen.compose.experts import Experts
from loragen.compose.methods.arrow import Arrow, arrow_gates, prototypes
from loragen.compose.methods.mora import MoRA, mora_gates, self_activation
from loragen.compose.methods.smora import SMoRA, routed, smora_gates


def uniform_states(base, experts, ids):
    with base.adapted(weighted_sum(experts.loras, [1 / len(experts)] * len(experts))), torch.no_grad():
        return base.states(ids)


# --- arrow ---


def test_prototypes_are_what_updates_answer_to_the_most(experts):
    for site in experts.sites:
        rows = prototypes(experts)[f"prototypes.{site}"]
        for number, lora in enumerate(experts.loras):
            if site not in lora.lora_A:
                assert not rows[number].any()
                continue
            right = torch.linalg.svd(lora.delta_weight(site)).Vh[0]
            assert abs(float(right @ rows[number])) == pytest.approx(1, abs=1e-5)


def test_arrow_is_its_formula(base, experts, ids):
    settings, tensors = Arrow(top_k=2, temperature=0.7), prototypes(experts)

    def weight(site, x, _z):
        at = experts.sites[site]
        scores = {e: abs(float(tensors[f"prototypes.{site}"][e] @ x)) for e in range(3) if at.ranks[e]}
        best = sorted(scores, key=scores.__getitem__)[-2:]
        total = sum(math.exp(scores[e] / 0.7) for e in best)
        shares = [math.exp(scores[e] / 0.7) / total if e in best else 0.0 for e in range(3)]
        return at.spread(torch.tensor(shares))

    fast = states_under(base, experts, arrow_gates(experts, settings, tensors), ids)
    assert torch.allclose(fast, slow_states(base, experts, weight, ids), atol=1e-5)


def test_arrow_at_an_infinite_temperature_is_the_mean(base, ids):
    some = Experts.of([random_lora(base, seed) for seed in range(3)], "abc")
    gates = arrow_gates(some, Arrow(top_k=3, temperature=1000.0), prototypes(some))
    assert torch.allclose(states_under(base, some, gates, ids), uniform_states(base, some, ids), atol=2e-3)


# --- mora ---


@pytest.mark.parametrize("signed", [True, False])
def test_mora_is_its_formula(base, experts, ids, signed):
    settings = MoRA(k=4, temperature=0.2, threshold=0.3, scale=1.5, signed=signed)

    def weight(_site, _x, z):
        n = z / math.sqrt(sum(float(one) ** 2 for one in z))
        key = n if signed else n.abs()
        kept = sorted(range(len(z)), key=lambda at: float(key[at]))[-4:]
        total = sum(math.exp(float(key[at]) / 0.2) for at in kept)
        shares = [
            1.5 * math.exp(float(key[at]) / 0.2) / total if at in kept and key[at] >= 0.3 else 0.0
            for at in range(len(z))
        ]
        return torch.tensor(shares)

    fast = states_under(base, experts, mora_gates(experts, settings, {}), ids)
    assert torch.allclose(fast, slow_states(base, experts, weight, ids), atol=1e-5)


@pytest.mark.parametrize("norm", ["joint", "block"])
def test_mora_of_all_atoms_at_an_infinite_temperature_is_the_mean(base, experts, ids, norm):
    gates = mora_gates(experts, MoRA(k=64, temperature=None, norm=norm), {})
    alike = Experts.of([random_lora(base, 0), random_lora(base, 1), random_lora(base, 2)], "abc")
    assert torch.allclose(
        states_under(base, alike, mora_gates(alike, MoRA(k=64, temperature=None, norm=norm), {}), ids),
        uniform_states(base, alike, ids),
        atol=1e-5,
    )
    one = {site: gate(torch.zeros(16), torch.ones(len(experts.sites[site].lora_A))) for site, gate in gates.items()}
    for site, weights in one.items():  # as published, with a scale of 1, it is the sum over R atoms
        assert float(weights.sum()) == pytest.approx(len(experts.sites[site].lora_A) / 3)
    published = mora_gates(experts, MoRA(k=64, temperature=None, scale=1.0), {})
    for site, gate in published.items():
        r = len(experts.sites[site].lora_A)
        assert torch.allclose(gate(torch.zeros(16), torch.randn(r)), torch.full((r,), 1 / r))


def test_appended_atoms_shift_old_outputs_but_for_a_norm_of_each_expert(base, ids):
    """The published norm and softmax are joint: even atoms whose values are zero change what the old ones give."""
    old = Experts.of([random_lora(base, 0)], "a")
    silent = random_lora(base, 1, size=0.0)
    more = Experts.of([old.loras[0], silent], "ab")

    def shift(norm):
        settings = MoRA(k=2, temperature=0.1, norm=norm, scale=1.0)
        before, after = (states_under(base, some, mora_gates(some, settings, {}), ids) for some in (old, more))
        return float((before - after).abs().max())

    assert shift("block") < 2e-6  # the sums of a wider matrix are rounded otherwise; the gates are the same
    assert shift("joint") > 1e-3
    z = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    settings = MoRA(k=2, temperature=0.1, norm="block", scale=1.0)
    before, after = (mora_gates(some, settings, {})[SITES[0]] for some in (old, more))
    assert torch.equal(before(z, z[:, :3]), after(z, z)[:, :3])


def test_self_activation_of_nothing_is_finite():
    assert self_activation(torch.zeros(2, 5), MoRA(k=3), in_use=True).isfinite().all()


# --- smora ---


def test_smora_of_all_ranks_and_equal_sigmoids_is_plain_lora(base, ids):
    one = Experts.of([random_lora(base, 0, r=4)], "a")
    tensors = {}
    for site in SITES:
        tensors |= {f"router.{site}": torch.zeros(4, 16), f"bias.{site}": torch.zeros(4)}
    gates = smora_gates(one, SMoRA(k=4), tensors)
    with base.adapted(one.loras[0]), torch.no_grad():
        wanted = base.states(ids)
    assert torch.allclose(states_under(base, one, gates, ids), wanted, atol=1e-5)


def test_smora_of_all_ranks_of_several_is_the_mean(base, experts, ids):
    alike = Experts.of([random_lora(base, seed) for seed in range(3)], "abc")
    tensors = {}
    for site in SITES:
        tensors |= {f"router.{site}": torch.zeros(9, 16), f"bias.{site}": torch.zeros(9)}
    gates = smora_gates(alike, SMoRA(k=9), tensors)
    assert torch.allclose(states_under(base, alike, gates, ids), uniform_states(base, alike, ids), atol=1e-5)


@pytest.mark.parametrize("biased", [True, False])
def test_smora_is_its_formula(base, experts, ids, biased):
    rng = torch.Generator().manual_seed(0)
    settings = SMoRA(k=4, partition=2, biased_weights=biased, scale=1.0)
    tensors = {}
    for site, at in experts.sites.items():
        n = -(-len(at.lora_A) // 2)
        tensors |= {f"router.{site}": torch.randn(n, 16, generator=rng)}
        tensors |= {f"bias.{site}": 0.1 * torch.rand(n, generator=rng)}

    def weight(site, x, z):
        p = [1 / (1 + math.exp(-float(row @ x))) for row in tensors[f"router.{site}"]]
        q = [one + float(b) for one, b in zip(p, tensors[f"bias.{site}"], strict=True)]
        kept = sorted(range(len(q)), key=q.__getitem__)[-2:]
        mixed = q if biased else p
        total = sum(mixed[at] for at in kept)
        return torch.tensor([2 * mixed[at // 2] / total if at // 2 in kept else 0.0 for at in range(len(z))])

    fast = states_under(base, experts, smora_gates(experts, settings, tensors), ids)
    assert torch.allclose(fast, slow_states(base, experts, weight, ids), atol=1e-5)


def test_the_bias_evens_the_use_of_ranks_out():
    rng = torch.Generator().manual_seed(0)
    p = torch.sigmoid(torch.randn(200, 8, generator=rng) + torch.linspace(-2, 2, 8))

    def spread(balance):
        bias = torch.zeros(8)
        for _ in range(300):
            use = routed(p, bias, 2, biased_weights=True)[1].float().sum(0)
            bias = bias + balance * (use.mean() - use).sign()
        return float(use.max() / use.mean())

    assert spread(0.0) > 2.5
    assert spread(0.01) < 1.5
