"""Gates by the text: which tokens are whose, and routers against reading one text at a time."""

import pytest
import torch
from compose_tools import TEXTS, states_under
from families import write_base

from loragen.bases.causal_lm import CausalLM
from loragen.compose.methods.brainstacks import Brainstacks, brainstacks_gates, router_of
from loragen.compose.methods.sema_router import SemaRouter, sema_gates
from loragen.compose.prompt_network import expert_logits, margin_loss, network_start
from loragen.compose.text_rows import CurrentRows, TextRows, following
from loragen.errors import AdapterError


def sema_tensors(experts):
    rng = torch.Generator().manual_seed(0)
    routers = {f"router.{s}": torch.randn(3, at.lora_A.shape[1], generator=rng) for s, at in experts.sites.items()}
    return routers | {f"bias.{site}": torch.randn(3, generator=rng) for site in experts.sites}


def test_the_mean_of_a_text_leaves_out_padding():
    padded, mask = torch.randn(3, 4, 5), torch.arange(4) < torch.tensor([3, 1, 4])[:, None]
    found = TextRows.of({"input_ids": torch.zeros(3, 4), "attention_mask": mask.long()}).mean(padded)
    wanted = torch.stack([row[own].mean(0) for row, own in zip(padded, mask, strict=True)])
    torch.testing.assert_close(found, wanted)


def test_without_a_mask_all_tokens_count():
    assert TextRows.of({"input_ids": torch.zeros(2, 3)}).mask.all()


def test_a_text_is_weighed_by_itself_whatever_stands_beside_it(base, experts, ids):
    current = CurrentRows()
    gates = sema_gates(experts, SemaRouter(), sema_tensors(experts), current)
    together = states_under(base, experts, gates, ids, current)
    alone = torch.cat([states_under(base, experts, gates, [row], current) for row in ids])
    assert torch.allclose(together, alone, atol=1e-5)


def test_semas_gate_is_its_formula(base, experts, ids):
    current, tensors = CurrentRows(), sema_tensors(experts)
    site, at = next(iter(experts.sites.items()))
    gate = sema_gates(experts, SemaRouter(), tensors, current)[site]
    current.set(TextRows(torch.ones(1, 4, dtype=torch.bool)))
    x = torch.randn(1, 4, 16)
    scores = tensors[f"router.{site}"] @ x[0].mean(0) + tensors[f"bias.{site}"]
    shares = scores[:2].exp() / scores[:2].exp().sum()  # the third expert does not update this site
    wanted = torch.cat([shares[:1].expand(3), shares[1:].expand(2)])
    assert torch.allclose(gate(x, x)[0, 0], wanted, atol=1e-6)
    assert gate(x, x).shape == (1, 1, len(at.lora_A))


@pytest.mark.parametrize("normalise", [True, False])
def test_brainstacks_weighs_a_text_by_the_bare_bases_states(base, experts, ids, normalise):
    settings = Brainstacks(width=8, threshold=0.3, normalise=normalise)
    parts = network_start(16, 3, 8, rng=torch.Generator().manual_seed(3))
    current = CurrentRows()
    gates = brainstacks_gates(experts, settings, parts, current)
    together = states_under(base, experts, gates, ids, current, router_of(settings, parts))
    for row, found in zip(ids, together, strict=True):
        with torch.no_grad():
            hidden = base.model(input_ids=torch.tensor([row])).last_hidden_state
            p = expert_logits(parts, hidden, torch.ones(1, len(row), dtype=torch.bool)).sigmoid()[0]
        p = p * (p >= 0.3)
        weights = p / p.sum() if normalise else p
        constant = {site: at.spread(weights) for site, at in experts.sites.items()}
        assert torch.allclose(found, states_under(base, experts, constant, [row])[0], atol=1e-5)


def test_attention_of_the_network_ignores_padding():
    parts = network_start(16, 2, 8, rng=torch.Generator().manual_seed(0))
    states = torch.randn(1, 5, 16)
    mask = torch.tensor([[True, True, True, False, False]])
    other = states.clone()
    other[:, 3:] = 9.0
    assert torch.allclose(expert_logits(parts, states, mask), expert_logits(parts, other, mask))


def test_the_margin_counts_texts_with_experts_of_both_kinds():
    p = torch.tensor([[0.9, 0.1, 0.3], [0.5, 0.5, 0.5]])
    helps = torch.tensor([[True, False, False], [True, True, True]])
    assert float(margin_loss(p, helps, 0.8)) == pytest.approx(0.8 - (0.9 - 0.2))
    assert float(margin_loss(p, helps, 0.5)) == 0


def test_whole_texts_want_a_text_encoder(tmp_path):
    language = CausalLM.load(str(write_base(tmp_path / "llama", "llama")))
    with pytest.raises(AdapterError, match=r"wants a text encoder.*mora or arrow"), following(language, CurrentRows()):
        pass


def test_a_router_for_another_hidden_size_is_refused(base, experts, ids):
    settings, parts = Brainstacks(width=8), network_start(12, 3, 8, rng=torch.Generator())
    current = CurrentRows()
    gates = brainstacks_gates(experts, settings, parts, current)
    with pytest.raises(AdapterError, match="reads 12 features of a token, and the base gives 16"):
        states_under(base, experts, gates, ids, current, router_of(settings, parts))


def test_the_bare_base_is_read_without_the_experts(base, experts):
    """The router must not see what it decides on: its states are the same under any experts."""
    seen = []

    def router(states, mask):
        seen.append(states)
        return torch.ones(len(states), 3)

    current = CurrentRows()
    gates = brainstacks_gates(experts, Brainstacks(), {}, current)
    states_under(base, experts, gates, base.tokenize(TEXTS[:1], max_length=32), current, router)
    with torch.no_grad():
        bare = base.model(input_ids=torch.tensor(base.tokenize(TEXTS[:1], max_length=32))).last_hidden_state
    assert len(seen) == 1
    assert torch.allclose(seen[0], bare, atol=1e-6)
    assert not base.body._forward_pre_hooks
