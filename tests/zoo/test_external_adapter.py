"""Adapters from elsewhere: read from folders and the Hub, with what their cards say of them."""

import pytest
from external_helpers import adapter_of

from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError, TaskError
from loragen.zoo.external_adapter import ExternalAdapter


def test_the_hub_is_asked_for_the_adapter_and_its_cards_alone(tmp_path, monkeypatch) -> None:
    adapter_of(0, 2).save(tmp_path / "snapshot", extra_files={"README.md": CARD.format(header="")})
    asked = []

    def download(name, *, allow_patterns):
        asked.append((name, sorted(allow_patterns)))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    opened = ExternalAdapter.open("hub:someone/tax-lora")
    assert asked == [
        ("someone/tax-lora", ["README.md", "adapter_config.json", "adapter_model.safetensors", "card.yaml"])
    ]
    assert (opened.id, opened.origin) == ("tax-lora", "hub:someone/tax-lora")


CARD = """---
base_model: tiny
license: apache-2.0
{header}---

# An adapter

<!-- Provide a quick summary of what the model is/does. -->

This model is a fine-tuned version of tiny.

[![badge](x.svg)](y)

| a table | of facts |
|---|---|

Answers questions about
tax law in one word.

Another paragraph follows here.
"""


@pytest.mark.parametrize(
    ("header", "told"),
    [("", "Answers questions about tax law in one word."), ("description: From the header.\n", "From the header.")],
)
def test_the_model_card_says_what_an_adapter_is_for(tmp_path, header, told) -> None:
    adapter_of(0, 2).save(tmp_path / "tax expert", extra_files={"README.md": CARD.format(header=header)})
    opened = ExternalAdapter.open(str(tmp_path / "tax expert"))
    assert (opened.id, opened.description, opened.licence) == ("tax-expert", told, "apache-2.0")
    assert (opened.base, opened.origin, opened.description_source) == ("tiny", "tax expert", "model card")
    mine = ExternalAdapter.open(str(tmp_path / "tax expert"), description="Mine.", name="mine")
    assert (mine.description, mine.description_source) == ("Mine.", "given")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("licence: CC BY 4.0\nlabels: [a, b]", "CC BY 4.0"),
        ("parents: [{licence: MIT}, {licence: CC0}, odd, {}]", "CC0; MIT"),
    ],
)
def test_what_loragen_wrote_beside_an_adapter_says_what_it_is(tmp_path, card, licence) -> None:
    adapter_of(0, 2).save(tmp_path / "own", extra_files={"card.yaml": f"description: Sort letters.\n{card}\n"})
    opened = ExternalAdapter.open(str(tmp_path / "own"))
    assert (opened.description, opened.licence) == ("Sort letters.", licence)
    assert opened.description_source == "card.yaml"
    assert opened.labels == (("a", "b") if "labels" in card else ())


def test_an_adapter_of_which_nobody_says_anything_is_refused(tmp_path) -> None:
    adapter_of(0, 2).save(
        tmp_path / "mute", extra_files={"README.md": "---\n: [\n---\n# Title\n\nMore Information Needed"}
    )
    with pytest.raises(TaskError, match=r"mute comes without a description \(its model card.*template.*--description"):
        ExternalAdapter.open(str(tmp_path / "mute"))
    adapter_of(0, 2).save(tmp_path / "cardless")
    with pytest.raises(TaskError, match=r"cardless comes without a description \(it has no model card\)"):
        ExternalAdapter.open(str(tmp_path / "cardless"))
    adapter_of(0, 2, base=None).save(tmp_path / "baseless")
    with pytest.raises(AdapterError, match="does not name its base model; give it with --base"):
        ExternalAdapter.open(str(tmp_path / "baseless"), description="Something.")
    silent = adapter_of(0, 2)
    Lora(silent.settings, silent.lora_A, {site: 0 * b for site, b in silent.lora_B.items()}).save(tmp_path / "silent")
    with pytest.raises(AdapterError, match="does nothing"):
        ExternalAdapter.open(str(tmp_path / "silent"), description="Something.")
    with pytest.raises(AdapterError, match="Hub gave no adapter 'nobody/nothing'"):
        ExternalAdapter.open("hub:nobody/nothing")
