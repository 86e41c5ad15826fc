"""The recipes as a reader sees them: what each is, and its options with their defaults and what they do."""

import ast
import inspect
import textwrap
from dataclasses import dataclass
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from loragen.recipes.expert import ExpertRecipe
from loragen.recipes.registry import Axis, Row, rows


@dataclass(frozen=True)
class RecipeOption:
    """One setting of a recipe."""

    name: str
    type: str
    """As it would be written in Python."""
    default: Any
    """As plain values, such as YAML holds."""
    doc: str
    """What it does; empty where its name says it."""
    is_common: bool
    """True if every recipe has it with this default, so that it says nothing about this one."""


@dataclass(frozen=True)
class RecipeInfo:
    """One recipe: what it changes in plain LoRA, its source and its options."""

    name: str
    axis: Axis
    about: str
    source: str
    """Paper, by its arXiv number."""
    keeps_frame: bool
    """True if A is the zoo's and is not trained."""
    makes_start: bool
    """True if it begins at factors of its own, whatever the zoo's start is."""
    options: tuple[RecipeOption, ...]


def list_recipes() -> tuple[RecipeInfo, ...]:
    """The recipes that experts can be trained by, each with its options, their types, defaults and docs."""
    return tuple(
        RecipeInfo(row.name, row.axis, row.about, row.source, row.keeps_frame, row.makes_start, _options(row))
        for row in rows().values()
    )


def _options(row: Row) -> tuple[RecipeOption, ...]:
    """All options but the recipe's name; its own come first, as its class has them."""
    docs, defaults = field_docs(row.settings), row.settings().model_dump(mode="json")
    common = ExpertRecipe().model_dump(mode="json")
    options = [
        RecipeOption(
            name,
            type_name(field.annotation),
            defaults[name],
            docs.get(name, ""),
            is_common=name in common and common[name] == defaults[name],
        )
        for name, field in row.settings.model_fields.items()
        if name != "name"
    ]
    return tuple(sorted(options, key=lambda option: option.is_common))


def field_docs(model: type) -> dict[str, str]:
    """Docstrings of a class's attributes, inherited ones too, read from the source.

    Python keeps none of them at run time. Without source, as in a frozen program, there are none.
    """
    docs: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if not one.__module__.startswith(("pydantic", "builtins", "abc")):
            docs |= _own_docs(one)
    return docs


def _own_docs(one: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
    except (OSError, TypeError, SyntaxError):
        return {}
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    docs = {}
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            text = after.value.value if isinstance(after.value, ast.Constant) else None
            if isinstance(text, str):
                docs[node.target.id] = " ".join(text.split())
    return docs


def type_name(annotation: Any) -> str:
    """A type as it would be written, such as ``tuple[str, ...] | str``; choices stand in place of their Literal."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (None, NoneType):
        return "None"
    if annotation is Ellipsis:
        return "..."
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin in (Union, UnionType):
        return " | ".join(map(type_name, arguments))
    if hasattr(annotation, "__metadata__"):  # Annotated
        return type_name(arguments[0])
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(type_name, arguments))}]" if arguments else name
