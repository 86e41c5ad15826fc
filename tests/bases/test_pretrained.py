"""Bases that cannot be loaded: each is one line that says what was met and the way out."""

import json
import shutil

import pytest
from families import write_base
from models import write_tiny_encoder

from loragen.bases.hub import resolve_model, split_revision
from loragen.bases.open import open_base
from loragen.bases.pretrained import load_pretrained
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("bases") / "bert", "bert")


@pytest.fixture
def base(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "base")


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def refusal(folder, load=open_base):
    with pytest.raises(ConfigError) as met:
        load(str(folder))
    said = str(met.value)
    assert "\n" not in said
    assert len(said) < 700
    return said


def embed(folder):
    return TextEncoder.load(folder).encode(["soup"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantised ('gptq')"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "is quantised ('awq')"),
        ({"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}, "is quantised ('fp8')"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "is quantised ('mxfp4')"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "('bitsandbytes')"),
        ({"quantization_config": {"load_in_8bit": True}}, "('bitsandbytes')"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "('compressed-tensors')"),
        ({"compression_config": {"format": "x"}}, "is quantised, and"),
        ({"text_config": {"quantization_config": {"quant_method": "hqq"}}}, "('hqq')"),
    ],
)
def test_a_quantised_base_is_named_as_one(base, settings, said):
    change_config(base, **settings)
    met = refusal(base)
    assert said in met
    assert "name the model that it was quantised from with --base" in met
    assert "with --encoder" in refusal(base, embed)


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


DAMAGES = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    "an empty folder": (empty, "is empty"),
    "config cut off": (lambda folder: (folder / "config.json").write_text('{"model_type": "be'), "no readable JSON"),
    "config of brackets": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "no readable JSON"),
    "config of another kind": (lambda folder: (folder / "config.json").write_text("[]"), "holds no mapping"),
    "config as a pointer": (lambda folder: (folder / "config.json").write_bytes(POINTER), "run `git lfs pull`"),
    "no model type": (lambda folder: (folder / "config.json").write_text("{}"), "cannot be loaded"),
    "unknown model type": (lambda folder: change_config(folder, model_type="own"), "cannot be loaded"),
    "sizes of text": (lambda folder: change_config(folder, hidden_size="many"), "cannot be loaded"),
    "other sizes": (lambda folder: change_config(folder, hidden_size=32), "cannot be loaded"),
    "code of its own": (
        lambda folder: change_config(folder, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModel": "own.M"}),
        "No code that comes with a model is run",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    "pickles": (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "as pickles"),
    "weights as a pointer": (lambda folder: (folder / "model.safetensors").write_bytes(POINTER), "run `git lfs pull`"),
    "weights cut off": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000]),
        "cannot be loaded",
    ),
    "weights of nothing": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "cannot be loaded"),
    "an adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "is an adapter"),
    "a layer too few": (lambda folder: change_config(folder, num_hidden_layers=3), "has no weights for 'encoder.layer"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_base_is_one_line(base, damage, capfd):
    spoil, said = DAMAGES[damage]
    spoil(base)
    assert said in refusal(base)
    if "code" in damage:
        (base / "own.py").write_text("raise SystemExit")
        assert said in refusal(base)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_encoder_of_descriptions_is_one_line(tmp_path, damage):
    folder = write_tiny_encoder(tmp_path / "encoder")
    if damage == "an empty folder":
        shutil.rmtree(folder)
        folder.mkdir()
    else:
        DAMAGES[damage][0](folder)
    assert "--encoder" in (met := refusal(folder, embed)) or "git lfs pull" in met or "fetch" in met


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_damaged_tokenizer_is_one_line(base, content):
    for path in base.glob("*token*"):
        path.unlink()
    if content is not None:
        (base / "tokenizer.json").write_text(content)
        (base / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert "cannot be loaded with its tokenizer" in refusal(base)


def test_a_language_model_without_its_head_is_refused(tmp_path):
    import transformers

    write_base(tmp_path / "llama", "llama", tie_word_embeddings=False)
    transformers.LlamaModel.from_pretrained(tmp_path / "llama").save_pretrained(tmp_path / "llama")
    with pytest.raises(ConfigError, match=r"has no weights for 'lm_head\.weight' of LlamaForCausalLM"):
        open_base(str(tmp_path / "llama"), objective="causal_lm")


def test_what_a_checkpoint_lacks_and_has_too_much_is_told(tmp_path):
    import transformers

    config = transformers.BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    loaded = load_pretrained("tiny", tmp_path, "AutoModel")
    assert loaded.made_up == {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(name.startswith("cls.predictions.") for name in loaded.left_out)
    assert loaded.left_out
    loaded.refuse_made_up("tiny")  # nothing reads the pooler


@pytest.mark.parametrize(
    "name",
    [
        *("/elsewhere/llama", "/elsewhere/llama/", "\\".join(("C:", "x")), "/".join(("C:", "x")), "a\\b"),
        *("./models/x", "../x", "~nobody/x", "~/no/such", "models/of/bob", "a" * 5000, "x\0y"),
    ],
)
def test_a_path_of_another_machine_is_said_to_be_one(name):
    with pytest.raises(ConfigError) as met:
        resolve_model(name)
    said = str(met.value)
    assert "looks like a path, perhaps of another machine" in said
    assert "with --base" in said
    assert len(said) < 400
    with pytest.raises(ConfigError, match="--encoder"):
        TextEncoder.load(name)


def test_a_file_is_no_base(tmp_path):
    (tmp_path / "model.bin").write_text("x")
    with pytest.raises(ConfigError, match="is a file; give the folder"):
        resolve_model(str(tmp_path / "model.bin"))


def test_spellings_of_a_folder_find_it(tmp_path, monkeypatch):
    (tmp_path / "me@work" / "model").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "me@work" / "model"
    for name in (str(folder), f"{folder}/", "~/me@work/model", "~/me@work/model/"):
        assert resolve_model(name) == folder
        assert split_revision(name) == (name, None)
    assert resolve_model("sentence-transformers/all-MiniLM-L6-v2/") == resolve_model("all-MiniLM-L6-v2")
    assert split_revision("org/model@v2") == ("org/model", "v2")
