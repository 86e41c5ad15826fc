"""Pruned models: real and smaller ones, which compute what the full model does without its pruned neurons and heads."""

from dataclasses import replace

import pytest
import torch
from models import tiny_bert, tiny_gpt2, tiny_llama, write_tiny_encoder
from torch import nn

from loragen.adapters.index_map import IndexMap, SiteMap
from loragen.base_store.prune import prune_base
from loragen.bases.open import open_base
from loragen.bases.pruning import index_map, pruned_copy
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.errors import ConfigError

IDS = torch.arange(5, 25).view(2, 10)


def tiny(kind):
    """A tiny model of an architecture, with 4 heads, in pairs on one key and value where it can have them."""
    import transformers

    sizes = dict(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24)
    config = getattr(transformers, f"{kind}Config")(
        **sizes, initializer_range=0.3, pad_token_id=0, **({"embedding_size": 8} if kind == "Electra" else {})
    )
    if hasattr(config, "num_key_value_heads"):
        config = type(config)(**sizes, initializer_range=0.3, pad_token_id=0, num_key_value_heads=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = getattr(transformers, f"{kind}Model")(config).eval()
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(value, std=0.3)
    return model.requires_grad_(False)


def masked(model, kept):
    """The full model with what was pruned set to zero, by hand."""
    with torch.no_grad():
        for name, site in kept.sites.items():
            module = model.get_submodule(name)
            if site.kept_out is not None:
                gone = sorted({*range(site.out_features)} - {*site.kept_out})
                module.weight[gone] = 0
                if module.bias is not None:
                    module.bias[gone] = 0
            if site.kept_in is not None:
                module.weight[:, sorted({*range(site.in_features)} - {*site.kept_in})] = 0
    return model


def map_of(model, **shares):
    return index_map(model, base="tiny", base_hash="", **({"neurons": 0.5, "heads": 0.5} | shares))


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Electra", "Llama", "Mistral", "Qwen2", "Qwen3"])
def test_a_pruned_model_is_the_full_one_without_what_was_pruned(kind):
    model = tiny(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept, counts = map_of(model)
    small = pruned_copy(model, kept)
    assert (counts.neurons, counts.heads) == (12, 2)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        found, whole = (each(input_ids=IDS).last_hidden_state for each in (small, model))
        wanted = masked(model, kept)(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, whole, atol=1e-2)
    assert all(value.shape == before[name].shape for name, value in model.state_dict().items())


def test_the_copy_shares_what_was_not_pruned_and_leaves_the_model_as_it_was():
    model = tiny_bert().requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = pruned_copy(model, map_of(model, heads=0)[0])
    assert small.embeddings.word_embeddings.weight is model.embeddings.word_embeddings.weight
    query = "encoder.layer.0.attention.self.query"
    assert small.get_submodule(query).weight is model.get_submodule(query).weight
    assert small.encoder.layer[0].intermediate.dense.weight.shape == (16, 16)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_neurons_and_heads_of_the_largest_norm_are_kept():
    model = tiny_bert().requires_grad_(False)
    kept, _ = map_of(model)
    for i, layer in enumerate(model.encoder.layer):
        neurons = [
            float(layer.intermediate.dense.weight[j].norm() ** 2 + layer.intermediate.dense.bias[j] ** 2)
            + float(layer.output.dense.weight[:, j].norm() ** 2)
            for j in range(32)
        ]
        wanted = tuple(sorted(sorted(range(32), key=lambda j: -neurons[j])[:16]))
        assert kept.sites[f"encoder.layer.{i}.intermediate.dense"].kept_out == wanted
        assert kept.sites[f"encoder.layer.{i}.output.dense"].kept_in == wanted
        attention = layer.attention
        heads = []
        for begin in (0, 8):
            rows = slice(begin, begin + 8)
            parts = [attention.self.query, attention.self.key, attention.self.value]
            norm = sum(float(one.weight[rows].norm() ** 2 + one.bias[rows].norm() ** 2) for one in parts)
            heads.append(norm + float(attention.output.dense.weight[:, rows].norm() ** 2))
        begin = 8 * (heads[1] > heads[0])
        assert kept.sites[f"encoder.layer.{i}.attention.self.key"].kept_out == tuple(range(begin, begin + 8))


def test_heads_on_one_key_and_value_go_together():
    kept, counts = map_of(tiny_llama(), neurons=0)
    assert (counts.heads, counts.key_value_heads, counts.neurons) == (2, 1, 24)
    layer = "model.layers.0.self_attn"
    (group,) = {feature // 4 for feature in kept.sites[f"{layer}.k_proj"].kept_out}
    assert kept.sites[f"{layer}.q_proj"].kept_out == tuple(range(8 * group, 8 * group + 8))
    assert kept.sites[f"{layer}.o_proj"].kept_in == kept.sites[f"{layer}.q_proj"].kept_out
    assert kept.sites["model.layers.0.mlp.up_proj"] == SiteMap(24, 16)


def test_at_least_one_unit_is_kept_and_no_share_keeps_all():
    _, counts = map_of(tiny_bert(), neurons=0.999, heads=0.999)
    assert (counts.neurons, counts.heads) == (1, 1)
    kept, counts = map_of(tiny_bert(), neurons=0, heads=0)
    assert (counts.neurons, counts.heads) == (32, 2)
    assert all(site.kept_out is None and site.kept_in is None for site in kept.sites.values())


@pytest.mark.parametrize(
    ("model", "shares", "said"),
    [
        (tiny_gpt2, {}, "of the architecture 'gpt2', and which neurons and heads belong together is known for bert"),
        (tiny_bert, {"neurons": 1.0}, "share of neurons to prune is 1.0"),
        (tiny_bert, {"heads": -0.1}, "share of heads to prune is -0.1"),
        (tiny_bert, {"heads": float("nan")}, "share of heads to prune is nan"),
    ],
)
def test_what_cannot_be_pruned_is_refused(model, shares, said):
    with pytest.raises(ConfigError, match=said):
        map_of(model(), **shares)


def test_a_map_of_another_model_is_refused():
    kept, _ = map_of(tiny_bert())
    with pytest.raises(ConfigError, match=r"prunes 'encoder.layer.1.*but the model has none there"):
        pruned_copy(tiny_bert(layers=1), kept)
    site = "encoder.layer.0.intermediate.dense"
    other = IndexMap("tiny", "", {site: replace(kept.sites[site], out_features=33)})
    with pytest.raises(ConfigError, match=r"of \(out, in\) \(33, 16\), but the model has \(32, 16\)"):
        pruned_copy(tiny_bert(), other)


# --- folders ---


def test_a_pruned_encoder_is_a_folder_like_any_other(tmp_path):
    folder = write_tiny_encoder(tmp_path / "full", seed=1)
    made = prune_base(str(folder), tmp_path / "small", neurons=0.25)
    assert (made.kept.neurons, made.kept.all_neurons) == (24, 32)
    full, small = (LabelTextEncoder.load(str(path)) for path in (folder, made.folder))
    kept = IndexMap.load(tmp_path / "small")
    assert (kept.base, kept.base_hash) == (str(folder), full.fingerprint)
    assert (made.parameters, made.all_parameters) == (small.number_of_parameters, full.number_of_parameters)
    assert small.fingerprint != full.fingerprint
    masked(full.model, kept)
    texts = full.tokenize(["soup and bread", "cold tea"], max_length=32)
    torch.testing.assert_close(small.encode(texts), full.encode(texts), rtol=1e-5, atol=1e-5)
    assert (tmp_path / "small" / "modules.json").exists()
    with pytest.raises(ConfigError, match="exists already"):
        prune_base(str(folder), tmp_path / "small")
    again = prune_base(str(folder), tmp_path / "small", neurons=0.25, force=True)
    assert IndexMap.load(again.folder) == kept


def test_a_pruned_decoder_keeps_its_precision_and_has_fewer_heads(tmp_path):
    write_tiny_encoder(tmp_path / "full")  # for its tokenizer
    (tmp_path / "full" / "modules.json").unlink()
    tiny_llama().bfloat16().save_pretrained(tmp_path / "full")
    made = prune_base(str(tmp_path / "full"), tmp_path / "small", neurons=0.5, heads=0.5)
    full, small = (open_base(str(path), objective="causal_lm") for path in (tmp_path / "full", made.folder))
    config = small.model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 4)
    assert str(config.dtype or config.torch_dtype).endswith("float32")  # as it was loaded
    assert '"bfloat16"' in (made.folder / "config.json").read_text()
    masked(full.model, IndexMap.load(made.folder))
    with torch.no_grad():
        found, wanted = (base.model(input_ids=IDS).logits for base in (small, full))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_heads_that_a_config_cannot_say_are_refused_and_nothing_is_written(tmp_path):
    folder = write_tiny_encoder(tmp_path / "full")
    with pytest.raises(ConfigError, match=r"no place for heads that were pruned.*--heads 0"):
        prune_base(str(folder), tmp_path / "small", heads=0.5)
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    with pytest.raises(ConfigError, match="does not take 3 of its 4 heads, where the hidden size is 16"):
        prune_base(str(tmp_path / "llama"), tmp_path / "small", heads=0.25)
    assert not (tmp_path / "small").exists()
    with pytest.raises(ConfigError, match="which is read"):
        prune_base(str(folder), folder, force=True)
