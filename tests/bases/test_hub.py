from contextlib import suppress

import pytest

from loragen.bases.hub import quiet_loading, resolve_model, weights_hash
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError


def test_names_resolve_to_folders(tmp_path):
    embedded = resolve_model("all-MiniLM-L6-v2")
    assert resolve_model("sentence-transformers/all-MiniLM-L6-v2") == embedded
    assert (embedded / "model.safetensors").is_file()
    assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["no-such-org/no-such-model", "./no/such/folder"])
def test_an_unknown_model_is_refused(monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=f"no model '{name}'.*embedded 'all-MiniLM-L6-v2'"):
        resolve_model(name)


def test_weights_hash(tmp_path):
    embedded = resolve_model("all-MiniLM-L6-v2")
    assert weights_hash(embedded).startswith("53aa51172d142c89")
    assert TextEncoder.load().fingerprint == "53aa51172d142c89"
    with pytest.raises(ConfigError, match=r"holds no \*\.safetensors"):
        weights_hash(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"1")
    alone = weights_hash(tmp_path)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "model.safetensors").write_bytes(b"2")
    both = weights_hash(tmp_path)
    (tmp_path / "part" / "model.safetensors").write_bytes(b"3")
    assert len({alone, both, weights_hash(tmp_path)}) == 3


@pytest.mark.parametrize(("transformers_shows", "hub_shows"), [(True, True), (True, False), (False, True)])
def test_quiet_loading_leaves_the_bars_as_they_were(transformers_shows, hub_shows):
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    (logging.enable_progress_bar if transformers_shows else logging.disable_progress_bar)()
    (enable_progress_bars if hub_shows else disable_progress_bars)()
    with suppress(KeyError), quiet_loading():
        assert not logging.is_progress_bar_enabled()
        raise KeyError
    assert (logging.is_progress_bar_enabled(), not are_progress_bars_disabled()) == (transformers_shows, hub_shows)
    logging.enable_progress_bar()


def test_a_revision_is_asked_of_the_hub(monkeypatch, tmp_path):
    """An adapter names a revision of its base; other weights must not stand in for it."""
    import huggingface_hub

    asked = []

    def snapshot(name, *, revision, **_options):
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    resolve_model("org/model@v2")
    resolve_model("org/model")
    resolve_model("sentence-transformers/all-MiniLM-L6-v2@abc123")
    assert asked == [("org/model", "v2"), ("org/model", None), ("sentence-transformers/all-MiniLM-L6-v2", "abc123")]


def test_a_folder_has_no_revisions(tmp_path):
    (tmp_path / "model").mkdir()
    assert resolve_model(f"{tmp_path / 'model'}@v2") == tmp_path / "model"


def test_a_revision_that_is_not_at_hand_is_named():
    with pytest.raises(ConfigError, match="There is no model 'org/model' of the revision v2"):
        resolve_model("org/model@v2")
