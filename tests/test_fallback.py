"""What is given out: the generator's adapter, a safer one, or none; what is said of it; and texts without labels."""

import json

import pytest
import torch
from generation_toys import with_confidence

import loragen
from loragen.adapters.products import distance
from loragen.confidence.confidence import Confidence, confidence_file
from loragen.confidence.outlook import Outlook
from loragen.errors import ConfigError, GeneratorError, TaskError
from loragen.tasks.examples import Examples
from loragen.zoo.zoo import Zoo

TASK = "Is it bread or cold?"
LABELS = ["bread", "cold"]


@pytest.fixture
def ask(toys, tmp_path):
    """Generates from a toy zoo in which gains are foretold as given."""

    def generate(task=TASK, *, gains=None, **options):
        root = (
            with_confidence(toys, tmp_path / "zoo", **(gains or {"generated": 0.05})) if gains != {} else toys / "zoo"
        )
        return loragen.generate(task, zoo=root, encoder=str(toys / "base"), generator="topk", **options), Zoo.open(root)

    return generate


@pytest.fixture
def texts(toys):
    return Examples.from_file(toys / "data" / "plates.train.jsonl")


def test_a_gain_that_is_expected_is_said_with_its_interval(ask):
    made, _ = ask(gains={"generated": 0.05, "shared": 0.2})
    outlook = made.card.outlook
    assert (outlook.expected.gain, outlook.expected.low, outlook.expected.high) == (0.05, -0.05, 0.15)
    assert outlook.expected.knows == "description"
    assert outlook.instead is None
    assert made.card.generator == "topk"
    assert "+0.05 in accuracy (-0.05 to +0.15" in outlook.sentence()
    assert -1 <= outlook.agreement <= 1


def test_names_of_labels_are_known_where_they_are_given(ask):
    made, _ = ask(labels=LABELS)
    assert made.card.outlook.expected.knows == "labels"


def test_where_nothing_is_expected_the_adapter_for_all_tasks_is_given_out(ask):
    made, zoo = ask(gains={"generated": -0.02, "shared": 0.03})
    assert distance(made.lora, zoo.multitask()) < 1e-3
    assert made.card.generator == "multi-task"
    assert "expected to gain +0.03" in made.card.outlook.instead
    assert len(made.card.parents) == len(zoo)
    assert made.card.outlook.expected.gain == 0.03


def test_where_nothing_at_all_is_expected_none_is_given_out_unless_it_is_asked_for(ask):
    with pytest.raises(GeneratorError, match=r"-0\.02.*--no-fallback"):
        ask(gains={"generated": -0.03, "shared": -0.02})


def test_no_fallback_keeps_the_generators_adapter_and_says_what_is_expected(ask, toys):
    made, _ = ask(gains={"generated": -0.02, "shared": 0.03}, fallback=False)
    plain = loragen.generate(TASK, zoo=toys / "zoo", encoder=str(toys / "base"), generator="topk")
    assert distance(made.lora, plain.lora) < 1e-3
    assert made.card.outlook.expected.gain == -0.02


def test_an_adapter_for_all_licences_takes_no_place_where_licences_are_chosen(ask):
    with pytest.raises(GeneratorError, match="No adapter is given out"):
        ask(gains={"generated": -0.02, "shared": 0.03}, licences=["MIT"])


def test_a_zoo_without_models_says_how_near_the_task_is_and_no_more(ask):
    made, _ = ask(gains={})
    assert made.card.outlook.expected is None
    assert 0 < made.card.outlook.similarity <= 1
    assert "Expected" not in made.card.outlook.sentence()


def test_models_of_other_experts_or_generators_are_not_used(toys, tmp_path):
    root = with_confidence(toys, tmp_path / "zoo", generated=0.1)
    assert Confidence.of("topk", Zoo.open(root)) is not None
    assert Confidence.of("mean", Zoo.open(root)) is None
    path = root / "confidence" / "topk.yaml"
    path.write_text(
        path.read_text().replace(
            "figures: []", "figures:\n    - {name: luck, mean: 0, deviation: 1, least: 0, most: 1, weight: 1}"
        )
    )
    with pytest.raises(ConfigError, match="'luck' is not known from description"):
        Confidence.of("topk", Zoo.open(root))
    path.write_text(
        with_confidence(toys, tmp_path / "other", generated=0.1).joinpath("confidence/topk.yaml").read_text()
    )
    assert confidence_file("../topk", root) is None
    (root / "experts" / "words").rename(tmp_path / "words")
    assert Confidence.of("topk", Zoo.open(root)) is None


