"""Texts and names as they come from outside: what can be read, what is empty, and what is too long."""

import re
from collections.abc import Iterable, Sequence

from loragen.errors import TaskError, shown

LONGEST_TEXT = 1_000_000
"""Characters of a text."""
LONGEST_NAME = 1_000
"""Characters of a label name."""
MOST_NAMES = 10_000
"""Labels of a task."""
_UNREADABLE = re.compile("[\ud800-\udfff\0]")
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Characters that Unicode counts as letters or symbols and that show nothing."""


def is_blank(text: str) -> bool:
    """True if a text shows nothing: it is empty, or of blanks, zero-width and control characters alone."""
    return not any(one.isprintable() and not one.isspace() and one not in _FILLERS for one in text)


def refuse_unreadable(text: str, place: str, *, longest: int = LONGEST_TEXT) -> None:
    """Keep a text out that no tokenizer and no file could take, or that is too long.

    Raises:
        TaskError: it holds half a surrogate pair or a NUL character, or more than ``longest`` characters.
    """
    if len(text) > longest:
        raise TaskError(f"{place} has {len(text):,} characters, and {longest:,} are the most; cut it.")
    if not text.isascii() or "\0" in text:
        found = _UNREADABLE.search(text)
        if found:
            raise TaskError(
                f"{place} holds the character U+{ord(found[0]):04X} ({shown(text)}), which is no text; write it in "
                "UTF-8 without it."
            )


def checked_names(names: Iterable[str], place: str) -> tuple[str, ...]:
    """Label names without blanks around them.

    Raises:
        TaskError: one is empty, unreadable or too long; there are too many; or two are equal but for capitals.
    """
    stripped = tuple(name.strip() for name in names)
    if len(stripped) > MOST_NAMES:
        raise TaskError(f"{place} are {len(stripped):,} label names, and {MOST_NAMES:,} are the most.")
    met: dict[str, str] = {}
    for name in stripped:
        refuse_unreadable(name, f"{place}: a label name", longest=LONGEST_NAME)
        if is_blank(name):
            raise TaskError(f"{place} hold an empty label name; give each label a word.")
        other = met.get(name.casefold())
        if other is not None:
            how = "occurs twice" if other == name else f"differs from {shown(other)} in capitals alone"
            raise TaskError(f"{place}: the label name {shown(name)} {how}; give each label one name of its own.")
        met[name.casefold()] = name
    return stripped


def listed(names: Sequence[object], *, most: int = 12) -> str:
    """Names in a row, for messages: long ones are cut, and so are many."""
    cut = [name if len(name) <= 60 else f"{name[:57]}..." for name in map(_printable, names[:most])]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(cut) + more


def _printable(name: object) -> str:
    text = str(name)
    return text if text.isprintable() else repr(text)


def worded(texts: Sequence[str], what: str) -> tuple[str, ...]:
    """Texts of at least a word each.

    Raises:
        TaskError: there are none, or one of them is empty.
    """
    given = as_list(texts, what)
    if not given:
        raise TaskError(f"There are no {what}; at least one was wanted.")
    for text in given:
        refuse_unreadable(text, f"One of the {what}")
        if is_blank(text):
            raise TaskError(f"One of the {what} is empty; each must hold at least a word.")
    return given


def as_list(texts: Sequence[str], what: str) -> tuple[str, ...]:
    """Texts as a tuple; one text, which is a sequence of letters too, is refused."""
    if isinstance(texts, str):
        raise TaskError(f"The {what} are one text, {shown(texts)}; give a list of them.")
    return tuple(texts)
