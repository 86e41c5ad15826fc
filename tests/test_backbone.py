import math
from dataclasses import replace

import loragen.base
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_bert, write_tiny_encoder

from loragen.adapters.adapter import Lora, LoraSettings
from loragen.bases.base import Base
from loragen.bases.devices import choose_dtype
from loragen.bases.hub import resolve_model, weights_hash
from loragen.bases.losses import contrast_loss, label_text_loss
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.errors import AdapterError, TaskError

# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

QUERY, VALUE, DENSE = "layer.0.attention.self.query", "layer.1.attention.self.value", "layer.1.intermediate.dense"
SITES = {f"encoder.{QUERY}": (16, 16), f"encoder.{VALUE}": (16, 16), f"encoder.{DENSE}": (32, 16)}
TEXTS = ["warm soup", "tea", "bread and a cold cup of tea, please.", "soup", "a b c d e f g", "Where is my bread?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def base(folder):
    return LabelTextEncoder.load(str(folder))


def make_adapter(seed=0, sites=SITES, r=2, **options):
    rng = torch.Generator().manual_seed(seed)
    settings = LoraSettings(r=r, lora_alpha=3, target_modules=tuple(sites), **options)
    return Lora(
        settings,
        {site: 0.3 * torch.randn(settings.rank(site), columns, generator=rng) for site, (_, columns) in sites.items()},
        {site: 0.3 * torch.randn(rows, settings.rank(site), generator=rng) for site, (rows, _) in sites.items()},
    )


def hidden(base):
    ids = torch.arange(5, 29).reshape(2, 12)
    with torch.no_grad():
        return base.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def embeddings(base, texts=TEXTS, **options):
    return base.encode(base.tokenize(texts, max_length=64), **options)


def has_hooks(base):
    return any(module._forward_hooks for module in base.model.modules())


# --- loading --------------------------------------------------------------------------------------------------------


def test_a_loaded_base_is_frozen_and_known_by_its_weights(folder, base):
    assert base.name == str(folder)
    assert base.fingerprint == weights_hash(folder)
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert torch.equal(hidden(base), hidden(replace(base, model=tiny_bert())))


def test_a_base_in_bfloat16_embeds_in_float32(folder, base):
    half = LabelTextEncoder.load(str(folder), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    with half.adapted(make_adapter()), base.adapted(make_adapter()):
        met, wanted = embeddings(half), embeddings(base)
    assert met.dtype == torch.float32
    assert torch.allclose(met.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-6)
    assert 1e-5 < (met - wanted).abs().max() < 0.1


# --- sites ----------------------------------------------------------------------------------------------------------


def test_sites_come_in_the_order_of_the_base_with_their_sizes(base):
    sites = base.sites(["intermediate.dense", "value", "query"])
    wanted = [
        f"encoder.layer.{i}.{name}"
        for i in (0, 1)
        for name in ("attention.self.query", "attention.self.value", "intermediate.dense")
    ]
    assert list(sites) == wanted
    assert [sites[f"encoder.layer.0.{name}"] for name in ("attention.self.query", "intermediate.dense")] == [
        (16, 16),
        (32, 16),
    ]


@pytest.mark.parametrize(
    ("targets", "sites"),
    [
        (["dense"], 7),  # the pooler's too
        (["output.dense"], 4),
        (["attention.output.dense"], 2),
        (["encoder.layer.1.output.dense"], 1),
        (["output.dense", "encoder.layer.1.output.dense", "dense"], 7),
    ],
)
def test_targets_match_whole_dotted_endings(base, targets, sites):
    met = base.sites(targets)
    assert len(met) == sites
    assert all(any(f".{site}".endswith(f".{target}") for target in targets) for site in met)


@pytest.mark.parametrize("target", ["uery", "q", "self", "encoder.layer.1", "LayerNorm", "encoder.query", ""])
def test_a_target_that_matches_no_linear_module_is_refused(base, target):
    with pytest.raises(AdapterError, match=f"is called '{target}'; it has dense, key, query, value"):
        base.sites(["query", target])


# --- tokens and embeddings ------------------------------------------------------------------------------------------


def test_targets_can_be_one_regular_expression_for_whole_names(base):
    met = base.sites(r"encoder\.layer\.1\..*\.(query|value)")
    assert list(met) == [f"encoder.layer.1.attention.self.{name}" for name in ("query", "value")]
    with pytest.raises(AdapterError, match=r"is called 'layer\.1'; it has dense"):
        base.sites("layer.1")


def test_texts_become_ids_cut_at_a_length(base):
    assert base.tokenize(["warm soup", "tea"], max_length=64) == [[2, 62, 59, 3], [2, 63, 3]]
    assert base.tokenize(["warm soup"], max_length=3) == [[2, 62, 3]]


def test_pairs_are_joined_and_the_longer_half_is_cut_first(base):
    soup, bread, tea = 59, 60, 63
    assert base.tokenize(["soup", "tea"], ["bread", "soup"], max_length=64) == [
        [2, soup, 3, bread, 3],
        [2, tea, 3, soup, 3],
    ]
    assert base.tokenize(["soup " * 9], ["tea"], max_length=6) == [[2, soup, soup, 3, tea, 3]]
    assert base.tokenize(["tea"], ["soup " * 9], max_length=6) == [[2, tea, 3, soup, soup, 3]]


def test_both_halves_of_a_pair_count(base):
    rows = base.encode(base.tokenize(["tea", "tea", "soup"], ["soup", "bread", "soup"], max_length=64))
    assert torch.pdist(rows).min() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
def test_rows_do_not_depend_on_their_batch_and_keep_their_order(base, batch_size):
    alone = torch.cat([base.embed([row]) for row in base.tokenize(TEXTS, max_length=64)])
    assert torch.pdist(alone).min() > 1e-3
    assert torch.allclose(embeddings(base, batch_size=batch_size), alone, atol=1e-6)
    assert torch.allclose(embeddings(base, TEXTS[::-1], batch_size=batch_size), alone.flip(0), atol=1e-6)


def test_batches_hold_texts_of_like_length(base, monkeypatch):
    batches = []
    states = Base.states
    monkeypatch.setattr(
        Base,
        "states",
        lambda self, ids, **how: (batches.append([len(row) for row in ids]), states(self, ids, **how))[1],
    )
    embeddings(base, batch_size=2)
    lengths = [length for batch in batches for length in batch]
    assert lengths == sorted(lengths)
    assert list(map(len, batches)) == [2, 2, 2]


def test_no_texts_are_refused(base):
    with pytest.raises(TaskError, match="no text to encode"):
        base.encode([])


@pytest.mark.parametrize(("separator", "joint"), [(None, "\n"), ("?", "")])
def test_a_line_break_joins_a_pair_where_a_tokenizer_has_no_separator(base, separator, joint):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: i for i, letter in enumerate("?abcdefghijklmnopqrstuvwxyz \n")}
    letters = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, [])), sep_token=separator)
    by_letter = replace(base, tokenizer=letters)

    def read(*texts, max_length):
        return [
            "".join(letters.convert_ids_to_tokens(ids)) for ids in by_letter.tokenize(*texts, max_length=max_length)
        ]

    pairs = read(["warm soup", "tea"], ["good", "bad"], max_length=64)
    assert pairs == [f"warm soup{joint}good", f"tea{joint}bad"]
    assert read(["warm soup"], ["good"], max_length=9 + len(joint)) == [f"warm {joint}good"], "the text is cut"
    assert read(["warm soup"], max_length=64) == ["warm soup"]


