"""How a task is put to a language model: what stands around a text, and what an answer follows and ends with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from pydantic import field_validator

from loragen.config import StrictModel
from loragen.errors import ConfigError

PROMPT = "{text}\nLabel:"
"""Template of a labelled text for a language model; its label follows after a space."""
LabelTargets = Literal["moving", "frozen"]
"""Embeddings of label texts under the adapter in use, or by the base alone."""
_TEXT, _ANSWER = "loragen-text-0", "loragen-answer-0"
"""Stand in for a text and an answer while a chat's template is filled in."""


class Chat(StrictModel):
    """Turns of a chat, in the words of the tokenizer's own template; the answer is the assistant's turn."""

    system: str | None = None
    """Turn before the user's; by default what the template itself puts there, and with ``""`` an empty one."""
    user: str = "{text}"
    """The user's turn, in which ``{text}`` stands for the text."""
    told: str = "{description}"
    """In place of ``system`` where the model is told the task, by ``{description}``."""

    @field_validator("user")
    @classmethod
    def _has_a_text(cls, user: str) -> str:
        return _with_place(user, "{text}")

    @field_validator("told")
    @classmethod
    def _has_a_description(cls, told: str) -> str:
        return _with_place(told, "{description}")


def _with_place(template: str, place: str) -> str:
    if place not in template:
        raise ValueError(f"no {place} in it, which says where that goes")
    return template


Wording = str | Chat
"""A plain template with ``{text}`` in it, or the turns of a chat."""


def telling(wording: Wording, description: str) -> Chat:
    """The turns of a chat whose system turn tells one task."""
    assert isinstance(wording, Chat)
    return wording.model_copy(update={"system": wording.told.replace("{description}", description)})


@final
@dataclass(frozen=True)
class Around:
    """What stands around a text, and around the answer to it."""

    begin: str
    end: str
    """Between text and answer."""
    lead: str
    """What an answer is read after."""
    in_front: str = ""
    """Put in front of the text itself."""
    is_chat: bool = False
    last: str | None = None
    """Token that ends an answer; `None` for the tokenizer's own end of a text."""


def around(wording: Wording, tokenizer: Any, base: str, told: str | None) -> Around:
    """What stands around texts; ``told`` is the description of the task, where the model is told it.

    Raises:
        ConfigError: the wording has no place for the text, or the tokenizer no template for chats.
    """
    if isinstance(wording, str):
        begin, place, end = wording.partition("{text}")
        if not place:
            raise ConfigError(f"The prompt template {wording!r} has no {{text}} in it; say where the text goes.")
        return Around(begin, end, ": ", "" if told is None else f"{told} ")
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"The base {base} has no template for chats; leave 'chat' out and say by 'prompt' how texts are put to it, "
            "or name a base that was trained to chat."
        )
    return _around_in_chat(wording, tokenizer, base, told)


def _around_in_chat(chat: Chat, tokenizer: Any, base: str, told: str | None) -> Around:
    system = chat.system if told is None else chat.told.replace("{description}", told)
    if marks := [mark for mark in tokenizer.all_special_tokens if mark in (system or "")]:
        raise ConfigError(f"The description holds {marks[0]!r}, a mark of the base's chats; say the task without it.")
    user = chat.user.replace("{text}", _TEXT)
    turns = ([] if system is None else [_turn("system", system)]) + [_turn("user", user)]
    try:
        asked = _filled(tokenizer, turns, answer=None)
    except Exception as error:  # templates raise what they like where they know no such turn
        if not system:
            raise ConfigError(f"The template for chats of the base {base} cannot be filled in ({error}).") from error
        turns = [_turn("user", f"{system}\n\n{user}")]
        asked = _filled(tokenizer, turns, answer=None)
    begin, _, end = asked.partition(_TEXT)
    answered = _filled(tokenizer, turns, answer=_ANSWER)
    if asked.count(_TEXT) != 1 or answered.count(_ANSWER) != 1:
        raise ConfigError(
            f"The template for chats of the base {base} shows a text or an answer more than once, or not at all; leave "
            "'chat' out and say by 'prompt' how texts are put to it."
        )
    return Around(begin, end, end, is_chat=True, last=_first_special(tokenizer, answered.partition(_ANSWER)[2]))


def chat_pieces(tokenizer: Any, base: str, turns: Sequence[tuple[str, str]]) -> list[tuple[str, bool]]:
    """A chat up to where the assistant's answer begins, in pieces: a text, and whether somebody said it.

    Raises:
        ConfigError: there is no template for chats, or it cannot be filled in with these turns.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(f"The base {base} has no template for chats; ask it for completions.")
    marks = [f"loragen-said-{number}-" for number in range(len(turns))]
    marked = [_turn(role, mark) for (role, _), mark in zip(turns, marks, strict=True)]
    try:
        text = _filled(tokenizer, marked, answer=None)
    except Exception as error:  # templates raise what they like where they know no such turn
        raise ConfigError(
            f"The template for chats of the base {base} cannot be filled in with these turns ({error})."
        ) from error
    pieces = []
    for (_, said), mark in zip(turns, marks, strict=True):
        before, found, text = text.partition(mark)
        if not found:
            raise ConfigError(f"The template for chats of the base {base} leaves a turn out.")
        pieces += [(before, False), (said, True)]
    return [*pieces, (text, False)]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _filled(tokenizer: Any, turns: Sequence[Mapping[str, str]], *, answer: str | None) -> str:
    """A chat as one text, up to where the answer begins or, with an answer, up to its end."""
    said = [*turns] if answer is None else [*turns, _turn("assistant", answer)]
    text: str = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=answer is None)
    return text


def _first_special(tokenizer: Any, after: str) -> str | None:
    """The special token that follows an answer; `None` where none does."""
    ids = tokenizer(after, add_special_tokens=False, verbose=False)["input_ids"][:1]
    token: str | None = tokenizer.convert_ids_to_tokens(ids[0]) if ids else None
    return token if token in tokenizer.all_special_tokens else None
