import ast
import re
from importlib.metadata import version

import pytest
import yaml
from made_cards import DESCRIPTION, make_card, make_generation
from markdown_it import MarkdownIt

from loragen.bases.wording import Chat
from loragen.config import read_yaml
from loragen.exporters.card import GeneratedCard, merged_card, model_card
from loragen.exporters.peft_folder import write_adapter
from loragen.recipes.few_shot import FewShotRecipe
from loragen.recipes.few_shot_choice import FitChoice, Trial


@pytest.fixture
def generation(tiny_zoo):
    return make_generation(tiny_zoo)


@pytest.fixture
def card(generation, tiny_zoo):
    return make_card(generation, tiny_zoo)


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
    write_adapter(generation.adapter, card, tmp_path / "adapter")
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


def test_a_model_card_says_what_prompts_begin_with(generation, card):
    told = card.model_copy(update={"wording": Chat(system="Say it.\nNow."), "labels": ("spam",)})
    said = "\n- prompts: each begins with the system turn `Say it. Now.`\n- labels of the task: spam\n"
    assert said in model_card(told, generation.adapter)
    assert "- prompts:" not in model_card(card, generation.adapter)


def test_a_model_card_names_twenty_experts_and_counts_the_rest(generation, card, tmp_path):
    many = card.model_copy(update={"parents": card.parents[:1] * 23})
    write_adapter(generation.adapter, many, tmp_path / "adapter")
    text = (tmp_path / "adapter" / "README.md").read_text()
    assert text.count("| rain |") == 20
    assert "3 further experts are in `card.yaml`" in text
    assert len(read_yaml(tmp_path / "adapter" / "card.yaml")["parents"]) == 23


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "the description above, without data of the task: no training."),
        ({"examples": 7}, "the description above and 7 examples of the task: no training."),
        ({"labels": ["spam", "ham"]}, "descriptions embedded by `some-encoder`\n- labels of the task: spam, ham\n"),
        (
            {"examples": 7, "fitted": FewShotRecipe(steps=9)},
            "7 examples of the task: then fitted to the examples in 9 steps.",
        ),
    ],
)
def test_the_model_card_says_what_the_adapter_was_made_from(generation, tiny_zoo, tmp_path, told, said):
    card = make_card(generation, tiny_zoo, **told)
    write_adapter(generation.adapter, card, tmp_path / "adapter")
    assert said in (tmp_path / "adapter" / "README.md").read_text()
    assert GeneratedCard.from_yaml(tmp_path / "adapter" / "card.yaml") == card
    assert card.labels == tuple(told.get("labels", ()))


def parts(text):
    _, header, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(header), body


def test_a_merged_model_names_its_base_and_its_adapter(generation, card):
    header, body = parts(merged_card("org/base", generation.adapter, card))
    assert header == {"base_model": "org/base", "library_name": "transformers", "tags": ["loragen", "merged"]}
    assert '# org/base with a LoRA for: Sort "mail": urgent, or not? Answer: one word.\n' in body
    assert "The base model `org/base` with an adapter merged into its weights by loragen" in body
    assert f"rank\n2 at 3 sites, Frobenius norm {generation.adapter.norm():.3f}" in body
    assert "generator: `topk`, seed 3, sample 1" in body
    assert "| rain | 0.812 | 0.750 | MIT |" in body


def test_a_merged_model_without_a_card_says_what_is_known(generation):
    header, body = parts(merged_card("org/base", generation.adapter, None))
    assert header["base_model"] == "org/base"
    assert "# org/base with a LoRA\n" in body
    assert "Experts" not in body


def test_names_that_look_like_markup_are_no_markup(generation, tiny_zoo):
    card = make_card(
        generation, tiny_zoo, description="Is it [a](b) | <b>?", labels=["a|b", "[c]"], generator="my[v1]|`x"
    )
    card = card.model_copy(
        update={"base": "C:\\my [base]", "parents": tuple(p.model_copy(update={"id": "a|b"}) for p in card.parents)}
    )
    header, body = parts(model_card(card, generation.adapter))
    assert header["base_model"] == "C:\\my [base]"
    assert "# LoRA for: Is it \\[a\\](b) \\| \\<b\\>?\n" in body
    assert "labels of the task: a\\|b, \\[c\\]\n" in body
    assert "- generator: my\\[v1\\]\\|\\`x, seed" in body
    assert "- base model: `C:\\my [base]` (weights" in body
    assert "| a\\|b | 0.812" in body
    assert "AutoModel.from_pretrained('C:\\\\my [base]')" in body


ATTACKS = [
    'x"); import os; os.system("id"); ("',
    "x'); import os; ('",
    "x\n```\n<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "\n---\nlicense: mit\n---\n# a",
    "a|b`c``d\\",
    "\u202eevil\u2066\x1b[31m",
    "😀 日本語",
]


def kinds(markdown: str) -> set[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    return {inner.type for token in tokens for inner in (token, *(token.children or ()))}


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_that_others_wrote_begins_anything_in_a_card(generation, tiny_zoo, text):
    plain_card = make_card(generation, tiny_zoo)
    parents = tuple(p.model_copy(update=dict.fromkeys(("id", "licence", "origin"), text)) for p in plain_card.parents)
    own = dict.fromkeys(("description", "generator", "encoder", "base", "zoo", "base_hash", "zoo_hash"), text)
    versions = {"versions": dict.fromkeys(plain_card.versions, text)}
    card = plain_card.model_copy(update=own | versions | {"labels": (text, text), "parents": parents})
    for written, usual in (
        (model_card(card, generation.adapter), model_card(plain_card, generation.adapter)),
        (merged_card(text, generation.adapter, card), merged_card("a/b", generation.adapter, plain_card)),
        (merged_card(text, generation.adapter, None), merged_card("a/b", generation.adapter, None)),
    ):
        (header, body), (usual_header, _) = parts(written), parts(usual)
        assert header == usual_header | {"base_model": text}
        assert kinds(body) <= kinds(usual)
        assert kinds(written) <= kinds(usual), "also where the header is shown as text"
        assert all(line.isprintable() for line in written.split("\n"))
        for code in re.findall(r"```python\n(.*?)```", body, re.DOTALL):
            names = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
            assert sorted(names) == sorted([text, "path/to/this/folder"])
            assert len(ast.parse(code).body) == 3, "two imports and a call"


@pytest.mark.parametrize(
    ("steps", "strength", "best_of", "said"),
    [
        (
            6,
            1,
            None,
            "7 examples of the task: then fitted to the examples in 6 steps, as cross-validation within them chose",
        ),
        (6, 0.5, None, "fitted to the examples in 6 steps, 0.5 of the way, as cross-validation"),
        (0, 0, None, "then left so, since cross-validation within the examples preferred that to every fit"),
        (6, 1, 4, "7 examples of the task, as the best on these of 4 that were drawn: then fitted"),
    ],
)
def test_the_model_card_says_how_far_a_fit_went(generation, tiny_zoo, steps, strength, best_of, said):
    trial = Trial(steps=steps, strength=strength, loss=0.3, accuracy=0.9)
    choice = FitChoice(steps=steps, strength=strength, folds=3, examples=7, trials=(trial,))
    card = make_card(generation, tiny_zoo, examples=7, fitted=FewShotRecipe(), choice=choice, best_of=best_of)
    assert said in model_card(card, generation.adapter)
