import numpy as np
import pytest
import torch
from gguf_bases import adapter_of, in_pairs, tensors_of, write_llama_gguf, write_tiny

from loragen.errors import AdapterError, ConfigError
from loragen.exporters.gguf_model import convert_gguf
from loragen.exporters.targets import export_adapter

gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf")

WIDE = {"hidden_size": 32, "intermediate_size": 64}
Q, K, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj", "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from unittest.mock import patch

    import gguf_bases

    kind = gguf_bases.KINDS["llama"]
    wide = gguf_bases.Kind(kind.model, {**kind.sizes, **WIDE}, kind.arch, kind.tensors, left_out=())
    folder = tmp_path_factory.mktemp("models") / "base"
    with patch.dict(gguf_bases.KINDS, {"llama": wide}):
        return write_tiny(folder, "llama")


@pytest.fixture(scope="module")
def model(base):
    return write_llama_gguf(base.parent / "model.gguf", base)


def export(adapter, out, model, **options):
    return export_adapter(
        adapter, adapter.settings.base, out, to="gguf-model", base_gguf=model, is_local=True, **options
    )


def values(tensor):
    return torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()).float()


@pytest.mark.parametrize(
    ("dtype", "kind", "tolerance"), [(None, "F16", 2e-3), ("f32", "F32", 1e-6), ("q8_0", "Q8_0", 0.06)]
)
def test_touched_tensors_hold_base_and_update_and_all_others_their_bytes(base, model, dtype, kind, tolerance, tmp_path):
    adapter = adapter_of(base, "llama", sites=(Q, K, DOWN))
    made = export(adapter, tmp_path / "merged.gguf", model, dtype=dtype)
    old, new = tensors_of(model), tensors_of(made.file)
    assert list(old) == list(new)
    moved = {
        "blk.0.attn_q.weight": in_pairs(adapter.delta_weight(Q), 4),
        "blk.1.attn_k.weight": in_pairs(adapter.delta_weight(K), 2),
        "blk.0.ffn_down.weight": adapter.delta_weight(DOWN),
    }
    for name, tensor in new.items():
        if name not in moved:
            assert tensor.tensor_type == old[name].tensor_type
            assert tensor.data.tobytes() == old[name].data.tobytes()
            continue
        assert tensor.tensor_type.name == kind
        wanted = values(old[name]) + moved[name]
        torch.testing.assert_close(values(tensor), wanted, atol=tolerance * float(wanted.abs().max()), rtol=0)
    facts = [
        {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()} for file in (model, made.file)
    ]
    assert facts[0] == facts[1]


def test_a_shared_head_gets_a_tensor_of_its_own(base, tmp_path):
    tied = write_llama_gguf(tmp_path / "tied.gguf", base, with_head=False)
    adapter = adapter_of(base, "llama", sites=("lm_head",))
    made = export(adapter, tmp_path / "merged.gguf", tied, dtype="f32")
    old, new = tensors_of(tied), tensors_of(made.file)
    assert list(new) == [*old, "output.weight"]
    wanted = values(old["token_embd.weight"]) + adapter.delta_weight("lm_head")
    torch.testing.assert_close(values(new["output.weight"]), wanted)
    assert "output.weight of its own" in made.notes[0]


def test_a_modelfile_for_ollama_has_one_line(base, model, tmp_path):
    adapter = adapter_of(base, "llama", sites=(Q,))
    made = export(adapter, tmp_path / "mine.gguf", model, modelfile=True)
    assert (tmp_path / "Modelfile").read_text() == "FROM ./mine.gguf\n"
    assert made.use == f"ollama create NAME -f {tmp_path / 'Modelfile'}"
    with pytest.raises(ConfigError, match="Modelfile exists already"):
        export(adapter, tmp_path / "other.gguf", model, modelfile=True)
    assert not (tmp_path / "other.gguf").exists()


@pytest.mark.parametrize(
    ("told", "line"),
    [("Name the soup.", 'SYSTEM """Name the soup."""\n'), ('"""\nADAPTER x', 'SYSTEM """\'\'\'\nADAPTER x"""\n')],
)
def test_a_modelfile_has_the_system_turn_that_prompts_want(base, model, tmp_path, told, line):
    adapter = adapter_of(base, "llama", sites=(Q,))
    made = export(adapter, tmp_path / "mine.gguf", model, modelfile=True, system=told)
    assert (tmp_path / "Modelfile").read_text() == f"FROM ./mine.gguf\n{line}"
    assert "prompts want the system turn" in made.notes[-1]


def test_without_a_gguf_file_of_the_base_the_way_is_told(base, tmp_path):
    adapter = adapter_of(base, "llama", sites=(Q,))
    with pytest.raises(ConfigError, match=r"--base-gguf, or merge it instead: .loragen merge.*convert_hf_to_gguf"):
        export(adapter, tmp_path / "mine.gguf", None)


def test_the_model_that_is_read_is_not_written_over(base, model, tmp_path):
    adapter = adapter_of(base, "llama", sites=(Q,))
    with pytest.raises(ConfigError, match="is the model that is read"):
        export(adapter, model, model, force=True)
    narrow = write_tiny(tmp_path / "narrow", "llama")
    with pytest.raises(AdapterError, match=r"blk.0.attn_q.weight of the shape"):
        export(adapter, tmp_path / "mine.gguf", write_llama_gguf(tmp_path / "narrow.gguf", narrow))


def test_one_part_of_several_is_refused(base, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "part.gguf", "llama")
    writer.add_uint16("split.count", 2)
    writer.add_tensor("a.weight", np.zeros((2, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match="one part of several"):
        export(adapter_of(base, "llama", sites=(Q,)), tmp_path / "mine.gguf", tmp_path / "part.gguf")


def test_an_update_that_overflows_half_precision_is_refused(base, model, tmp_path):
    adapter = adapter_of(base, "llama", sites=(Q,), lora_alpha=1e6, alpha_pattern={})
    with pytest.raises(AdapterError, match=r"blk.0.attn_q.weight overflows float16; write it with --dtype f32"):
        export(adapter, tmp_path / "mine.gguf", model)
    assert not list(tmp_path.glob("*.gguf"))


def test_converting_changes_quantised_matrices_alone(model, tmp_path):
    old, new = tensors_of(model), tensors_of(convert_gguf(model, tmp_path / "whole.gguf", dtype="f32"))
    assert {tensor.tensor_type.name for tensor in old.values()} == {"F32", "Q8_0"}
    assert {tensor.tensor_type.name for tensor in new.values()} == {"F32"}
    for name, tensor in new.items():
        torch.testing.assert_close(values(tensor), values(old[name]), atol=0, rtol=0)
