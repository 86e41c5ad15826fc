import os
from dataclasses import replace

import pytest
import torch
from gguf_bases import KINDS, adapter_of, in_pairs, pair, tensors_of, write_llama_gguf, write_tiny

from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError, ConfigError, MissingExtraError
from loragen.exporters.targets import TARGETS, export_adapter

gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf")
# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def export(adapter, out, **options):
    return export_adapter(adapter, adapter.settings.base, out, to="gguf", is_local=True, **options)


def deltas_of_peft(adapter, folder, name):
    """Site → PEFT's own delta weight, (out, in)."""
    import peft
    import transformers

    adapter.save(folder)
    model = getattr(transformers, KINDS[name].model).from_pretrained(adapter.settings.base)
    loaded = peft.PeftModel.from_pretrained(model, folder)
    found = {site: loaded.base_model.model.get_submodule(site).get_delta_weight("default") for site in adapter.sites}
    return {
        site: delta.detach().T if adapter.settings.fan_in_fan_out else delta.detach() for site, delta in found.items()
    }


def as_llama_cpp(delta, site, name):
    """Rows as llama.cpp's converter writes them, spelt out head by head: 4 heads of 4, 2 of keys and values."""
    rows = list(range(len(delta)))
    if name in ("llama", "mistral") and site.endswith(("q_proj", "k_proj")):
        return in_pairs(delta, 4 if site.endswith("q_proj") else 2)
    if name in ("gpt_neox", "bloom") and site.endswith("query_key_value"):
        rows = [head * 12 + part * 4 + i for part in range(3) for head in range(4) for i in range(4)]
    if name == "falcon" and site.endswith("query_key_value"):  # each of 2 groups: 2 heads of queries, keys, values
        rows = [
            group * 16 + part * 4 + i
            for parts in ((0, 1), (2,), (3,))
            for group in range(2)
            for part in parts
            for i in range(4)
        ]
    return delta[rows]


@pytest.mark.parametrize("name", KINDS)
def test_every_pair_is_the_delta_weight_of_peft(name, tmp_path):
    adapter = adapter_of(write_tiny(tmp_path / "base", name), name)
    made = export(adapter, tmp_path / "lora.gguf")
    assert (made.arch, made.sites, made.dtype) == (KINDS[name].arch, len(adapter.sites), "f32")
    tensors, deltas = tensors_of(made.file), deltas_of_peft(adapter, tmp_path / "adapter", name)
    assert len({adapter.settings.scaling(site) for site in adapter.sites}) > 2
    assert len(tensors) == 2 * len(adapter.sites)
    from loragen.exporters.gguf_names import placed

    places = placed(adapter, adapter.settings.base, is_local=True).places
    for site, delta in deltas.items():
        met, wanted = pair(tensors, places[site].tensor), as_llama_cpp(delta, site, name)
        torch.testing.assert_close(met, wanted, atol=1e-6 * float(delta.abs().max()) * 4, rtol=1e-6)
    assert {site: places[site].tensor for site in KINDS[name].tensors} == KINDS[name].tensors


def test_the_file_says_what_it_is_and_states_no_alpha(tmp_path):
    adapter = adapter_of(write_tiny(tmp_path / "base", "llama"), "llama")
    reader = gguf.GGUFReader(export(adapter, tmp_path / "lora.gguf").file)
    facts = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert facts == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.name": "lora",
    }
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32"}


def test_half_precision_is_near_and_an_overflow_of_it_is_refused(tmp_path):
    adapter = adapter_of(write_tiny(tmp_path / "base", "qwen2"), "qwen2")
    made = export(adapter, tmp_path / "lora.gguf", dtype="f16")
    assert {tensor.tensor_type.name for tensor in tensors_of(made.file).values()} == {"F16"}
    large = replace(adapter, lora_B={site: 1e6 * b for site, b in adapter.lora_B.items()})
    with pytest.raises(AdapterError, match="overflows float16; write it with --dtype f32"):
        export(large, tmp_path / "large.gguf", dtype="f16")
    assert not (tmp_path / "large.gguf").exists()


