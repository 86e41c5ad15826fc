"""What lies below the first layer that an adapter touches is computed once: the same losses, the same gradients."""

import pytest
import torch
from families import FAMILIES, write_base

from loragen.bases import lower_layers
from loragen.bases.open import open_base
from loragen.recipes.expert import Start
from loragen.tasks.examples import Examples

DECODERS = [name for name, family in FAMILIES.items() if family.objective == "causal_lm"]
LAYERS = {"gpt2": {"n_layer": 4}}
OPEN = Examples(
    ("a soup b", "bread and a rather long tea", "cold", "a soup b"), completions=("tea", "b", "a b", "soup")
)
BEGINNING = "Say what is meant by this message: {text}\nLabel:"


def deep(folder, family: str, prompt: str = "{text}\nLabel:"):
    write_base(folder, family, **LAYERS.get(family, {"num_hidden_layers": 4}))
    return open_base(str(folder), objective="causal_lm", prompt=prompt)


def upper_sites(base, family: str, *, lowest: int):
    sites = base.sites(FAMILIES[family].target_modules)
    return {site: size for i, (site, size) in enumerate(sites.items()) if i >= lowest * len(sites) // 4}


def losses_and_gradients(base, examples: Examples, start: Start, *, told: str | None = None):
    data = base.prepare(examples, max_length=60, instruction=told)
    factors = {site: (a, start.lora_B[site].clone().requires_grad_()) for site, a in start.lora_A.items()}
    with base.using(factors):
        loss = base.losses(data, contrast_weight=0)["loss"]
        held_out = base.held_out_loss(data, contrast_weight=0)
    return [loss.detach(), torch.tensor(held_out), *torch.autograd.grad(loss, [b for _, b in factors.values()])]


@pytest.mark.parametrize("told", [None, "Say what somebody who writes this would like to have now."])
@pytest.mark.parametrize("family", DECODERS)
def test_losses_and_gradients_are_those_of_full_passes(family, told, tmp_path) -> None:
    base = deep(tmp_path, family)
    rng = torch.Generator().manual_seed(0)
    start = Start.random(upper_sites(base, family, lowest=2), 2, rng=rng)
    start = Start(start.lora_A, {site: torch.randn(b.shape, generator=rng) / 4 for site, b in start.lora_B.items()})
    keeping = base.keeping_below(start.lora_B)
    assert keeping.lower is not None
    assert keeping.lower.number == 2
    wanted = losses_and_gradients(base, OPEN, start, told=told)
    for _ in range(2):  # computed, and then kept
        found = losses_and_gradients(keeping, OPEN, start, told=told)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(losses_and_gradients(base, OPEN, start, told=told), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_text_goes_through_the_lower_layers_once(tmp_path) -> None:
    base = deep(tmp_path, "llama")
    keeping = base.keeping_below(upper_sites(base, "llama", lowest=3))
    passes = []
    base.model.model.layers[0].register_forward_hook(lambda *_: passes.append(1))
    data = keeping.prepare(OPEN, max_length=60)
    for _ in range(3):
        keeping.losses(data, contrast_weight=0)
    assert len(passes) == 1


def test_without_room_states_are_computed_each_time(tmp_path, monkeypatch) -> None:
    base = deep(tmp_path, "llama", BEGINNING)
    keeping = base.keeping_below(upper_sites(base, "llama", lowest=2))
    monkeypatch.setattr(lower_layers, "MOST_BYTES", keeping.lower.bytes_kept)
    data = keeping.prepare(OPEN, max_length=60)
    kept = len(keeping.lower.kept)
    wanted = base.losses(data, contrast_weight=0)["loss"]
    for _ in range(2):
        torch.testing.assert_close(keeping.losses(data, contrast_weight=0)["loss"], wanted)
    assert len(keeping.lower.kept) == kept


def test_labels_are_read_through_all_layers(tmp_path) -> None:
    base = deep(tmp_path, "llama", BEGINNING)
    keeping = base.keeping_below(upper_sites(base, "llama", lowest=2))
    labelled = Examples(OPEN.texts, labels=(0, 1, 0, 1), label_names=("soup", "tea"))
    data = base.prepare(labelled, max_length=60)
    torch.testing.assert_close(keeping.read(data).logits, base.read(data).logits)


@pytest.mark.parametrize("lowest", [0, 1])
def test_where_next_to_nothing_lies_below_nothing_is_kept(lowest, tmp_path) -> None:
    base = deep(tmp_path, "llama")
    assert base.keeping_below(upper_sites(base, "llama", lowest=lowest)) is base


def test_a_model_that_does_more_between_its_layers_stays_as_it_is(tmp_path) -> None:
    base = deep(tmp_path, "llama")
    base.model.model.layers[3].register_forward_pre_hook(
        lambda module, args: (args[0] + base.model.model.layers[1].self_attn.seen,)
    )
    first = base.model.model.layers[1].self_attn
    first.seen = 0.0
    first.register_forward_hook(lambda module, _i, out: setattr(module, "seen", out[0].mean()))
    kept_apart = base.keeping_below(upper_sites(base, "llama", lowest=2))
    assert kept_apart is base


def test_what_was_kept_while_scoring_can_be_trained_on(tmp_path) -> None:
    base = deep(tmp_path, "llama", BEGINNING)
    rng = torch.Generator().manual_seed(0)
    start = Start.random(upper_sites(base, "llama", lowest=2), 2, rng=rng)
    wanted = losses_and_gradients(base, OPEN, start)
    keeping = base.keeping_below(start.lora_B)
    keeping.held_out_loss(keeping.prepare(OPEN, max_length=60), contrast_weight=0)
    assert keeping.lower.kept
    for one, other in zip(losses_and_gradients(keeping, OPEN, start), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