def test_texts_adapt_the_adapter_without_their_labels(ask, texts, toys):
    made, _ = ask(gains={"adapted": 0.08}, labels=LABELS, texts=texts)
    assert (made.card.texts, made.card.examples) == (len(set(texts.texts)), 0)
    assert made.card.adapted is not None
    assert made.card.outlook.expected.knows == "texts"
    assert any("not looked at" in note for note in made.notes)
    plain = loragen.generate(TASK, zoo=toys / "zoo", encoder=str(toys / "base"), generator="topk")
    assert distance(made.lora, plain.lora) > 0.01
    wrong = Examples(texts.texts, labels=tuple(1 - label for label in texts.labels), label_names=texts.label_names)
    again = loragen.generate(
        TASK, zoo=toys / "zoo", encoder=str(toys / "base"), generator="topk", labels=LABELS, texts=wrong
    )
    assert distance(again.lora, made.lora) == 0


def test_where_texts_promise_nothing_the_adapter_for_all_tasks_is_given_out(ask, texts):
    made, zoo = ask(gains={"adapted": -0.01, "shared": 0.01}, labels=LABELS, texts=list(texts.texts))
    assert distance(made.lora, zoo.multitask()) < 1e-3
    assert made.card.adapted is None
    assert made.card.texts == len(set(texts.texts))


def test_examples_and_texts_are_used_together(toys, texts):
    options = {"zoo": toys / "zoo", "encoder": str(toys / "base"), "generator": "topk", "fit": True}
    few = texts.few(4, rng=torch.Generator().manual_seed(0))
    both, fitted = (loragen.generate(TASK, examples=few, texts=one, **options) for one in (list(texts.texts), None))
    assert both.card.fitted is not None
    assert both.card.adapted is not None
    assert both.card.labels == few.label_names
    assert distance(both.lora, fitted.lora) > 0.01
    assert both.card.outlook.expected is None


def test_what_texts_want_is_said(toys, texts, tmp_path):
    options = {"zoo": toys / "zoo", "encoder": str(toys / "base"), "generator": "topk"}
    with pytest.raises(ConfigError, match="names of the task's labels"):
        loragen.generate(TASK, texts=list(texts.texts), **options)
    with pytest.raises(ConfigError, match="--texts"):
        loragen.generate(TASK, labels=LABELS, shares=[1, 2], **options)
    with pytest.raises(TaskError, match="one text"):
        loragen.generate(TASK, labels=LABELS, texts="a text", **options)
    with pytest.raises(TaskError, match="same ones in the same order"):
        loragen.generate(
            TASK,
            labels=LABELS[::-1],
            texts=list(texts.texts),
            examples=texts.few(3, rng=torch.Generator()),
            fit=True,
            **options,
        )
    file = tmp_path / "notes.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts.texts))
    assert loragen.generate(TASK, labels=LABELS, texts=file, **options).card.texts == len(set(texts.texts))


def test_a_description_of_no_known_word_gets_the_adapter_for_all_tasks(ask, texts, monkeypatch):
    monkeypatch.setattr("loragen.generation.judge.says_nothing", lambda *_: True)
    made, zoo = ask("asdf", gains={"generated": 0.1})
    assert distance(made.lora, zoo.multitask()) < 1e-3
    assert (made.card.generator, made.card.outlook.expected) == ("multi-task", None)
    assert "knows no word" in made.card.outlook.instead


def test_texts_begin_at_that_adapter_where_the_description_says_nothing(toys, tmp_path, texts, monkeypatch):
    monkeypatch.setattr("loragen.generation.judge.says_nothing", lambda *_: True)
    root = with_confidence(toys, tmp_path / "zoo", adapted=0.1)
    options = {"zoo": root, "encoder": str(toys / "base"), "generator": "topk", "labels": LABELS}
    adapted, plain = (loragen.generate("asdf", texts=one, **options) for one in (list(texts.texts), None))
    assert (adapted.card.generator, plain.card.generator) == ("multi-task", "multi-task")
    assert len(adapted.card.parents) == len(Zoo.open(root))
    assert distance(adapted.lora, plain.lora) > 0.01
    assert "knows no word" in adapted.card.outlook.instead
    assert adapted.card.outlook.expected.gain == 0.1


@pytest.mark.parametrize(
    ("similarity", "words"), [(0.2, "far from every"), (0.5, "some way from"), (0.7, "near to an expert")]
)
def test_the_distance_is_said_in_words(similarity, words):
    assert words in Outlook(similarity=similarity).sentence()
