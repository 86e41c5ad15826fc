"""How tasks are put to language models: plain prompts, and the turns of a chat in the tokenizer's own template."""

import json

import pytest
from families import write_base

from loragen.bases.language_model import with_wording
from loragen.bases.open import open_base
from loragen.bases.wording import Chat, telling
from loragen.errors import ConfigError
from loragen.exporters.card import GeneratedCard
from loragen.inference import Adapter
from loragen.recipes.expert import ExpertRecipe
from loragen.tasks.examples import Examples

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<s>system\nBe kind</s>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] | trim }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% else %}{{ eos_token }}{% endif %}"
)
TEXTS = Examples(("a soup", "cold </s> tea"), labels=(0, 1), label_names=("soup", "tea"))
OPEN = Examples(("a soup", "tea"), completions=("bread", "cold"))


def chatting(folder, template=CHATML, family="llama", **options):
    write_base(folder, family)
    (folder / "chat_template.jinja").write_text(template)
    return open_base(str(folder), objective="causal_lm", **options)


def said(base, rows) -> list[str]:
    return [base.tokenizer.decode(list(row)) for row in rows]


def test_a_text_is_the_users_turn_and_its_label_the_assistants(tmp_path) -> None:
    base = chatting(tmp_path, prompt=Chat())
    data = base.prepare(TEXTS, max_length=60)
    assert said(base, data.ids) == [
        f"<s>system\nBe kind</s>\n<s>user\n{text}</s>\n<s>assistant\n" for text in TEXTS.texts
    ]
    assert said(base, data.label_ids) == ["soup</s>", "tea</s>"]
    turns = [{"role": "user", "content": "a soup"}, {"role": "assistant", "content": "soup"}]
    whole = base.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert [*data.ids[0], *data.label_ids[0]] == whole[: len(data.ids[0]) + len(data.label_ids[0])]


def test_marks_of_a_chat_within_a_text_are_plain_words(tmp_path) -> None:
    base = chatting(tmp_path, prompt=Chat())
    data = base.prepare(TEXTS, max_length=60)
    ends = [list(row).count(base.tokenizer.eos_token_id) for row in data.ids]
    assert ends == [2, 2], "those of the two turns, and none of the text"


def test_the_description_is_the_system_turn_of_a_base_that_is_told(tmp_path) -> None:
    base = chatting(tmp_path, prompt=Chat(told="Task: {description}", user="Text: {text}"))
    for examples in (TEXTS, OPEN):
        data = base.prepare(examples, max_length=60, instruction="Name the drink.")
        assert said(base, data.ids)[0] == (
            "<s>system\nTask: Name the drink.</s>\n<s>user\nText: a soup</s>\n<s>assistant\n"
        )
    assert said(base, data.label_ids) == ["bread</s>", "cold</s>"]
    with pytest.raises(ConfigError, match="holds '</s>', a mark of the base's chats"):
        base.prepare(TEXTS, max_length=60, instruction="Name </s> it.")


def test_a_template_without_a_system_turn_gets_it_in_the_users(tmp_path) -> None:
    base = chatting(tmp_path, NO_SYSTEM, prompt=Chat())
    data = base.prepare(OPEN, max_length=60, instruction="Name the drink.")
    assert said(base, data.ids)[0] == "<s>[user]Name the drink.\n\na soup[assistant]"
    assert said(base, data.label_ids)[0] == "bread</s>"


def test_a_plain_prompt_is_told_in_front_of_the_text_and_labels_stay(tmp_path) -> None:
    base = chatting(tmp_path)
    data = base.prepare(TEXTS, max_length=20, instruction="Name the drink, if there is any in this text.")
    assert said(base, data.ids)[0] == "<s>Name the drink, if there is any in this text. a soup\nLabel:"
    assert said(base, data.label_ids) == [" soup</s>", " tea</s>"]


def test_a_long_text_loses_its_end_and_the_turns_stay_whole(tmp_path) -> None:
    base = chatting(tmp_path, prompt=Chat(system=""))
    (row,) = base.prepare(Examples(("soup " * 50,), completions=("tea",)), max_length=10).ids
    assert base.tokenizer.decode(row).startswith("<s>system\n</s>\n<s>user\nsoup")
    assert base.tokenizer.decode(row).endswith("</s>\n<s>assistant\n")
    (longer,) = base.prepare(Examples(("soup " * 50,), completions=("tea",)), max_length=12).ids
    assert len(longer) == len(row) + 2


def test_prompts_to_complete_are_the_users_turn(tmp_path) -> None:
    base = chatting(tmp_path, prompt=Chat(user="Q: {text}"))
    assert said(base, base.prompts(["a soup"])) == ["<s>system\nBe kind</s>\n<s>user\nQ: a soup</s>\n<s>assistant\n"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no template for chats"),
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] }}", "more than once, or not at all"),
        ("{{ raise_exception('never') }}", r"cannot be filled in \(never\)"),
    ],
)
def test_what_cannot_chat_is_refused(tmp_path, template, message) -> None:
    write_base(tmp_path, "llama")
    (tmp_path / "chat_template.jinja").unlink()
    if template:
        (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(ConfigError, match=message):
        open_base(str(tmp_path), objective="causal_lm", prompt=Chat())


@pytest.mark.parametrize("chat", [{"user": "text"}, {"told": "task"}, {"assistant": "x"}])
def test_turns_without_a_place_are_refused(chat) -> None:
    with pytest.raises(ConfigError, match=r"no \{|Extra inputs"):
        ExpertRecipe.checked({"chat": chat}, source="zoo.yaml")


def test_a_card_says_how_its_task_is_put(tmp_path, zoo_card) -> None:
    assert Adapter.generated(None, zoo_card).wording == "{text}\nLabel:"
    told = zoo_card.model_copy(update={"wording": Chat(user="Q: {text}")})
    again = GeneratedCard.checked(json.loads(told.model_dump_json()), source="card.yaml")
    assert Adapter.generated(None, again).wording == Chat(user="Q: {text}")


@pytest.fixture
def zoo_card() -> GeneratedCard:
    facts = {"description": "x", "generator": "sg", "seed": 0, "sample": 0, "base": "b", "base_hash": "", "zoo": "z"}
    more = {"zoo_hash": "", "encoder": "e", "encoder_hash": "", "parents": (), "versions": {}}
    return GeneratedCard.model_validate(facts | more)


def test_a_wording_that_tells_a_task_asks_as_a_base_that_is_told_it(tmp_path) -> None:
    wording = Chat(told="Task: {description}", user="Text: {text}")
    base = chatting(tmp_path, prompt=wording)
    told = with_wording(base, telling(wording, "Name the {text} soup."))
    for examples in (TEXTS, OPEN):
        one = told.prepare(examples, max_length=60)
        other = base.prepare(examples, max_length=60, instruction="Name the {text} soup.")
        assert (one.ids, one.label_ids) == (other.ids, other.label_ids)
    assert with_wording(base, wording) is base


def test_marks_are_refused_in_a_description_that_is_told(tmp_path) -> None:
    base = chatting(tmp_path, prompt=Chat())
    with pytest.raises(ConfigError, match="a mark of the base's chats"):
        with_wording(base, telling(Chat(), "Say </s> twice."))
