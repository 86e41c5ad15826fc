import pytest
import torch
from models import tiny_bert, tiny_gpt2, write_tiny_encoder

from loragen.adapters.adapter import Lora
from loragen.adapters.settings import LoraSettings
from loragen.errors import AdapterError, ConfigError
from loragen.exporters.merged_model import merge_into_base

# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

QUERY, VALUE = (f"encoder.layer.1.attention.self.{name}" for name in ("query", "value"))
DENSE = "encoder.layer.0.output.dense"
SHAPES = {QUERY: (16, 16), VALUE: (16, 16), DENSE: (16, 32)}  # (out, in) in tiny_bert
TEXTS = ["warm soup", "a cold cup of tea, please.", "bread"]


def make(seed, ranks=None, lora_alpha=3, **options):
    """An adapter with random factors."""
    ranks = ranks or dict.fromkeys(SHAPES, 3)
    settings = LoraSettings(
        r=3,
        lora_alpha=lora_alpha,
        target_modules=tuple(ranks),
        base_model_name_or_path="tiny",
        rank_pattern={site: rank for site, rank in ranks.items() if rank != 3},
        **options,
    )
    rng = torch.Generator().manual_seed(seed)
    a = {site: 0.3 * torch.randn(rank, SHAPES[site][1], generator=rng) for site, rank in ranks.items()}
    b = {site: 0.3 * torch.randn(SHAPES[site][0], rank, generator=rng) for site, rank in ranks.items()}
    return Lora(settings, a, b)


def mixed():
    return [
        make(1, {QUERY: 2, VALUE: 1, DENSE: 4}, lora_alpha=8),
        make(2, {QUERY: 1, VALUE: 2}, use_rslora=True),
        make(3, {QUERY: 3, DENSE: 3}, lora_alpha=2, alpha_pattern={"query": 5}, use_rslora=True),
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny")


def by_peft(adapter, model, folder):
    """Weights of a base with an adapter that PEFT merged into it."""
    from peft import PeftModel

    adapter.save(folder)
    return PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()


def assert_weights(model, wanted):
    state = model.state_dict()
    assert state.keys() == wanted.keys()
    assert all(value.dtype == torch.float32 for value in state.values())
    assert all(torch.allclose(state[name], wanted[name], atol=1e-6) for name in wanted)


@pytest.mark.parametrize("adapter", mixed())
def test_a_merged_folder_loads_and_gives_the_adapted_embeddings(base, tmp_path, adapter, capfd):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    from loragen.bases.hub import quiet_loading
    from loragen.bases.text_encoder import LabelTextEncoder

    out = tmp_path / "deep" / "merged"
    merge_into_base(adapter, base, out, readme="# Merged")
    assert capfd.readouterr() == ("", "")
    adapted_base = LabelTextEncoder.load(str(base))
    with adapted_base.adapted(adapter):
        wanted = adapted_base.encode(adapted_base.tokenize(TEXTS, max_length=64))
    with quiet_loading():
        met = SentenceTransformer(str(out), device="cpu").encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)
        bare = SentenceTransformer(str(base), device="cpu").encode(
            TEXTS, convert_to_tensor=True, show_progress_bar=False
        )
        model = AutoModel.from_pretrained(out)
    assert torch.allclose(met, wanted, atol=1e-5)
    assert not torch.allclose(bare, wanted, atol=1e-2)
    assert_weights(model, by_peft(adapter, tiny_bert(), tmp_path / "adapter"))


def test_weights_kept_the_other_way_round_are_merged_too(tmp_path):
    from transformers import AutoModel

    tiny_gpt2().transformer.save_pretrained(tmp_path / "base")
    sites = {"h.0.attn.c_proj": (16, 16), "h.1.mlp.c_fc": (64, 16)}
    rng = torch.Generator().manual_seed(0)
    adapter = Lora.from_factors(
        {site: torch.randn(2, columns, generator=rng) for site, (_, columns) in sites.items()},
        {site: torch.randn(rows, 2, generator=rng) for site, (rows, _) in sites.items()},
        base_model_name_or_path="tiny",
        fan_in_fan_out=True,
    )
    merge_into_base(adapter, tmp_path / "base", tmp_path / "merged", readme="# Merged")
    wanted = by_peft(adapter, tiny_gpt2().transformer, tmp_path / "adapter")
    assert_weights(AutoModel.from_pretrained(tmp_path / "merged"), wanted)


