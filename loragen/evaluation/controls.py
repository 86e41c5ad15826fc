"""Controls: texts in place of a task's description. A generator uses the description only if they make it worse.

Descriptions of further evaluated tasks stand apart: their adapters are what a task's own adapter is ranked among.
"""

import re
from collections.abc import Collection, Sequence

import torch

from loragen.tasks.task_set import Task

RIGHT = "right"
NONSENSE = "nonsense"
OTHER = "another task's"
SHUFFLED = "shuffled words"
PARAPHRASE = "paraphrase"
MADE_FOR = "made for "
"""The adapter that is made for another task; its id follows."""

# fmt: off
_ONSETS = (
    "b", "br", "d", "dr", "f", "fl", "g", "gl", "k", "kr", "l", "m", "n", "p", "pl", "r", "s", "st", "t", "v", "z",
)
# fmt: on
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "oo", "ou")
_CODAS = ("", "", "", "b", "k", "l", "m", "n", "nd", "p", "r", "rk", "s", "st", "t", "x")


def controls(task: Task, others: Sequence[Task], *, rng: torch.Generator) -> dict[str, str]:
    """Name of the control → the text that takes the description's place.

    Args:
        task: the task.
        others: tasks to borrow a description from; those of its own family are passed over.
        rng: chooses among them, shuffles, and makes up words.
    """
    words = task.description.split()
    shuffled = words
    while shuffled == words and len(set(words)) > 1:
        shuffled = [words[i] for i in torch.randperm(len(words), generator=rng).tolist()]
    own_words = set(re.findall(r"\w+", task.description.lower()))
    texts = {NONSENSE: nonsense(len(words), rng=rng, without=own_words), SHUFFLED: " ".join(shuffled)}
    unrelated = [other for other in others if (other.family or other.id) != (task.family or task.id)]
    if unrelated:
        texts[OTHER] = unrelated[int(torch.randint(len(unrelated), (), generator=rng))].description
    return texts | {f"{PARAPHRASE} {number}": text for number, text in enumerate(task.paraphrases[:3], 1)}


def made_for_others(task: Task, tasks: Sequence[Task], number: int, *, rng: torch.Generator) -> dict[str, str]:
    """Name of a control → the description of another task, for as many of them as are asked for and as there are.

    Args:
        task: the task.
        tasks: those to draw from; the task itself is passed over.
        number: the most that are drawn; a smaller number draws the first of those of a larger.
        rng: chooses among them.
    """
    others = [other for other in tasks if other.id != task.id]
    drawn = torch.randperm(len(others), generator=rng)[:number].tolist()
    return {f"{MADE_FOR}{others[i].id}": others[i].description for i in drawn}


def nonsense(words: int, *, rng: torch.Generator, without: Collection[str] = ()) -> str:
    """A sentence of made-up words of one to three syllables; those in ``without`` are made up anew."""

    def pick(options: Sequence[str]) -> str:
        return options[int(torch.randint(len(options), (), generator=rng))]

    def word() -> str:
        syllables = 1 + int(torch.randint(3, (), generator=rng))
        drawn = "".join(pick(_ONSETS) + pick(_VOWELS) + pick(_CODAS) for _ in range(syllables))
        return word() if drawn in without else drawn

    return " ".join(word() for _ in range(max(3, words))).capitalize() + "."
