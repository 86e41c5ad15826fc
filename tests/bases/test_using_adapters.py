from dataclasses import replace

import pytest
import torch
from models import tiny_bert, write_tiny_encoder

from loragen.adapters.adapter import Lora
from loragen.adapters.settings import LoraSettings
from loragen.bases.losses import label_text_loss
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.errors import AdapterError

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


def test_targets_can_be_one_regular_expression_for_whole_names(base):
    met = base.sites(r"encoder\.layer\.1\..*\.(query|value)")
    assert list(met) == [f"encoder.layer.1.attention.self.{name}" for name in ("query", "value")]
    with pytest.raises(AdapterError, match=r"is called 'layer\.1'; it has dense"):
        base.sites("layer.1")


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


def test_a_base_in_bfloat16_embeds_in_float32(folder, base):
    half = LabelTextEncoder.load(str(folder), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    with half.adapted(make_adapter()), base.adapted(make_adapter()):
        met, wanted = embeddings(half), embeddings(base)
    assert met.dtype == torch.float32
    assert torch.allclose(met.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-6)
    assert 1e-5 < (met - wanted).abs().max() < 0.1


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_gradients_reach_the_factors_through_either_pooling(base, pooling):
    factors = {site: tuple(f.requires_grad_() for f in make_adapter().scaled_factors(site)) for site in SITES}
    with base.using(factors):
        base.states(base.tokenize(TEXTS, max_length=64), pooling=pooling).square().sum().backward()
    assert all(factor.grad.isfinite().all() and factor.grad.any() for pair in factors.values() for factor in pair)