@pytest.mark.parametrize(("name", "site"), [("bert", "pooler.dense"), ("gemma", "lm_head")])
def test_a_site_without_a_tensor_is_refused_by_name(name, site, tmp_path):
    adapter = adapter_of(write_tiny(tmp_path / "base", name), name, sites=(site,))
    with pytest.raises(AdapterError, match=rf"no matrix of their own for '{site}'.*loragen merge"):
        export(adapter, tmp_path / "lora.gguf")
    assert not list(tmp_path.glob("*.gguf"))


def test_a_head_that_is_the_embeddings_is_refused(tmp_path):
    base = write_tiny(tmp_path / "base", "llama", tie_word_embeddings=True)
    with pytest.raises(AdapterError, match=r"'lm_head' with its embeddings.*gguf-model"):
        export(adapter_of(base, "llama", sites=("lm_head",)), tmp_path / "lora.gguf")


def test_a_type_that_llama_cpp_is_not_known_to_run_is_refused_by_name(tmp_path):
    import transformers

    config = transformers.MPNetConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    transformers.MPNetModel(config).save_pretrained(tmp_path / "base")
    options = {"base_model_name_or_path": str(tmp_path / "base"), "task_type": "FEATURE_EXTRACTION"}
    adapter = Lora.from_factors(
        {"encoder.layer.0.attention.attn.q": torch.ones(2, 16)},
        {"encoder.layer.0.attention.attn.q": torch.ones(16, 2)},
        **options,
    )
    with pytest.raises(AdapterError, match=r"type mpnet; known are.*llama.*convert_hf_to_gguf"):
        export(adapter, tmp_path / "lora.gguf")


def test_adapters_of_the_inner_model_and_wrong_ones(tmp_path):
    base = write_tiny(tmp_path / "base", "llama")
    whole = adapter_of(base, "llama", sites=("model.layers.0.self_attn.q_proj",))
    inner = Lora.from_factors(
        {"layers.0.self_attn.q_proj": whole.lora_A["model.layers.0.self_attn.q_proj"]},
        {"layers.0.self_attn.q_proj": whole.lora_B["model.layers.0.self_attn.q_proj"]},
        base_model_name_or_path=str(base),
        task_type="FEATURE_EXTRACTION",
    )
    assert "blk.0.attn_q.weight.lora_a" in tensors_of(export(inner, tmp_path / "inner.gguf").file)
    still = replace(whole, lora_B={site: 0 * b for site, b in whole.lora_B.items()})
    with pytest.raises(AdapterError, match="leaves its base unchanged"):
        export(still, tmp_path / "still.gguf")
    headed = replace(whole, settings=replace(whole.settings, task_type="SEQ_CLS"))
    with pytest.raises(AdapterError, match=r"SEQ_CLS.*--without-head"):
        export(headed, tmp_path / "headed.gguf")
    up = "model.layers.0.mlp.up_proj"
    narrow = replace(adapter_of(base, "llama", sites=(up,)), lora_B={up: torch.ones(8, 3)})
    with pytest.raises(AdapterError, match=f"16 to 8 features at '{up}'"):
        export(narrow, tmp_path / "narrow.gguf")


