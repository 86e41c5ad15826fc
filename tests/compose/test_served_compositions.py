"""Compositions of a server: listed, answered with beside other adapters, and given out whole."""

from pathlib import Path

import pytest
import torch
from compose_tools import TEXTS

from loragen.compose.making import compose_experts
from loragen.errors import AdapterError
from loragen.inference import Adapter
from loragen.serving.batcher import Embed
from loragen.serving.settings import Limits
from loragen.serving.store import AdapterStore


@pytest.fixture
def store(base, experts, tmp_path):
    adapters = [Adapter(lora, base.name, labels=("soup", "tea")) for lora in experts.loras]
    kept = AdapterStore(tmp_path / "adapters", base, Limits())
    kept.add("plain", adapters[0])
    for name in ("arrow", "mora"):
        compose_experts(adapters, method=name).adapter.save(tmp_path / "adapters" / name)
    return kept


def test_compositions_are_listed_and_counted(store):
    found, broken = store.listed()
    assert [facts.name for facts in found] == ["arrow", "mora", "plain"]
    assert not broken
    assert found[0].labels == ("soup", "tea")
    assert store.get("arrow").bytes > 3 * store.get("plain").bytes > 0


def test_a_batch_of_all_kinds_gives_each_what_it_gets_alone(store, base):
    rows = base.tokenize(TEXTS, max_length=32)
    works = [Embed(rows[at : at + 2], store.get(name).factors) for name in ("arrow", "plain", "mora") for at in (0, 2)]
    works.append(Embed(rows, {}))
    Embed.compute(base, works)
    names = ("arrow", "plain", "mora")
    for number, name in enumerate(names):
        found = torch.cat([work.done.result() for work in works[2 * number : 2 * number + 2]])
        applied = store.get(name).factors
        with base.using(applied) if isinstance(applied, dict) else applied.put_on(base):
            assert torch.allclose(found, base.encode(rows), atol=1e-5)
    assert torch.allclose(works[-1].done.result(), base.encode(rows), atol=1e-5)


def test_a_composition_is_given_out_with_its_experts(store):
    files = store.folders.files("arrow")
    assert {"composition.yaml", "gates.safetensors", "experts/expert-1/adapter_model.safetensors"} <= files.keys()
    assert not any(Path(name).name.startswith(".") for name in files)
    assert set(store.folders.files("plain")) >= {"adapter_config.json", "adapter_model.safetensors"}


def test_links_in_a_composition_are_not_followed(store, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (store.folders.root / "arrow" / "experts" / "leak").symlink_to(tmp_path)
    assert not any("leak" in name for name in store.folders.files("arrow"))


def test_a_damaged_composition_is_told_and_others_stay(store):
    (store.folders.root / "arrow" / "gates.safetensors").unlink()
    found, broken = store.listed()
    assert [facts.name for facts in found] == ["mora", "plain"]
    assert "gate tensor" in broken["arrow"]
    with pytest.raises(AdapterError):
        store.get("arrow")


def test_a_composition_is_deleted_whole(store):
    store.remove("mora")
    assert store.folders.names() == ["arrow", "plain"]
