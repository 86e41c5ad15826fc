"""Descriptions that say nothing, such as "asdf" or "the"."""

import re
from collections.abc import Sequence
from typing import Protocol

NEAR = 0.36
"""Similarity to an expert from which a description counts as one whatever its words."""
# fmt: off
_EMPTY = frozenset((
    "a", "an", "the", "this", "that", "these", "those", "it", "its", "is", "are", "was", "be", "been", "to", "of", "in",
    "on", "at", "by", "for", "from", "with", "and", "or", "not", "no", "yes", "do", "does", "did", "has", "have", "had",
    "i", "me", "my", "you", "your", "he", "she", "we", "us", "they", "them", "so", "as", "if", "than", "then", "there",
    "here", "what", "which", "who", "how", "when", "where", "why", "some", "any", "all", "one", "hello", "test",
))
# fmt: on


class TokenCounter(Protocol):
    """What counts the tokens of texts, such as a text encoder."""

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text; `None` where they cannot be counted."""


def says_nothing(description: str, similarity: float, encoder: TokenCounter) -> bool:
    """True if the encoder knows no word of a description, but for such as "the", and no expert's task is near it.

    Args:
        description: the task, in words.
        similarity: cosine between it and the nearest expert's description.
        encoder: of descriptions; a word counts as known if it is one token.
    """
    if similarity >= NEAR:
        return False
    words = [word for word in re.findall(r"[^\W\d_]{3,}", description.lower()) if word not in _EMPTY]
    counts = encoder.count_tokens(words) if words else []
    if counts is None:
        return False
    alone = (encoder.count_tokens([""]) or [0])[0]
    return not any(count - alone == 1 for count in counts)