def test_the_model_that_is_named_must_have_the_tensors(tmp_path):
    base = write_tiny(tmp_path / "base", "llama")
    adapter = adapter_of(base, "llama")
    model = write_llama_gguf(tmp_path / "model.gguf", base)
    assert f"-m {model} --lora" in export(adapter, tmp_path / "lora.gguf", base_gguf=model).use
    without = write_llama_gguf(tmp_path / "without.gguf", base, with_head=False)
    with pytest.raises(AdapterError, match=r"'lm_head' is output.weight .* has no such tensor"):
        export(adapter, tmp_path / "other.gguf", base_gguf=without)
    qwen = adapter_of(write_tiny(tmp_path / "qwen", "qwen2"), "qwen2")
    with pytest.raises(ConfigError, match="architecture llama, and that of the base is qwen2"):
        export(qwen, tmp_path / "other.gguf", base_gguf=model)
    with pytest.raises(ConfigError, match="of the type adapter, no model"):
        export(adapter, tmp_path / "other.gguf", base_gguf=tmp_path / "lora.gguf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no file"),
        (b"", "is no GGUF"),
        (b"PK\3\4", "is no GGUF"),
        (b"GGUF", "is cut off within its header"),
        (b"GGUF\3\0\0\0" + b"\xff" * 80, "is damaged"),
    ],
)
def test_a_damaged_model_is_one_line(content, message, tmp_path):
    adapter = adapter_of(write_tiny(tmp_path / "base", "llama"), "llama")
    if content is not None:
        (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        export(adapter, tmp_path / "lora.gguf", base_gguf=tmp_path / "model.gguf")


def test_only_gguf_files_are_replaced_and_only_where_asked(tmp_path):
    adapter = adapter_of(write_tiny(tmp_path / "base", "llama"), "llama")
    for name in ("lora.bin", "lora", ".gguf"):
        with pytest.raises(ConfigError, match=r"does not end in .gguf"):
            export(adapter, tmp_path / name)
    mine = tmp_path / "mine.gguf"
    mine.write_text("mine")
    with pytest.raises(ConfigError, match="is no GGUF file"):
        export(adapter, mine, force=True)
    assert mine.read_text() == "mine"
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(ConfigError, match="is no GGUF file"):
        export(adapter, tmp_path / "folder.gguf", force=True)
    made = export(adapter, tmp_path / "lora.gguf").file
    before = made.read_bytes()
    with pytest.raises(ConfigError, match="--force"):
        export(adapter, made)
    assert export(adapter, made, force=True).file.read_bytes() == before


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    adapter = adapter_of(write_tiny(tmp_path / "base", "llama"), "llama")
    made = export(adapter, tmp_path / "lora.gguf").file
    before, listed = made.read_bytes(), sorted(os.listdir(tmp_path))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(OSError, match="No space"):
        export(adapter, made, force=True)
    assert made.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == listed


def test_a_file_that_reads_back_otherwise_is_not_kept(tmp_path, monkeypatch):
    adapter = adapter_of(write_tiny(tmp_path / "base", "llama"), "llama")
    usual = gguf.GGUFWriter.add_tensor

    def wrong(self, name, tensor, **options):
        usual(self, name, tensor * 1.01 if name == "blk.1.ffn_up.weight.lora_b" else tensor, **options)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", wrong)
    with pytest.raises(AdapterError, match=r"'model.layers.1.mlp.up_proj' does not read back"):
        export(adapter, tmp_path / "lora.gguf")
    assert not list(tmp_path.glob("*.gguf"))


def test_targets_and_types_are_told(tmp_path):
    adapter = adapter_of(write_tiny(tmp_path / "base", "llama"), "llama")
    with pytest.raises(ConfigError, match=r"no target 'onnx'; .*gguf: a LoRA file.*gguf-model:"):
        export_adapter(adapter, str(tmp_path / "base"), tmp_path / "x.gguf", to="onnx")
    with pytest.raises(ConfigError, match="gguf has no type 'q8_0'; give one of f32, f16"):
        export(adapter, tmp_path / "x.gguf", dtype="q8_0")
    with pytest.raises(ConfigError, match="--to gguf-model"):
        export(adapter, tmp_path / "x.gguf", modelfile=True)
    assert len({target.name for target in TARGETS}) == len(TARGETS)


def test_without_the_package_the_way_out_is_told(tmp_path, monkeypatch):
    import sys

    adapter = adapter_of(write_tiny(tmp_path / "base", "llama"), "llama")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"loragen\[lm\]"):
        export(adapter, tmp_path / "x.gguf")


def test_every_family_is_one_that_the_package_knows():
    from loragen.exporters.gguf_names import FAMILIES

    assert [kind for kind, family in FAMILIES.items() if not hasattr(gguf.MODEL_ARCH, family.arch)] == []
