"""Adapters from elsewhere: read from folders and the Hub, with what their cards say of them."""

import hub_fakes
import pytest
from external_helpers import adapter_of

from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError, ConfigError, TaskError
from loragen.files import sha256_of
from loragen.zoo.external_adapter import ExternalAdapter
from loragen.zoo.import_adapters import import_adapters
from loragen.zoo.zoo import Zoo

hub = hub_fakes.hub


@pytest.fixture
def repo(hub, tmp_path):
    """An adapter on the Hub, under the names of two commits, with one in a subfolder and files that nobody wants."""
    extra = {"README.md": CARD.format(header=""), "adapter_model.bin": b"pickle", "code.py": "raise SystemExit"}
    adapter_of(0, 2).save(tmp_path / "repo", extra_files=extra)
    adapter_of(1, 2).save(tmp_path / "repo" / "checkpoint-9", extra_files=extra)
    hub.repos["someone/tax-lora", "main"] = hub.repos["someone/tax-lora", "v1"] = tmp_path / "repo"
    return tmp_path / "repo"


def test_the_hub_is_asked_for_the_adapter_and_its_cards_alone(hub, repo) -> None:
    opened = ExternalAdapter.open("hub:someone/tax-lora")
    assert sorted(hub.fetched) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert (opened.id, opened.origin) == ("tax-lora", "hub:someone/tax-lora")
    assert opened.commit == hub.commit("someone/tax-lora", "main")
    assert opened.sha256 == sha256_of(repo / "adapter_model.safetensors")


@pytest.mark.parametrize("revision", ["v1", "commit"])
def test_a_commit_is_fetched_and_recorded(hub, repo, tmp_path, revision) -> None:
    commit = hub.commit("someone/tax-lora", "v1")
    source = f"hub:someone/tax-lora@{commit if revision == 'commit' else revision}/checkpoint-9"
    import_adapters([source], tmp_path / "zoo", base="tiny")
    card = Zoo.open(tmp_path / "zoo").card("tax-lora-checkpoint-9")
    assert (card.origin, card.provenance.commit) == (source, commit)
    assert card.provenance.sha256 == sha256_of(repo / "checkpoint-9" / "adapter_model.safetensors")
    assert f"commit: {commit}" in card.to_yaml()


def test_an_adapter_that_is_too_large_is_not_fetched(hub, repo) -> None:
    hub.sizes["adapter_model.safetensors"] = 5_000_000_000
    with pytest.raises(AdapterError, match=r"gave no adapter 'someone/tax-lora' \(it is 3 files of 5.0 GB"):
        ExternalAdapter.open("hub:someone/tax-lora")
    assert hub.fetched == []


def test_the_weights_of_a_folder_are_known_by_their_hash_too(tmp_path) -> None:
    adapter_of(0, 2).save(tmp_path / "own")
    opened = ExternalAdapter.open(str(tmp_path / "own"), description="Mine.")
    assert (opened.commit, opened.sha256) == ("", sha256_of(tmp_path / "own" / "adapter_model.safetensors"))


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".x", "", "a\\b", "x\n", "x" * 101, "~x", "a\0", "é"])
def test_an_id_that_is_no_name_is_refused_and_nothing_is_written(tmp_path, name) -> None:
    adapter_of(0, 2).save(tmp_path / "own")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="No expert can be called"):
        import_adapters([str(tmp_path / "own")], tmp_path / "zoo", ids=[name], descriptions=["Mine."])
    assert sorted(tmp_path.rglob("*")) == before


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
