"""Labels are read after a prompt that was read once: the same as each label after a prompt of its own."""

import pytest
import torch
from families import FAMILIES, write_base

from loragen.adapters.adapter import Lora
from loragen.bases.decoder_steps import can_go_on, common_beginning
from loragen.bases.open import open_base
from loragen.bases.tokenised import TaskData
from loragen.recipes.expert import Start
from loragen.tasks.examples import Examples

TEXTS = ("a soup b", "bread and a rather long tea in a cup", "cold", "warm warm warm soup", "tea")
NAMES = ("soup", "tea", "bread with soup", "a cold tea", "b")
LABELLED = Examples(TEXTS, labels=(0, 1, 2, 3, 4), label_names=NAMES)
LANGUAGE = [name for name, family in FAMILIES.items() if family.objective in ("causal_lm", "seq2seq")]
BEGINNING = "Say what is meant by this message: {text}\nLabel:"


def likelihoods(base, data: TaskData) -> torch.Tensor:
    """Log-likelihood of each label after each prompt, a full pass of one row at a time by transformers' own loss."""
    found = torch.zeros(len(data), len(data.label_ids))
    for i, prompt in enumerate(data.ids):
        for j, label in enumerate(data.label_ids):
            if base.objective == "seq2seq":
                inputs, labels = list(prompt), list(label)
            else:
                inputs, labels = [*prompt, *label], [-100] * len(prompt) + list(label)
            with torch.inference_mode():
                loss = base.model(input_ids=torch.tensor([inputs]), labels=torch.tensor([labels])).loss
            found[i, j] = -float(loss) * len(label)
    return found


def some_adapter(base, targets) -> Lora:
    rng = torch.Generator().manual_seed(0)
    start = Start.random(base.sites(targets), 2, rng=rng)
    lora_b = {site: torch.randn(b.shape, generator=rng) / 4 for site, b in start.lora_B.items()}
    return Lora.from_factors(start.lora_A, lora_b, base_model_name_or_path=base.name, task_type=base.task_type)


@pytest.mark.parametrize("prompt", ["{text}\nLabel:", BEGINNING], ids=["short", "common beginning"])
@pytest.mark.parametrize("family", LANGUAGE)
def test_likelihoods_are_those_of_full_passes(family, prompt, tmp_path) -> None:
    base = open_base(str(write_base(tmp_path / family, family)), objective=FAMILIES[family].objective, prompt=prompt)
    assert base.goes_on
    data = base.prepare(LABELLED, max_length=100)
    adapter = some_adapter(base, FAMILIES[family].target_modules)
    for one in (None, adapter):
        read = base.read(data, one)
        with base.adapted(one):
            torch.testing.assert_close(read.logits, likelihoods(base, data), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(read.texts, base.encode(data.ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_what_prompts_have_in_common_is_read_once_in_training_too(family, tmp_path) -> None:
    base = open_base(str(write_base(tmp_path / family, family)), objective="causal_lm", prompt=BEGINNING)
    data = base.prepare(LABELLED, max_length=100)
    shared = common_beginning(data.ids, 1000)
    assert shared > 8
    adapter = some_adapter(base, FAMILIES[family].target_modules)
    factors = {site: tuple(f.requires_grad_() for f in adapter.scaled_factors(site)) for site in adapter.sites}
    with base.using(factors):
        together = base.losses(data, contrast_weight=0)["loss"]
        rows = [base.surprise([p], [c]) for p, c in zip(data.ids, data.own_outputs(), strict=True)]
    alone = sum(loss.sum() for loss, _ in rows) / sum(count.sum() for _, count in rows)
    assert float(together.detach()) == pytest.approx(float(alone.detach()), rel=1e-5)
    parts = [part for pair in factors.values() for part in pair]
    for one, other in zip(torch.autograd.grad(together, parts), torch.autograd.grad(alone, parts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_a_model_that_counts_places_by_itself_is_read_in_full_passes(tmp_path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    folder = write_base(tmp_path / "llama", "llama")
    config = BloomConfig(vocab_size=300, hidden_size=16, n_layer=2, n_head=2, pad_token_id=0, eos_token_id=2)
    BloomForCausalLM(config).eval().save_pretrained(folder)
    base = open_base(str(folder), objective="causal_lm", prompt=BEGINNING)
    assert not base.goes_on
    assert not can_go_on(base.model)
    data = base.prepare(LABELLED, max_length=100)
    torch.testing.assert_close(base.read(data).logits, likelihoods(base, data), rtol=1e-4, atol=1e-4)


def test_many_labels_are_read_in_several_turns(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("loragen.bases.label_reading.POSITIONS", 6)
    monkeypatch.setattr("loragen.bases.label_reading.PROMPTS", 2)
    base = open_base(str(write_base(tmp_path / "llama", "llama")), objective="causal_lm")
    data = base.prepare(LABELLED, max_length=100)
    torch.testing.assert_close(base.read(data).logits, likelihoods(base, data), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "most", "shared"),
    [
        ([[1, 2, 3, 4, 5], [1, 2, 3, 9, 5]], 9, 0),  # three tokens, once: not worth a pass of their own
        ([list(range(20)), [*range(12), 99]], 99, 12),
        ([list(range(20)), [*range(12), 99]], 10, 10),
        ([list(range(20))], 99, 0),
        ([list(range(20)), list(range(20))], -1, 0),
    ],
)
def test_a_common_beginning_is_read_apart_where_that_saves_something(rows, most, shared) -> None:
    assert common_beginning(rows, min(most, *(len(row) for row in rows)) if most > 0 else most) == shared
