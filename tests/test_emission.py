import re
from importlib.metadata import version

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.config import read_yaml
from loragen.errors import AdapterError
from loragen.exporters.card import GeneratedCard, card_of, slug
from loragen.exporters.peft_folder import write_adapter
from loragen.generators.base import Generation
from loragen.recipes.few_shot import FewShotRecipe
from loragen.zoo.expert_index import Neighbour

DESCRIPTION = 'Sort "mail": urgent, or not?\n  Answer: one word.'
NEIGHBOURS = (Neighbour("rain", 0.81234567, 0.75), Neighbour("bank", 0.5, 0.25), Neighbour("news", 0.1, 0.0))


@pytest.fixture
def generation(tiny_zoo) -> Generation:
    adapter = weighted_sum([tiny_zoo.adapter(n.id) for n in NEIGHBOURS[:2]], [n.weight for n in NEIGHBOURS[:2]])
    return Generation(adapter, NEIGHBOURS)


@pytest.fixture
def card(generation, tiny_zoo) -> GeneratedCard:
    return make_card(generation, tiny_zoo)


def make_card(generation, zoo, **changes) -> GeneratedCard:
    values = {
        "description": DESCRIPTION,
        "generator": "topk",
        "seed": 3,
        "sample": 1,
        "encoder": "some-encoder",
        "encoder_hash": "e" * 16,
    }
    return card_of(generation, zoo, **(values | changes))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- what is written ------------------------------------------------------------------------------------------------


def test_an_adapter_is_written_with_card_and_model_card(generation, card, tmp_path):
    written = write_adapter(generation, card, tmp_path / "new" / "adapter")
    assert contents(written.folder).keys() == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "card.yaml",
        "README.md",
    }
    read = Lora.load(written.folder)
    assert read.spec == generation.adapter.spec
    for site in read.sites:
        assert torch.equal(read.delta_weight(site), generation.adapter.delta_weight(site))
    assert written.norm == pytest.approx(generation.adapter.norm())
    assert (written.sites, written.r) == (3, 2)
    assert GeneratedCard.from_yaml(written.folder / "card.yaml") == card


def test_the_same_generation_gives_the_same_bytes_in_every_file(generation, card, tiny_zoo, tmp_path):
    write_adapter(generation, card, tmp_path / "one")
    write_adapter(generation, make_card(generation, tiny_zoo), tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    write_adapter(generation, make_card(generation, tiny_zoo, seed=4), tmp_path / "three")
    assert contents(tmp_path / "three") != contents(tmp_path / "one")


def test_an_adapter_takes_the_place_of_an_older_one(generation, card, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    write_adapter(generation, card, folder)
    assert "old.txt" not in contents(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_an_adapter_that_does_nothing_is_refused_and_nothing_is_written(generation, card, tmp_path):
    adapter = generation.adapter
    zero = Lora(adapter.settings, adapter.lora_A, {site: b * 0 for site, b in adapter.lora_B.items()})
    with pytest.raises(AdapterError, match=r"unchanged.*nothing was written"):
        write_adapter(Generation(zero, NEIGHBOURS), card, tmp_path / "new" / "adapter")
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_comes_back_changed_is_named(generation, card, tmp_path, monkeypatch):
    adapter = generation.adapter
    other = Lora(adapter.settings, adapter.lora_A, {site: 1.1 * b for site, b in adapter.lora_B.items()})
    monkeypatch.setattr(Lora, "load", lambda _folder: other)
    with pytest.raises(AdapterError, match=r"adapter does not read back as it was written"):
        write_adapter(generation, card, tmp_path / "adapter")


# --- what is said of it ---------------------------------------------------------------------------------------------


def test_the_card_says_where_the_adapter_comes_from(card, tiny_zoo):
    assert (card.description, card.generator, card.seed, card.sample) == (DESCRIPTION, "topk", 3, 1)
    assert (card.base, card.base_hash) == ("tiny-base", "0" * 64)
    assert (card.zoo, card.zoo_hash) == ("tiny", tiny_zoo.fingerprint)
    assert (card.encoder, card.encoder_hash) == ("some-encoder", "e" * 16)
    assert card.versions == {name: version(name) for name in ("loragen", "torch")}
    assert [(p.id, p.similarity, p.weight, p.licence) for p in card.parents] == [
        ("rain", 0.8123, 0.75, "MIT"),
        ("bank", 0.5, 0.25, "CC BY 4.0"),
    ], "who has no weight is no parent"


def test_the_model_card_is_one_that_the_hub_can_read(generation, card, tmp_path):
    write_adapter(generation, card, tmp_path / "adapter")
    text = (tmp_path / "adapter" / "README.md").read_text()
    _, header, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    assert yaml.safe_load(header) == {
        "base_model": "tiny-base",
        "library_name": "peft",
        "tags": ["lora", "loragen", "generated"],
    }
    assert '# LoRA for: Sort "mail": urgent, or not? Answer: one word.\n' in body
    assert "rank 2 at 3 sites" in body
    assert "seed 3, sample 1" in body
    assert "Licences of the data behind these experts: CC BY 4.0; MIT." in body
    rows = [line.split(" | ") for line in body.splitlines() if line.startswith(("| rain", "| bank", "| news"))]
    assert [row[:4] for row in rows] == [["| rain", "0.812", "0.750", "MIT"], ["| bank", "0.500", "0.250", "CC BY 4.0"]]


def test_a_model_card_names_twenty_experts_and_counts_the_rest(generation, card, tmp_path):
    many = card.model_copy(update={"parents": card.parents[:1] * 23})
    write_adapter(generation, many, tmp_path / "adapter")
    text = (tmp_path / "adapter" / "README.md").read_text()
    assert text.count("| rain |") == 20
    assert "3 further experts are in `card.yaml`" in text
    assert len(read_yaml(tmp_path / "adapter" / "card.yaml")["parents"]) == 23


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "the description above, without data of the task: no training."),
        ({"examples": 7}, "the description above and 7 texts of the task: no training."),
        (
            {"labels": ["spam", "ham"]},
            "above and the names of its 2 labels (in `card.yaml`), without data of the task: no training.",
        ),
        ({"labels": ["spam", "ham"], "examples": 7}, "labels (in `card.yaml`) and 7 texts of the task: no training."),
        ({"examples": 7, "fitted": FewShotRecipe(steps=9)}, "7 texts of the task, and then fitted to these in 9"),
    ],
)
def test_the_model_card_says_what_the_generator_was_told(generation, tiny_zoo, tmp_path, told, said):
    card = make_card(generation, tiny_zoo, **told)
    write_adapter(generation, card, tmp_path / "adapter")
    assert said in (tmp_path / "adapter" / "README.md").read_text()
    assert GeneratedCard.from_yaml(tmp_path / "adapter" / "card.yaml") == card
    assert card.labels == tuple(told.get("labels", ()))


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_slug_is_the_first_words_of_a_description():
    assert slug("Is this e-mail SPAM, or is it ham? Say so in one word.") == "is-this-e-mail-spam-or-is-it"
    assert slug("Sort café reviews", words=2) == "sort-caf"
    assert slug("  ...  ") == slug("") == slug("日本語") == "task"


@given(st.text())
def test_a_slug_is_always_a_good_folder_name(description):
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,79}", slug(description))
