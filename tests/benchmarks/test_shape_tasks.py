"""Tasks of other shapes: the rules on texts written for the purpose, and the task file that is committed."""

import json
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import yaml

from loragen.errors import TaskError
from loragen.tasks.task_set import TaskSet

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import shape_more
import shape_tasks
from shape_cases import Case, Source
from shape_phrases import PHRASES
from shape_plan import HELD_OUT, KNOWN, Plan
from shape_rules import RULES
from shape_words import LANGUAGES, TRANSLATIONS, cut, cut_pair, evidence_of, telling_word, words

TEXT = "The soup was cold, and the waiter (a rude man) never smiled!"
MOODS = Source(
    id="moods",
    names=("negative", "neutral", "positive"),
    text="a note on a meal",
    full=("whether a guest liked a meal", "what mood a guest was in"),
    brief=("whether the guest liked it", "which mood it shows"),
    key="mood",
    holds="the note is {}",
)
PAIR = Source(
    "two", ("good", "bad"), "a note", ("what it is", "how it is"), ("what it is", "how it is"), "worth", "it is {}"
)
FIXED = {"letters": ("K", "L", "M"), "numbers": ("3", "1", "2"), "symbols": ("+", "*", "-"), "target": 0, "key": "mood"}
CASE = Case(
    MOODS, **FIXED, flag="ok", initial="w", sentence="It must be {}!", evidence={"": (2, 2, 2), "cold": (2, 0, 0)}
)
PAIR_CASE = Case(PAIR, **FIXED, flag="ok", initial="x", sentence="It must be {}!")
FITTING = {name: PAIR if name == "opposite" else MOODS for name in RULES}
"""A source that a rule fits."""


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        ("word", "negative"),
        ("letter", "K"),
        ("number", "3"),
        ("symbol", "+"),
        ("json", '{"mood": "negative"}'),
        ("json_flag", '{"mood": "negative", "ok": true}'),
        ("tag", "<mood>negative</mood>"),
        ("sentence", "It must be negative!"),
        ("assignment", "mood=negative"),
        ("brackets", "[[negative]]"),
        ("upper", "NEGATIVE"),
        ("backwards", "evitagen"),
        ("hyphens", "n-e-g-a-t-i-v-e"),
        ("prefix", "neg"),
        ("spanish", "negativo"),
        ("german", "negativ"),
        ("french", "négatif"),
        ("italian", "negativo"),
        ("next", "neutral"),
        ("ranking", "negative > neutral > positive"),
        ("wrong", "neutral"),
        ("is", "yes"),
        ("is_not", "no"),
        ("first_word", "The"),
        ("second_word", "soup"),
        ("last_word", "smiled"),
        ("first_three", "The soup was"),
        ("last_two", "never smiled"),
        ("opening", "THE SOUP WAS COLD"),
        ("longest_word", "waiter"),
        ("starting", "was"),
        ("word_count", "10+"),
        ("reason", '"cold" -> negative'),
        ("headed", "The: negative"),
    ],
)
def test_a_rule_answers(rule, answer):
    assert RULES[rule].answer(CASE, TEXT, 0) == answer


def test_rules_of_order_go_round():
    assert [RULES["next"].answer(CASE, TEXT, label) for label in range(3)] == ["neutral", "positive", "negative"]
    assert [RULES["wrong"].answer(CASE, TEXT, label) for label in range(3)] == ["neutral", "negative", "negative"]
    assert [RULES["opposite"].answer(PAIR_CASE, TEXT, label) for label in range(2)] == ["bad", "good"]


def test_a_text_without_the_words_has_no_answer():
    assert RULES["first_three"].answer(CASE, "Two words.", 0) is None
    assert RULES["reason"].answer(CASE, "- 12 -", 0) is None
    assert RULES["starting"].answer(PAIR_CASE, TEXT, 0) == "none"


@pytest.mark.parametrize("name", RULES)
def test_a_phrase_tells_the_answers(name):
    """Of cases drawn at random, those that are spoken of alike are answered alike: there is nothing else to know."""
    rule, met = RULES[name], {}
    assert rule.fits(FITTING[name])
    for seed in range(60):
        case = Case.drawn(FITTING[name], Random(seed), CASE.evidence)
        told = tuple(rule.answer(case, TEXT, label) for label in range(len(case.names)))
        for phrase in shape_tasks.described(rule, case, Random(0), 12):
            assert met.setdefault(phrase, told) == told
        if rule.labels(case):
            assert set(told) <= set(rule.labels(case))


@pytest.mark.parametrize("name", RULES)
def test_four_descriptions_differ_and_have_no_gaps(name):
    case = Case.drawn(FITTING[name], Random(1))
    found = shape_tasks.described(RULES[name], case, Random(2), 4)
    assert len(set(found)) == 4
    assert not [one for one in found if "  " in one or "{}" in one or one[0].islower()]
    assert set(PHRASES) == set(RULES)


def test_rules_turn_down_what_they_cannot_say():
    marked = Source("m", ("a", "b"), "t", (), (), "k", is_pair=True)
    for name in ("first_word", "word_count", "headed", "next", "spanish", "is"):
        assert not RULES[name].fits(marked)


def test_a_second_variant_answers_otherwise():
    for rule in ("letter", "number", "json", "is"):
        first, second = (shape_tasks.case_of(Plan("experts", "moods", rule, variant), MOODS) for variant in (1, 2))
        answers = RULES[rule].answers
        assert answers is not None
        assert answers(first) != answers(second)


def test_every_translation_is_there():
    assert all(set(row) == set(LANGUAGES) for row in TRANSLATIONS.values())
    assert all(all(row.values()) for row in TRANSLATIONS.values())