# --- states ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def token_states(folder):
    """For each of the texts its last hidden states (tokens, 16), by transformers alone and without padding."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_states_are_means_over_the_tokens_of_a_text(base, token_states, batch_size):
    ids = base.tokenize(TEXTS, max_length=64)
    wanted = torch.stack([states.mean(0) for states in token_states])
    assert torch.pdist(wanted).min() > 1e-3
    assert torch.allclose(base.encode_states(ids, batch_size=batch_size), wanted, atol=1e-6)
    assert torch.allclose(base.states(ids), wanted, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_last_state_is_that_of_the_last_token_and_not_of_padding(base, token_states, batch_size):
    ids = base.tokenize(TEXTS, max_length=64)
    wanted = torch.stack([states[-1] for states in token_states])
    assert torch.pdist(wanted).min() > 1e-3
    assert torch.allclose(base.encode_states(ids, pooling="last", batch_size=batch_size), wanted, atol=1e-6)
    assert torch.allclose(base.states(ids, pooling="last"), wanted, atol=1e-6)


def test_embeddings_are_normalised_states(base):
    ids = base.tokenize(TEXTS, max_length=64)
    states = base.encode_states(ids)
    assert (states.norm(dim=1) - 1).abs().min() > 0.1, "states have a length of their own"
    wanted = states / states.norm(dim=1, keepdim=True)
    assert torch.allclose(base.encode(ids), wanted, atol=1e-6)
    assert torch.allclose(base.embed(ids), wanted, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_states_of_a_base_in_bfloat16_are_float32(folder, pooling):
    half = LabelTextEncoder.load(str(folder), dtype=torch.bfloat16)
    assert half.encode_states(half.tokenize(TEXTS, max_length=64), pooling=pooling).dtype == torch.float32


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_gradients_reach_the_factors_through_either_pooling(base, pooling):
    factors = {site: tuple(f.requires_grad_() for f in make_adapter().scaled_factors(site)) for site in SITES}
    with base.using(factors):
        base.states(base.tokenize(TEXTS, max_length=64), pooling=pooling).square().sum().backward()
    assert all(factor.grad.isfinite().all() and factor.grad.any() for pair in factors.values() for factor in pair)


def test_embeddings_of_minilm_are_those_of_sentence_transformers():
    from sentence_transformers import SentenceTransformer

    from loragen.bases.hub import quiet_loading

    texts = ["Which label fits?", "naïve café — 東京 🙂 don't", "a long text that goes on and on, " * 60]
    minilm = LabelTextEncoder.load("all-MiniLM-L6-v2")
    with quiet_loading():
        reference = SentenceTransformer(str(resolve_model("all-MiniLM-L6-v2")), device="cpu")
    wanted = reference.encode(texts, convert_to_tensor=True, show_progress_bar=False)
    met = minilm.encode(minilm.tokenize(texts, max_length=256))
    assert torch.allclose(met, wanted, atol=1e-5)
    assert torch.allclose(met.norm(dim=1), torch.ones(3), atol=1e-6)


# --- adapters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"alpha_pattern": {"query": 7}}, {"rank_pattern": {"dense": 4}}]
)
def test_an_adapted_base_gives_what_peft_gives(base, tmp_path, options):
    from peft import PeftModel

    adapter = make_adapter(**options)
    adapter.save(tmp_path)
    reference = hidden(replace(base, model=PeftModel.from_pretrained(tiny_bert(), tmp_path).eval()))
    bare = hidden(base)
    with base.adapted(adapter):
        met = hidden(base)
    assert torch.allclose(met, reference, atol=1e-6)
    assert (met - bare).abs().max() > 0.1
    assert torch.equal(hidden(base), bare)


def test_no_adapter_is_the_bare_base(base):
    bare = hidden(base)
    with base.adapted(None):
        assert torch.equal(hidden(base), bare)


def test_adapters_in_use_add_up(base):
    from loragen.adapters.combine import weighted_sum

    first, second = make_adapter(1), make_adapter(2)
    with base.adapted(first), base.adapted(second):
        both = hidden(base)
    with base.adapted(weighted_sum([first, second], [1, 1])):
        assert torch.allclose(hidden(base), both, atol=1e-5)


def adapt_and_fail(base):
    with base.adapted(make_adapter()):
        assert has_hooks(base)
        raise ZeroDivisionError


def test_an_adapter_is_gone_even_where_the_block_raises(base):
    bare = hidden(base)
    with pytest.raises(ZeroDivisionError):
        adapt_and_fail(base)
    assert not has_hooks(base)
    assert torch.equal(hidden(base), bare)


@pytest.mark.parametrize(
    ("site", "shape", "message"),
    [
        ("encoder.layer.9.attention.self.query", (16, 16), "does not have; it was made for another base"),
        (f"encoder.{DENSE}", (16, 16), r"maps 16 to 16 features at .*maps 16 to 32 there"),
        (f"encoder.{DENSE}", (32, 8), r"maps 8 to 32 features at .*maps 16 to 32 there"),
        ("embeddings.word_embeddings", (16, 64), "which is a Embedding in .*only linear modules"),
    ],
)
def test_an_adapter_of_another_base_is_refused_and_leaves_no_trace(base, site, shape, message):
    adapter = make_adapter(sites={f"encoder.{QUERY}": (16, 16), site: shape})
    with pytest.raises(AdapterError, match=message), base.adapted(adapter):
        pass
    assert not has_hooks(base)


def test_gradients_reach_the_factors_and_not_the_base(base):
    factors = {site: tuple(f.requires_grad_() for f in make_adapter().scaled_factors(site)) for site in SITES}
    rows = base.tokenize(TEXTS, max_length=64)
    with base.using(factors):
        loss = label_text_loss(base.embed(rows), base.embed(rows[:2]), torch.tensor([0, 1, 0, 1, 0, 1]))
    loss.backward()
    assert all(factor.grad.isfinite().all() and factor.grad.any() for pair in factors.values() for factor in pair)
    assert all(parameter.grad is None for parameter in base.model.parameters())


# --- losses ---------------------------------------------------------------------------------------------------------


def unit_rows(n, seed, d=4):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def naive_contrast(texts, targets):
    """L_out of Khosla et al., term by term."""
    losses = []
    for i in range(len(texts)):
        others = [j for j in range(len(texts)) if j != i]
        positives = [j for j in others if targets[j] == targets[i]]
        if positives:
            total = sum(math.exp(20 * float(texts[i] @ texts[j])) for j in others)
            terms = [-math.log(math.exp(20 * float(texts[i] @ texts[j])) / total) for j in positives]
            losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses) if losses else 0.0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 2**31))
def test_contrast_is_the_double_loop(targets, seed):
    texts = unit_rows(len(targets), seed).requires_grad_()
    loss = contrast_loss(texts, torch.tensor(targets))
    assert loss.item() == pytest.approx(naive_contrast(texts.detach().double(), targets), rel=1e-4, abs=1e-4)
    loss.backward()
    assert texts.grad.isfinite().all()


@pytest.mark.parametrize("targets", [[0], [0, 1], [2, 0, 1, 3]])
def test_no_second_example_means_no_contrast(targets):
    texts = unit_rows(len(targets), 0).requires_grad_()
    loss = contrast_loss(texts, torch.tensor(targets))
    loss.backward()
    assert loss.item() == 0
    assert not texts.grad.any()


def test_contrast_falls_as_classes_draw_together():
    targets = torch.tensor([0, 0, 1, 1])
    tight = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert float(contrast_loss(tight, targets)) < 1e-4
    assert float(contrast_loss(tight, torch.tensor([0, 1, 0, 1]))) > 10


def test_label_text_loss_is_a_cross_entropy_over_cosines():
    texts, labels, targets = unit_rows(5, 0), unit_rows(3, 1), [0, 2, 1, 1, 0]
    logits = [[20 * float(text.double() @ label.double()) for label in labels] for text in texts]
    wanted = sum(
        math.log(sum(math.exp(value) for value in row)) - row[target]
        for row, target in zip(logits, targets, strict=True)
    )
    assert float(label_text_loss(texts, labels, torch.tensor(targets))) == pytest.approx(wanted / 5, rel=1e-5)


# --- precision ------------------------------------------------------------------------------------------------------


def test_a_named_precision_is_taken():
    assert choose_dtype("float32") == torch.float32
    assert choose_dtype("bfloat16") == torch.bfloat16


@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_auto_takes_the_faster_precision(monkeypatch, faster):
    clock = [0.0]
    calls = []

    def linear(x, _w):
        calls.append(x.dtype)
        # One slow call of the faster one, as where another process comes between, decides nothing.
        clock[0] += 9.0 if calls.count(faster) == 1 and x.dtype == faster else 1.0 if x.dtype == faster else 2.0

    monkeypatch.setattr(loragen.bases.base.F, "linear", linear)
    monkeypatch.setattr(loragen.bases.base.time, "perf_counter", lambda: clock[0])
    assert choose_dtype("auto") == faster