def test_a_base_in_half_precision_and_in_shards_becomes_one_float32_file(tmp_path):
    from transformers import AutoModel

    base = tmp_path / "base"
    tiny_bert().bfloat16().save_pretrained(base, max_shard_size="4KB")
    assert len(list(base.glob("*.safetensors"))) > 1
    adapter = make(1)
    merge_into_base(adapter, base, tmp_path / "merged", readme="# Merged")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {name for name in names if "safetensors" in name} == {"model.safetensors"}
    model = AutoModel.from_pretrained(tmp_path / "merged")
    assert_weights(model, by_peft(adapter, tiny_bert().bfloat16().float(), tmp_path / "adapter"))


def test_files_beside_the_weights_are_copied_and_old_weights_are_not(tmp_path):
    base = write_tiny_encoder(tmp_path / "base")
    kept = {"vocab.txt", "tokenizer.json", "modules.json", "1_Pooling/config.json"}
    kept |= {"2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"}
    (base / "README.md").write_text("# The base")
    stale = {"pytorch_model.bin", "tf_model.h5", "model.safetensors.index.json", "onnx/model.onnx", ".cache/ref"}
    for name in (kept | stale) - {str(path.relative_to(base)) for path in base.rglob("*")}:
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(f"this is {name}")
    (base / "tokenizer.json").chmod(0o444)
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    out = tmp_path / "merged"
    merge_into_base(make(1), base, out, readme="# Merged")
    met = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    assert all(met[name].read_bytes() == (base / name).read_bytes() for name in kept)
    assert not stale & met.keys()
    assert met["README.md"].read_text() == "# Merged"
    assert met["model.safetensors"].read_bytes() != before[base / "model.safetensors"]
    assert met["tokenizer.json"].stat().st_mode & 0o200, "what was written can be written again"
    assert before == {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}


def other_bases():
    shapes = {
        "encoder.layer.7.attention.self.query": ((16, 16), "does not have"),
        "encoder.layer.0.attention": ((16, 16), "does not have"),
        DENSE: ((16, 16), r"is \(16, 16\), but the weight of the base base there is \(16, 32\)"),
    }
    return [
        (
            Lora.from_factors(
                {QUERY: torch.ones(1, 16), site: torch.ones(1, columns)},
                {QUERY: torch.ones(16, 1), site: torch.ones(rows, 1)},
                base_model_name_or_path="other",
            ),
            f"{site}.*{message}",
        )
        for site, ((rows, columns), message) in shapes.items()
    ]


@pytest.mark.parametrize(("adapter", "message"), other_bases())
def test_an_adapter_of_another_base_is_refused_and_nothing_is_written(tmp_path, adapter, message):
    base, out = tmp_path / "base", tmp_path / "out"
    tiny_bert().save_pretrained(base)
    with pytest.raises(AdapterError, match=message):
        merge_into_base(adapter, base, out / "merged", readme="# Merged")
    assert not out.exists()
    (out / "merged").mkdir(parents=True)
    (out / "merged" / "old.txt").write_text("old")
    with pytest.raises(AdapterError, match=message):
        merge_into_base(adapter, base, out / "merged", readme="# Merged")
    assert [path.name for path in out.rglob("*")] == ["merged", "old.txt"]


def test_a_base_that_is_an_adapter_is_refused(base, tmp_path):
    import shutil

    shutil.copytree(base, tmp_path / "base")
    make(1).save(tmp_path / "adapter")
    shutil.copy(tmp_path / "adapter" / "adapter_config.json", tmp_path / "base")
    with pytest.raises(ConfigError, match=r"is an adapter: it holds adapter_config\.json"):
        merge_into_base(make(1), tmp_path / "base", tmp_path / "out", readme="")


def test_a_model_that_reads_back_otherwise_is_not_kept(base, tmp_path, monkeypatch):
    from transformers import BertModel

    save = BertModel.save_pretrained

    def wrong(self, folder, **options):
        with torch.no_grad():
            self.get_submodule(QUERY).weight[0, 0] += 1
        save(self, folder, **options)
        with torch.no_grad():
            self.get_submodule(QUERY).weight[0, 0] -= 1

    monkeypatch.setattr(BertModel, "save_pretrained", wrong)
    with pytest.raises(AdapterError, match=r"does not read back as it was written at 'encoder\.layer\.1"):
        merge_into_base(make(1), base, tmp_path / "out", readme="")
    assert not (tmp_path / "out").exists()
