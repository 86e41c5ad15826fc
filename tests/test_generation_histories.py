"""Adapters from a person's history: what the library makes of it, what the card says, and what is refused."""

import pytest
import torch

import loragen
from loragen.conditions.condition import Evidence
from loragen.conditions.history import History
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import GeneratorError, TaskError
from loragen.exporters.card import GeneratedCard, HistoryUse, model_card
from loragen.generation import Pipeline
from loragen.tasks.examples import Examples

TASK = "Is it bread or cold?"
TEXTS = ("tea a", "warm b", "tea c")
LABELLED = Examples(TEXTS, labels=(0, 1, 0), label_names=("tea", "warm"))


@pytest.fixture
def ask(toys):
    return {"zoo": toys / "zoo", "encoder": str(toys / "base"), "generator": "topk"}


def same(one, other):
    pairs = ((one.lora.delta_weight(site), other.lora.delta_weight(site)) for site in one.lora.sites)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_history_weighs_the_experts_and_its_order_does_not_matter(ask):
    plain = loragen.generate(TASK, **ask)
    told, permuted = (loragen.generate(TASK, history=texts, **ask) for texts in (TEXTS, TEXTS[::-1]))
    assert same(told, permuted)
    assert told.card == permuted.card
    assert not same(told, plain)
    assert [p.weight for p in told.card.parents] != [p.weight for p in plain.card.parents]
    labelled = loragen.generate(TASK, history=LABELLED, **ask)
    assert not same(labelled, told)


def test_the_card_says_how_many_texts_were_read_and_how(ask, tmp_path):
    adapter = loragen.generate(TASK, history=LABELLED, **ask)
    assert adapter.card.history == HistoryUse(texts=3, labelled=True, pool="untrained")
    assert "the description above and 3 past texts of a person with labels, pooled by their plain mean: no" in (
        model_card(adapter.card, adapter.lora)
    )
    adapter.save(tmp_path / "made")
    assert loragen.Adapter.load(tmp_path / "made").card == adapter.card
    written = "".join(path.read_text() for path in (tmp_path / "made").iterdir() if path.suffix in (".md", ".yaml"))
    assert not any(text in written for text in TEXTS), "what a person wrote stays with it"
    assert loragen.generate(TASK, **ask).card.history is None
    assert GeneratedCard.model_validate(
        {key: value for key, value in adapter.card.model_dump().items() if key != "history"}
    ), "older cards have none"


def test_a_history_may_stand_alone(ask, tmp_path):
    (tmp_path / "mine.txt").write_text("\n".join(TEXTS))
    adapter = loragen.generate("", history=tmp_path / "mine.txt", **ask)
    assert adapter.description is None
    assert "# LoRA for: a person's history" in model_card(adapter.card, adapter.lora)
    assert same(adapter, loragen.generate("  ", history=list(TEXTS), **ask))
    assert not same(adapter, loragen.generate(TASK, history=TEXTS, **ask))


def test_no_gain_is_foretold_and_nothing_else_is_given_out(ask, toys, tmp_path):
    from generation_toys import with_confidence

    zoo = with_confidence(toys, tmp_path / "zoo", generated=-0.1, shared=0.2)
    instead = loragen.generate(TASK, **(ask | {"zoo": zoo}))
    assert instead.card.outlook.instead is not None
    told = loragen.generate(TASK, history=TEXTS, **(ask | {"zoo": zoo}))
    assert (told.card.outlook.instead, told.card.outlook.expected, told.card.generator) == (None, None, "topk")
    assert any("not foretold" in note for note in told.notes)
    vectors = Pipeline.open("topk", zoo, ask["encoder"])
    evidence = Evidence(TASK, history=History.given(TEXTS))
    assert told.card.outlook.similarity == pytest.approx(vectors.similarity(evidence), abs=1e-4)
    assert vectors.similarity(Evidence(TASK)) == pytest.approx(
        float((vectors.experts.index.vectors @ TextEncoder.load(ask["encoder"]).encode([TASK])[0]).max()), abs=1e-5
    )


def test_texts_and_examples_are_used_beside_a_history(ask, toys):
    rows = Examples.from_file(toys / "data" / "plates.train.jsonl")
    made = loragen.generate("", history=TEXTS, examples=rows.subset(range(12)), fit=True, **ask)
    assert (made.card.examples, made.card.history.texts) == (12, 3)
    adapted = loragen.generate("", history=TEXTS, labels=["bread", "cold"], texts=rows.texts, **ask)
    assert adapted.card.adapted is not None


def test_what_cannot_be_used_is_refused_with_the_way_out(ask):
    for history, said in (
        ("tea", r"one text, 'tea'; give a list"),
        ([], r"at least one past text"),
        (["tea", ""], r"shows nothing; leave it out"),
    ):
        with pytest.raises(TaskError, match=said):
            loragen.generate(TASK, history=history, **ask)
    with pytest.raises(TaskError, match="description is empty"):
        loragen.generate("", **ask)
    with pytest.raises(GeneratorError, match="reads no examples"):
        loragen.generate(TASK, history=TEXTS, examples=LABELLED, **ask)
