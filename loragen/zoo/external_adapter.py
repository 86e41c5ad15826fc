"""Adapter folders from elsewhere, on disk or on the Hub, with what their model cards say of them."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loragen.adapters.adapter import WEIGHTS_NAME, Lora
from loragen.adapters.settings import CONFIG_NAME
from loragen.bases.hub import quiet_loading
from loragen.config import read_yaml
from loragen.errors import AdapterError, ConfigError, TaskError, cut, shown
from loragen.files import expanded
from loragen.values import LONGEST_NAME, checked_name
from loragen.zoo.card import CARD
from loragen.zoo.model_card import MODEL_CARD, ModelCard

HUB = "hub:"
LONGEST_DESCRIPTION = 5_000
"""Characters of a description."""
NO_LICENCE = "none stated"

DescriptionSource = Literal["given", "card.yaml", "model card"]
"""Origin of an adapter's description: the user, the card that loragen wrote beside it, or its README.md."""


@dataclass(frozen=True, eq=False)
class ExternalAdapter:
    """An adapter that was made elsewhere, and what is known of it."""

    id: str
    adapter: Lora
    base: str
    description: str
    description_source: DescriptionSource = "given"
    licence: str = NO_LICENCE
    origin: str = ""
    labels: tuple[str, ...] = ()

    @classmethod
    def open(
        cls, source: str, *, name: str | None = None, description: str | None = None, base: str | None = None
    ) -> "ExternalAdapter":
        """Read an adapter from a folder, or from the Hub as ``hub:ORG/NAME``.

        Args:
            source: see above.
            name: its id; by default the name of the folder or repository.
            description: in place of what its card says.
            base: in place of the base that it names.

        Raises:
            AdapterError: the adapter is missing, damaged, does nothing, or names no base.
            TaskError: no description is given, and no card holds one.
        """
        folder = _fetched(source)
        adapter = Lora.load(folder)
        if adapter.norm() == 0:
            raise AdapterError(f"The adapter {source} does nothing: all its delta weights are zero; leave it out.")
        named = base or adapter.settings.base_model_name_or_path
        if not named:
            raise AdapterError(f"The adapter {source} does not name its base model; give it with --base.")
        own_card, model_card = _own_card(folder), ModelCard.read(folder)
        told, told_by = _described(source, description, own_card, model_card)
        plain = source.removeprefix(HUB)
        return cls(
            id=_id(name or Path(os.path.realpath(plain)).name[:LONGEST_NAME]),
            adapter=adapter,
            base=named,
            description=told,
            description_source=told_by,
            licence=model_card.licence or _licence_of(own_card) or NO_LICENCE,
            origin=source if source.startswith(HUB) else Path(plain).name,
            labels=tuple(label for label in own_card.get("labels") or () if isinstance(label, str)),
        )


def _id(name: str) -> str:
    """A name for the expert: that of its folder, with other characters than names have made to dashes.

    Raises:
        ConfigError: it is too long, or kept by a system for something else.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "adapter"
    try:
        return checked_name(plain)
    except ValueError as error:
        raise ConfigError(f"No expert can be called {shown(plain)}: {error}; give another name with --id.") from error


def _fetched(source: str) -> Path:
    if not source.startswith(HUB):
        return expanded(source)
    from huggingface_hub import snapshot_download

    name = source.removeprefix(HUB)
    try:
        with quiet_loading():
            return Path(snapshot_download(name, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME, CARD, MODEL_CARD]))
    except (OSError, ValueError) as error:  # both of them roots of the Hub's own errors
        reason = str(error).partition("\n")[0]
        raise AdapterError(
            f"The Hub gave no adapter {name!r} ({reason}); check the name as ORG/NAME, or go online once to fetch it."
        ) from error


def _own_card(folder: Path) -> dict[str, Any]:
    """The card that loragen itself wrote beside an adapter; empty where there is none that can be read."""
    try:
        return read_yaml(folder / CARD)
    except ConfigError:
        return {}


def _described(
    source: str, given: str | None, own_card: dict[str, Any], model_card: ModelCard
) -> tuple[str, DescriptionSource]:
    found: tuple[tuple[Any, DescriptionSource], ...] = (
        (given, "given"),
        (own_card.get("description"), "card.yaml"),
        (model_card.description, "model card"),
    )
    for told, told_by in found:
        if isinstance(told, str) and told.strip():
            return _short(told, source, told_by), told_by
    met = "its model card holds the text of a template alone" if model_card.text else "it has no model card"
    raise TaskError(f"The adapter {source} comes without a description ({met}); say its task with --description.")


def _short(told: str, source: str, told_by: DescriptionSource) -> str:
    """A description in one line; that of a model card is cut, for encoders read its beginning alone.

    Raises:
        TaskError: the one that was given is too long, or it is no valid Unicode.
    """
    line = " ".join(told[: 10 * LONGEST_DESCRIPTION].split())
    if any("\ud800" <= character <= "\udfff" for character in line):
        raise TaskError(f"The description {shown(line)} of {cut(source)} is no valid Unicode; write it anew.")
    if len(line) > LONGEST_DESCRIPTION and told_by == "given":
        raise TaskError(
            f"The description of {cut(source)} has over {LONGEST_DESCRIPTION:,} characters; say its task in fewer."
        )
    return line[:LONGEST_DESCRIPTION]


def _licence_of(card: dict[str, Any]) -> str | None:
    """The licence on an expert's card or, for a generated adapter, the licences of its parents."""
    if isinstance(card.get("licence"), str):
        return str(card["licence"])
    parents = [parent for parent in card.get("parents") or () if isinstance(parent, dict)]
    return "; ".join(sorted({str(parent["licence"]) for parent in parents if "licence" in parent})) or None
