"""No code, pickle or unasked download comes with a base, by whatever way it is opened."""

import json
import pickle
from dataclasses import replace

import hub_fakes
import pytest
from command_line import write_adapter
from models import write_tiny_encoder
from safetensors.torch import load_file

import loragen
from loragen.adapters.adapter import Lora
from loragen.bases.architecture import Architecture
from loragen.bases.open import open_base
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, LoragenError

hub = hub_fakes.hub
EVIL = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
class Evil: pass
"""
MODULES = (("", "Transformer"), ("1", "Dense"))
CLASSES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor")
DATA = loragen.Examples(("a", "b"), labels=(0, 1), label_names=("a", "b"))
FILES = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")


class Opener:
    """What a pickle that runs code looks like."""

    def __reduce__(self):
        return print, ("a pickle was read",)


@pytest.fixture
def encoder(tmp_path):
    return write_tiny_encoder(tmp_path / "encoder", seed=1)


def edit(path, **changes):
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(known | changes))


def plant(folder, *, unknown: bool):
    """Name code of the folder wherever transformers looks for it; an unknown architecture leaves nothing else."""
    (folder / "evil.py").write_text(EVIL)
    for name in FILES:
        edit(folder / name, auto_map={kind: "evil.Evil" for kind in CLASSES})
    if unknown:
        edit(folder / "config.json", model_type="evil", architectures=["Evil"])


def opened_in_every_way(folder, adapter_folder):
    adapter = loragen.Adapter.load(adapter_folder)
    ways = {
        "base": lambda: open_base(str(folder)),
        "causal": lambda: open_base(str(folder), objective="causal_lm"),
        "image": lambda: open_base(str(folder), objective="image_text"),
        "encoder": lambda: TextEncoder.load(str(folder)).encode(["warm soup"]),
        "architecture": lambda: Architecture.of(str(folder)),
        "check": lambda: loragen.check(adapter_folder),
        "classify": lambda: adapter.classify(["warm soup"], ["a", "b"]),
        "merge": lambda: adapter.merge(adapter_folder.parent / "merged"),
        "sentence transformer": adapter.sentence_transformer,
    }
    for name, way in ways.items():
        try:
            way()
        except LoragenError as error:
            yield name, error


@pytest.mark.parametrize("unknown", [False, True])
def test_code_of_a_base_never_runs(encoder, tmp_path, unknown, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked to trust it"))
    adapter = write_adapter(tmp_path / "adapter", encoder)
    plant(encoder, unknown=unknown)
    failures = dict(opened_in_every_way(encoder, adapter))
    assert not list(tmp_path.rglob("ran"))
    assert unknown <= ("base" in failures and "classify" in failures)


@pytest.mark.parametrize("kind", ["evil.Evil", "evil.Transformer", "os.Pooling", "sentence_transformers.evil.Evil"])
def test_a_module_of_another_class_is_not_imported(encoder, tmp_path, kind, monkeypatch):
    monkeypatch.syspath_prepend(encoder)
    (encoder / "evil.py").write_text(EVIL)
    own = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (encoder / "modules.json").write_text(json.dumps([own, {"idx": 1, "name": "1", "path": "1_Evil", "type": kind}]))
    (encoder / "1_Evil").mkdir()
    adapter = loragen.Adapter.load(write_adapter(tmp_path / "adapter", encoder))
    with pytest.raises(ConfigError, match="no code that comes with a model is run"):
        TextEncoder.load(str(encoder)).encode(["warm soup"])
    with pytest.raises(ConfigError, match="no code that comes with a model is run"):
        adapter.sentence_transformer()
    assert not list(tmp_path.rglob("ran"))


def test_an_activation_of_another_class_is_not_imported(encoder, monkeypatch):
    monkeypatch.syspath_prepend(encoder)
    (encoder / "evil.py").write_text(EVIL)
    listed = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in MODULES]
    (encoder / "modules.json").write_text(json.dumps(listed))
    (encoder / "1").mkdir()
    edit(encoder / "1" / "config.json", in_features=16, out_features=4, activation_function="evil.Evil")
    with pytest.raises(ConfigError, match=r"has the module 'evil.Evil'"):
        TextEncoder.load(str(encoder)).encode(["warm soup"])
    assert not list(encoder.rglob("ran"))


@pytest.mark.parametrize(
    "listed", ["{", "[1]", "{}", '[{"type": 1, "path": ""}]', '[{"type": "a.Pooling", "path": "../.."}]', "[" * 100_000]
)
def test_a_damaged_list_of_modules_is_one_line(encoder, listed):
    (encoder / "modules.json").write_text(listed)
    for way in (lambda: open_base(str(encoder)), lambda: TextEncoder.load(str(encoder)).encode(["warm soup"])):
        with pytest.raises(ConfigError, match=r"modules\.json"):
            way()


def test_a_base_of_pickles_alone_is_refused_unread(encoder, tmp_path, capfd):
    adapter = write_adapter(tmp_path / "adapter", encoder)
    assert load_file(encoder / "model.safetensors")
    (encoder / "model.safetensors").unlink()
    (encoder / "pytorch_model.bin").write_bytes(pickle.dumps(Opener()))
    failures = dict(opened_in_every_way(encoder, adapter))
    assert {"base", "encoder", "classify", "merge", "sentence transformer"} <= failures.keys()
    assert "a pickle was read" not in capfd.readouterr().out


# --- a base that an adapter names ---


@pytest.fixture
def on_hub(hub, encoder, tmp_path):
    hub.repos["org/base", "main"] = encoder
    return write_adapter(tmp_path / "adapter", "org/base")


@pytest.mark.parametrize("way", ["classify", "merge", "evaluate", "sentence_transformer"])
@pytest.mark.parametrize("task_type", ["FEATURE_EXTRACTION", None])
def test_a_base_that_an_adapter_names_is_not_fetched_unasked(hub, on_hub, tmp_path, way, task_type):
    lora = Lora.load(on_hub)
    replace(lora, settings=replace(lora.settings, task_type=task_type)).save(tmp_path / "other")
    adapter = loragen.Adapter.load(tmp_path / "other")
    ways = {
        "classify": lambda: adapter.classify(["warm soup"], ["a", "b"]),
        "merge": lambda: adapter.merge(tmp_path / "merged"),
        "evaluate": lambda: loragen.evaluate(adapter, DATA),
        "sentence_transformer": adapter.sentence_transformer,
    }
    if way == "sentence_transformer" and task_type is None:
        pytest.skip("an adapter of no text encoder is refused before")
    with pytest.raises(ConfigError, match=r"base 'org/base' is not on this machine .* --base org/base\."):
        ways[way]()
    loragen.check(tmp_path / "other")
    assert (hub.asked, hub.fetched) == ([], [])


def test_a_base_that_the_user_names_is_fetched_and_then_at_hand(hub, on_hub):
    assert loragen.classify(on_hub, ["warm soup"], ["a", "b"], base="org/base")
    assert "model.safetensors" in hub.fetched
    hub.asked.clear()
    assert loragen.Adapter.load(on_hub).classify(["warm soup"], ["a", "b"])
    combined = loragen.combine([on_hub]).adapter
    assert combined.classify(["warm soup"], ["a", "b"])
    assert hub.asked == []


def test_a_base_of_which_the_cache_holds_the_config_alone_is_not_at_hand(hub, on_hub):
    loragen.check(on_hub, base="org/base")
    assert set(hub.fetched) == {"config.json"}
    with pytest.raises(ConfigError, match="its weights are not in the cache"):
        loragen.Adapter.load(on_hub).classify(["warm soup"], ["a", "b"])
    assert set(hub.fetched) == {"config.json"}


@pytest.mark.parametrize("name", ["~nobody-at-all/x", "x\0y", "x" * 5_000, "../x", "org/name@../..", "\ud800", "a\nb"])
def test_a_base_of_no_name_is_one_line(name):
    with pytest.raises(ConfigError) as caught:
        open_base(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800
