"""Texts that nobody has labelled, made fit for adaptation: distinct, enough of them, and not too many."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from loragen.errors import ConfigError, TaskError, shown
from loragen.tasks.examples import Examples
from loragen.tasks.words import is_blank

FEWEST, FEW, MOST = 20, 50, 10_000
"""Texts: fewer are refused, fewer are remarked upon, and of more so many are drawn."""


def distinct_texts(examples: Examples, name: str, *, rng: torch.Generator) -> Examples:
    """The distinct texts among examples, without labels, with remarks on how many there are.

    Args:
        examples: the texts; labels of theirs are left aside.
        name: what messages call them.
        rng: draws from them where there are over 10,000.

    Raises:
        TaskError: there are fewer than 20.
    """
    pairs = examples.pairs or ("",) * len(examples)
    places = {
        both: at
        for at, both in reversed(list(enumerate(zip(examples.texts, pairs, strict=True))))
        if not is_blank(both[0])
    }
    kept, notes = sorted(places.values()), list(examples.notes)
    if len(kept) < FEWEST:
        raise TaskError(
            f"{name} holds {len(kept)} different texts; at least {FEWEST} are wanted to learn how the texts of a task "
            f"lie together, and {FEW} or more are better."
        )
    if len(kept) > MOST:
        notes.append(f"Of the {len(kept):,} texts of {name}, {MOST:,} drawn at random are read.")
        order = torch.randperm(len(kept), generator=rng)[:MOST].tolist()
        kept = sorted(kept[at] for at in order)
    elif len(kept) < FEW:
        notes.append(f"{name} holds {len(kept)} different texts; {FEW} or more are better.")
    if examples.labels is not None:
        notes.append(f"The labels in {name} are not looked at; to learn from them, give the file with --examples.")
    return replace(examples.subset(kept), labels=None, completions=None, notes=tuple(notes))


def checked_shares(shares: Sequence[float] | None, names: Sequence[str]) -> tuple[float, ...] | None:
    """Sizes of the classes, summing to 1.

    Raises:
        ConfigError: they are not one for each label, or not all above 0.
    """
    if shares is None:
        return None
    if len(shares) != len(names) or not all(0 < share < float("inf") for share in shares):
        raise ConfigError(
            f"The sizes of the classes are {shown(list(shares))}; one above 0 for each of the {len(names)} labels was "
            "wanted, in their order."
        )
    return tuple(share / sum(shares) for share in shares)