def test_texts_are_cut_at_words():
    assert cut("one  two\nthree", most_words=2) == "one two"
    assert cut("one two three", most_characters=8) == "one two"
    assert len(cut("x" * 999)) == 200
    short, long = cut_pair("so short", "word " * 100)
    assert short == "so short"
    assert 180 < len(long) <= 192


def test_words_are_told_by_counts():
    counts = evidence_of([("bad food", 0), ("Bad service", 0), ("good food", 1)], 2)
    assert telling_word("Food is bad, bad!", 0, counts) == "bad"
    assert telling_word("food and good", 1, counts) == "good"
    assert words("«Oh» -- it's 5% ...") == ["Oh", "it's", "5"]


def test_training_texts_are_even_and_no_answer_has_all_of_a_test():
    rows = [(shape_tasks.Line(f"text {at}", None, at % 10 == 0), "yes" if at % 10 == 0 else "no") for at in range(2000)]
    train = Counter(answer for _, answer in shape_tasks.choose("train", rows, is_closed=True))
    assert train == {"yes": 200, "no": 200}
    test = shape_tasks.choose("test", rows, is_closed=True)
    assert Counter(answer for _, answer in test) == {"yes": 30, "no": 120}
    assert test == shape_tasks.choose("test", rows[::-1], is_closed=True)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of one public task, and the words for it."""
    entry = {
        "text": "a note",
        "full": ["what it is", "how it is"],
        "brief": ["what it is", "how it is"],
        "key": "worth",
    }
    (tmp_path / "sources.yaml").write_text(
        yaml.safe_dump({"experts": {"notes": entry | {"names": {"+": "good", "-": "bad"}}}})
    )
    monkeypatch.setattr(shape_tasks, "SOURCES", tmp_path / "sources.yaml")
    row = {"id": "notes", "family": "Notes", "labels": ["-", "+"], "pair": False}
    (tmp_path / "tasks.json").write_text(json.dumps([row]))
    for part, first in (("train", 0), ("test", 90)):
        rows = [{"text": f"Note number {at}!", "label": "+-"[at % 2]} for at in range(first, first + 100)]
        (tmp_path / f"notes.{part}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return tmp_path


def test_a_task_is_made_alike_twice_and_learns_nothing_of_its_test(folder):
    made, again = (shape_tasks.Pool.read(folder).make(Plan("experts", "notes", "upper")) for _ in range(2))
    assert made == again
    assert made.labels == ("GOOD", "BAD")
    train, test = ([json.loads(line) for line in made.lines(part).splitlines()] for part in ("train", "test"))
    assert (len(train), len(test)) == (90, 100)
    assert not {row["text"] for row in train} & {row["text"] for row in test}
    assert all(row["label"] == ("BAD" if int(row["text"][12:-1]) % 2 else "GOOD") for row in (*train, *test))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(TaskError, match="get the public tasks"):
        shape_tasks.Pool.read(tmp_path)


@pytest.fixture(scope="module")
def tasks() -> TaskSet:
    return TaskSet.from_yaml(shape_tasks.CONFIG)


def test_the_committed_splits_are_sound(tasks):
    assert sorted(name for names in tasks.splits.values() for name in names) == sorted(task.id for task in tasks)
    rules = {split: {task.kind for task in tasks.split(split)} for split in tasks.splits}
    families = {split: {task.family for task in tasks.split(split)} for split in tasks.splits}
    assert rules["experts"] == set(KNOWN)
    assert min(Counter(task.kind for task in tasks.split("experts")).values()) >= 3
    assert rules["test_rule"] == rules["test_both"] == set(HELD_OUT["test"])
    assert rules["test_family"] <= set(KNOWN)
    assert rules["validation"] <= {*KNOWN, *HELD_OUT["validation"]}
    assert rules["validation"] >= set(HELD_OUT["validation"])
    assert families["test_rule"] <= families["experts"]
    for split in ("test_family", "test_both"):
        assert not families[split] & (families["experts"] | families["validation"])


def test_committed_tasks_are_told_by_many_descriptions_to_learn_from_and_by_four_to_judge_on(tasks):
    experts = {task.id for task in tasks.split("experts")}
    for task in tasks:
        wanted = 12 if task.id in experts and RULES[task.kind].judges else 4
        assert len(set(task.descriptions)) == len(task.descriptions) == wanted
    everything = [one for task in tasks for one in task.descriptions]
    assert len(set(everything)) == len(everything)
    assert max(len(one.split()) for task in tasks for one in task.descriptions) <= shape_tasks.LONGEST
    for task in tasks:
        assert (task.source.completion is None) == bool(task.labels)


def test_more_tasks_are_of_known_rules_in_turn_and_of_none_that_is_taken():
    sources = {"moods": MOODS, "two": PAIR}
    taken = [Plan("experts", "moods", "letter"), Plan("test_rule", "two", "word")]
    many = shape_more.more_plans(sources, taken, 1_000)
    assert many == shape_more.more_plans(dict(reversed(sources.items())), taken, 1_000)
    assert len({plan.id for plan in many}) == len(many)
    assert {plan.rule for plan in many} == {name for name in KNOWN if any(map(RULES[name].fits, sources.values()))}
    assert not {plan.id for plan in many} & {plan.id for plan in taken}
    assert {"moods-letter-2", "two-letter"} <= {plan.id for plan in many}
    assert all(RULES[plan.rule].fits(sources[plan.source]) for plan in many)
    few = shape_more.more_plans(sources, taken, 10)
    assert few == many[:10]
    assert len({plan.rule for plan in few}) == 10


def test_a_rule_with_one_way_to_answer_has_no_second_variant():
    assert shape_more.has_variants("letter", MOODS)
    assert not shape_more.has_variants("word", MOODS)
