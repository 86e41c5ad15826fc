import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.evaluation.controls import (
    MADE_FOR,
    NONSENSE,
    OTHER,
    PARAPHRASE,
    SHUFFLED,
    controls,
    made_for_others,
    nonsense,
)
from loragen.tasks.task_set import Task, TaskSource

SHORT_WORDS = "Do so, to me; go to no tea: be at a zoo, see a bee, free us, stop!"
"""Words of one syllable, which a maker of syllables hits upon sooner or later."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_task(name, description=None, **facts):
    source = TaskSource(test="unused.jsonl")
    return Task(id=name, description=description or f"Tell {name}s apart.", labels=("a", "b"), source=source, **facts)


def words_of(text):
    return re.findall(r"\w+", text.lower())


BANK = make_task(
    "bank",
    "Find out which of many wishes a customer of a bank has in mind.",
    paraphrases=("What does the customer want?", "Sort what people ask their bank."),
    family="intent",
)
OTHERS = (make_task("card", family="intent"), make_task("mood"), make_task("news", family="topic"), make_task("rain"))


# --- all of them ---


def test_every_control_has_its_name():
    told = controls(BANK, OTHERS, rng=seeded())
    assert set(told) == {NONSENSE, SHUFFLED, OTHER, f"{PARAPHRASE} 1", f"{PARAPHRASE} 2"}


def test_controls_are_those_of_the_random_source():
    told = [controls(BANK, OTHERS, rng=seeded(seed)) for seed in (3, 3, *range(4, 40))]
    assert told[0] == told[1]
    assert len({one[NONSENSE] for one in told}) == len({one[SHUFFLED] for one in told}) == 37
    assert len({one[OTHER] for one in told}) == 3, "every stranger has its turn"


def test_nothing_is_drawn_from_the_global_source():
    before = torch.get_rng_state()
    controls(BANK, OTHERS, rng=seeded())
    assert torch.equal(torch.get_rng_state(), before)


# --- nonsense ---


@given(st.integers(0, 2**31), st.integers(1, 60))
def test_nonsense_is_a_sentence_of_so_many_words(seed, words):
    text = nonsense(words, rng=seeded(seed))
    assert len(text.split()) == max(3, words)
    assert re.fullmatch(r"[A-Z][a-z]+( [a-z]+)+\.", text)


@pytest.mark.parametrize("description", [SHORT_WORDS, BANK.description])
def test_nonsense_shares_no_word_with_the_description(description):
    task = make_task("short", description)
    meant = set(words_of(description))
    for seed in range(300):
        made = controls(task, OTHERS, rng=seeded(seed))[NONSENSE]
        assert len(made.split()) == len(description.split())
        assert not meant & set(words_of(made)), f"seed {seed}"


def test_words_to_do_without_change_nothing_else():
    texts = [nonsense(12, rng=seeded(seed)) for seed in range(20)]
    assert texts == [nonsense(12, rng=seeded(seed), without={"weather", "bank"}) for seed in range(20)]
    first = words_of(texts[0])[0]
    assert first not in words_of(nonsense(12, rng=seeded(0), without={first}))


# --- the others ---


@pytest.mark.parametrize("seed", range(8))
def test_even_two_words_change_places(seed):
    two = BANK.model_copy(update={"description": "Bank queries"})
    assert controls(two, OTHERS, rng=seeded(seed))[SHUFFLED] == "queries Bank"


@pytest.mark.parametrize("description", ["Banking", "no no no"])
def test_what_has_no_other_order_stays_as_it_is(description):
    bare = BANK.model_copy(update={"description": description})
    assert controls(bare, OTHERS, rng=seeded())[SHUFFLED] == description


def test_shuffled_words_are_the_descriptions_in_another_order():
    shuffled = controls(BANK, OTHERS, rng=seeded())[SHUFFLED]
    assert shuffled != BANK.description
    assert sorted(shuffled.split()) == sorted(BANK.description.split())


@given(st.integers(0, 2**31), st.sampled_from(["intent", "topic", ""]))
def test_another_tasks_description_is_never_of_the_same_family(seed, family):
    task = BANK.model_copy(update={"family": family})
    told = controls(task, (task, *OTHERS), rng=seeded(seed))[OTHER]
    (owner,) = (other for other in (task, *OTHERS) if other.description == told)
    assert (owner.family or owner.id) != (family or "bank")


def test_tasks_without_a_family_are_strangers_to_each_other():
    mood, rain = OTHERS[1], OTHERS[3]
    assert controls(mood, (mood, rain), rng=seeded())[OTHER] == rain.description


def test_among_relatives_alone_there_is_no_other_tasks_description():
    told = controls(BANK, (BANK, OTHERS[0]), rng=seeded())
    assert OTHER not in told
    assert {NONSENSE, SHUFFLED} <= told.keys()


@pytest.mark.parametrize("number", [0, 1, 3, 5])
def test_paraphrases_are_the_tasks_own_and_at_most_three(number):
    paraphrases = tuple(f"Said in way {i}." for i in range(number))
    told = controls(BANK.model_copy(update={"paraphrases": paraphrases}), OTHERS, rng=seeded())
    met = [text for name, text in told.items() if name.startswith(PARAPHRASE)]
    assert met == list(paraphrases[:3])


# --- adapters made for other tasks ---


def test_others_are_drawn_without_the_task_itself_relatives_too():
    told = made_for_others(BANK, (BANK, *OTHERS), 9, rng=seeded())
    assert told == {f"{MADE_FOR}{other.id}": other.description for other in OTHERS}


@pytest.mark.parametrize("number", [0, 1, 3])
def test_fewer_others_are_the_first_of_more(number):
    few, all_ = (made_for_others(BANK, (BANK, *OTHERS), n, rng=seeded(5)) for n in (number, 4))
    assert list(few) == list(all_)[:number]


def test_every_other_task_has_its_turn():
    drawn = {next(iter(made_for_others(BANK, (BANK, *OTHERS), 1, rng=seeded(seed)))) for seed in range(60)}
    assert drawn == {f"{MADE_FOR}{other.id}" for other in OTHERS}
