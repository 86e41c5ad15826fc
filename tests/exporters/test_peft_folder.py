import pytest
import torch
from made_cards import make_card, make_generation

from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError
from loragen.exporters.card import GeneratedCard
from loragen.exporters.peft_folder import write_adapter


@pytest.fixture
def generation(tiny_zoo):
    return make_generation(tiny_zoo)


@pytest.fixture
def card(generation, tiny_zoo):
    return make_card(generation, tiny_zoo)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_adapter_is_written_with_card_and_model_card(generation, card, tmp_path):
    written = write_adapter(generation.adapter, card, tmp_path / "new" / "adapter")
    assert contents(written.folder).keys() == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "card.yaml",
        "README.md",
        ".loragen.json",
    }
    read = Lora.load(written.folder)
    assert read.spec == generation.adapter.spec
    for site in read.sites:
        assert torch.equal(read.delta_weight(site), generation.adapter.delta_weight(site))
    assert written.norm == pytest.approx(generation.adapter.norm())
    assert (written.sites, written.r) == (3, 2)
    assert GeneratedCard.from_yaml(written.folder / "card.yaml") == card


def test_the_same_generation_gives_the_same_bytes_in_every_file(generation, card, tiny_zoo, tmp_path):
    write_adapter(generation.adapter, card, tmp_path / "one")
    write_adapter(generation.adapter, make_card(generation, tiny_zoo), tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    write_adapter(generation.adapter, make_card(generation, tiny_zoo, seed=4), tmp_path / "three")
    assert contents(tmp_path / "three") != contents(tmp_path / "one")


def test_an_adapter_takes_the_place_of_an_older_one(generation, card, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "card.yaml").write_text("old")
    write_adapter(generation.adapter, card, folder)
    assert contents(folder)["card.yaml"] != b"old"
    assert list(tmp_path.iterdir()) == [folder]


def test_an_adapter_that_does_nothing_is_refused_and_nothing_is_written(generation, card, tmp_path):
    adapter = generation.adapter
    zero = Lora(adapter.settings, adapter.lora_A, {site: b * 0 for site, b in adapter.lora_B.items()})
    with pytest.raises(AdapterError, match=r"unchanged.*nothing was written"):
        write_adapter(zero, card, tmp_path / "new" / "adapter")
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_comes_back_changed_is_named(generation, card, tmp_path, monkeypatch):
    adapter = generation.adapter
    other = Lora(adapter.settings, adapter.lora_A, {site: 1.1 * b for site, b in adapter.lora_B.items()})
    monkeypatch.setattr(Lora, "load", lambda _folder: other)
    with pytest.raises(AdapterError, match=r"adapter does not read back as it was written"):
        write_adapter(generation.adapter, card, tmp_path / "adapter")
