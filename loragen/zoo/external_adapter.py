"""Adapter folders from elsewhere, on disk or on the Hub, with what their model cards say of them."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loragen.adapters.adapter import Lora
from loragen.adapters.folders import FILES, WEIGHTS_NAME, find_adapter
from loragen.bases.hub import quiet_loading, weights_hash
from loragen.bases.hub_files import HubName, Limits, NotFetchedError, Snapshot, fetched
from loragen.bases.saved_along import remarks
from loragen.config import read_yaml
from loragen.errors import AdapterError, ConfigError, TaskError, cut, shown
from loragen.files import sha256_of
from loragen.paths import expanded
from loragen.values import LONGEST_NAME, checked_name
from loragen.zoo.card import CARD
from loragen.zoo.model_card import MODEL_CARD, ModelCard

HUB = "hub:"
LONGEST_DESCRIPTION = 5_000
"""Characters of a description."""
_FILES = (*FILES, CARD, MODEL_CARD)
LIMITS = Limits(files=100, size=4_000_000_000)
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
    commit: str = ""
    """Of its repository on the Hub; empty for an adapter from a folder."""
    sha256: str = ""
    """Of its weights file."""
    notes: tuple[str, ...] = ()
    """Remarks on its folder, such as keys that were renamed."""

    @classmethod
    def open(
        cls,
        source: str,
        *,
        name: str | None = None,
        description: str | None = None,
        base: str | None = None,
        without_head: bool = False,
    ) -> "ExternalAdapter":
        """Read an adapter from a folder, or from the Hub as ``hub:ORG/NAME@COMMIT/SUBFOLDER``.

        Commit (or branch, or tag) and subfolder are given where they are needed.

        Args:
            source: see above.
            name: its id; by default the name of the folder or repository.
            description: in place of what its card says.
            base: in place of the base that it names.
            without_head: read the adapter of a classifier as one of the model inside.

        Raises:
            ConfigError: ``name`` is no name of a folder.
            AdapterError: the adapter is missing, damaged, does nothing, or names no base.
            TaskError: no description is given, and no card holds one.
        """
        snapshot = _fetched(source)
        folder = snapshot.folder
        adapter = Lora.load(folder, without_head=without_head)
        if adapter.norm() == 0:
            raise AdapterError(f"The adapter {source} does nothing: all its delta weights are zero; leave it out.")
        named = base or adapter.settings.base
        if not named:
            raise AdapterError(f"The adapter {source} does not name its base model; give it with --base.")
        notes = remarks(adapter, named)
        inside, _ = find_adapter(folder)
        own_card = _own_card(inside) or _own_card(folder)
        model_card = ModelCard.read(inside if (inside / MODEL_CARD).exists() else folder)
        told, told_by = _described(source, description, own_card, model_card)
        return cls(
            id=_id_of(source, name),
            adapter=adapter,
            base=named,
            description=told,
            description_source=told_by,
            licence=model_card.licence or _licence_of(own_card) or NO_LICENCE,
            origin=source if source.startswith(HUB) else Path(source).name,
            labels=_texts(own_card.get("labels")),
            commit=snapshot.commit,
            sha256=_weights_hash(inside),
            notes=notes,
        )


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()


def _weights_hash(folder: Path) -> str:
    """SHA-256 of an adapter's weights: of their file or, where they are in shards, of the list of hashes."""
    file = folder / WEIGHTS_NAME
    return sha256_of(file) if file.is_file() else weights_hash(folder)


def _fetched(source: str) -> Snapshot:
    """The folder of an adapter, and its commit if it is from the Hub."""
    if not source.startswith(HUB):
        return Snapshot(expanded(source), "")
    try:
        with quiet_loading():
            return fetched(HubName.parse(source.removeprefix(HUB), has_subfolder=True), _FILES, LIMITS)
    except NotFetchedError as error:
        raise AdapterError(
            f"The Hub gave no adapter {shown(source.removeprefix(HUB))} ({error}); name it as "
            "hub:ORG/NAME@COMMIT/SUBFOLDER, the last two where they are needed, or go online once to fetch it."
        ) from error


def _id_of(source: str, given: str | None) -> str:
    """The id of an expert: the given name, or else what the folder or repository is called, made a name.

    Raises:
        ConfigError: it is no name, or one that a system keeps for something else.
    """
    plain = given
    if plain is None and source.startswith(HUB):
        name = HubName.parse(source.removeprefix(HUB), has_subfolder=True)
        plain = "-".join([name.repo.rpartition("/")[2], *name.subfolder.split("/")])
    elif plain is None:
        plain = Path(os.path.realpath(source)).name
    if given is None:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)[:LONGEST_NAME].strip("-._") or "adapter"
    try:
        return checked_name(plain)
    except ValueError as error:
        raise ConfigError(f"No expert can be called {shown(plain)}: {error}; give another name with --id.") from error


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
    listed = card.get("parents")
    parents = [parent for parent in listed if isinstance(parent, dict)] if isinstance(listed, list) else []
    return "; ".join(sorted({str(parent["licence"]) for parent in parents if "licence" in parent})) or None
