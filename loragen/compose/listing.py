"""The methods that compose experts as a reader sees them: what each is, and its options."""

from dataclasses import dataclass
from typing import Literal

from loragen.compose.registry import Row, rows
from loragen.recipes.listing import field_docs, type_name


@dataclass(frozen=True)
class MethodOption:
    """One setting of a method."""

    name: str
    type: str
    """As it would be written in Python."""
    default: object
    doc: str
    """What it does; empty where its name says it."""


@dataclass(frozen=True)
class MethodInfo:
    """One method."""

    name: str
    kind: Literal["static", "dynamic"]
    """An ordinary adapter comes out, or a composition that weighs the experts for each input."""
    about: str
    good_for: str
    source: str
    """Paper, by its arXiv number; empty for what has none."""
    needs: str
    """Beside the experts: nothing, a description, or labelled examples of their tasks."""
    only_text_encoders: bool
    experimental: bool
    """True if it came out below equal shares where it was measured."""
    options: tuple[MethodOption, ...]


def list_methods() -> tuple[MethodInfo, ...]:
    """The methods that experts can be composed by, each with its options, their types, defaults and docs."""
    return tuple(_info(row) for row in rows().values())


def _info(row: Row) -> MethodInfo:
    docs, defaults = field_docs(row.settings), row.settings().model_dump(mode="json")
    options = tuple(
        MethodOption(name, type_name(field.annotation), defaults[name], docs.get(name, ""))
        for name, field in row.settings.model_fields.items()
    )
    return MethodInfo(
        row.name,
        "dynamic" if row.is_dynamic else "static",
        row.about,
        row.good_for,
        row.source,
        row.needs_with(row.settings()),
        row.by_text,
        row.experimental,
        options,
    )
