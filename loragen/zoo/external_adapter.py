"""Adapter folders from elsewhere, on disk or on the Hub, with what their model cards say of them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loragen.adapters.adapter import WEIGHTS_NAME, Lora
from loragen.adapters.settings import CONFIG_NAME
from loragen.bases.hub import quiet_loading
from loragen.config import read_yaml
from loragen.errors import AdapterError, ConfigError, TaskError

HUB = "hub:"
_CARDS = ("card.yaml", "README.md")
# Lines of the card that PEFT and the Hub write for those who do not; they say nothing of the adapter.
_BOILERPLATE = re.compile(r"more information needed|provide a quick summary|^this (model|adapter) is a fine-?tun", re.I)
_NO_PROSE = ("|", "-", "*", "!", "[", "<", ">")


@dataclass(frozen=True, eq=False)
class Foreign:
    """An adapter that was made elsewhere, and what is known of it."""

    id: str
    adapter: Lora
    base: str
    description: str
    licence: str = "none stated"
    origin: str = ""
    labels: tuple[str, ...] = ()

    @classmethod
    def open(
        cls, source: str, *, name: str | None = None, description: str | None = None, base: str | None = None
    ) -> "Foreign":
        """Read an adapter from a folder, or from the Hub as ``hub:ORG/NAME``.

        Args:
            source: see above.
            name: its id; by default the name of the folder or repository.
            description: in place of what its card says.
            base: in place of the base that it names.

        Raises:
            AdapterError: the adapter is missing, damaged, does nothing, or names no base.
            TaskError: nobody says what it is for.
        """
        folder = _fetched(source)
        adapter = Lora.load(folder)
        if adapter.norm() == 0:
            raise AdapterError(f"The adapter {source} does nothing: all its delta weights are zero; leave it out.")
        named = base or adapter.settings.base_model_name_or_path
        if not named:
            raise AdapterError(f"The adapter {source} does not name its base model; give it with --base.")
        card = _own_card(folder)
        header, body = _model_card(folder)
        told = description or card.get("description") or header.get("description") or next(_prose(body), None)
        if not isinstance(told, str) or not told.strip():
            raise TaskError(
                f"Nobody says what the adapter {source} is for: it has no model card that does; say it in words, with "
                "--description."
            )
        licence = header.get("license") or _licence_of(card)
        plain = source.removeprefix(HUB)
        return cls(
            id=re.sub(r"[^A-Za-z0-9._-]+", "-", name or Path(plain).resolve().name).strip("-._") or "adapter",
            adapter=adapter,
            base=named,
            description=" ".join(told.split()),
            licence=licence if isinstance(licence, str) else "none stated",
            origin=source if source.startswith(HUB) else Path(plain).name,
            labels=tuple(label for label in card.get("labels") or () if isinstance(label, str)),
        )


def _fetched(source: str) -> Path:
    if not source.startswith(HUB):
        return Path(source).expanduser()
    from huggingface_hub import snapshot_download

    name = source.removeprefix(HUB)
    try:
        with quiet_loading():
            return Path(snapshot_download(name, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME, *_CARDS]))
    except (OSError, ValueError) as error:  # both of them roots of the Hub's own errors
        reason = str(error).partition("\n")[0]
        raise AdapterError(
            f"The Hub gave no adapter {name!r} ({reason}); check the name as ORG/NAME, or go online once to fetch it."
        ) from error


def _own_card(folder: Path) -> dict[str, Any]:
    """What loragen itself wrote beside an adapter."""
    try:
        return read_yaml(folder / "card.yaml")
    except ConfigError:
        return {}


def _licence_of(card: dict[str, Any]) -> str | None:
    """What an expert's card says, or, for a generated adapter, what those of its parents say."""
    if isinstance(card.get("licence"), str):
        return str(card["licence"])
    parents = [parent for parent in card.get("parents") or () if isinstance(parent, dict)]
    return "; ".join(sorted({str(parent["licence"]) for parent in parents if "licence" in parent})) or None


def _model_card(folder: Path) -> tuple[dict[str, Any], str]:
    """Header and text of a Hugging Face model card; a damaged header says nothing."""
    path = folder / "README.md"
    if not path.is_file():
        return {}, ""
    text = path.read_text(encoding="utf-8", errors="replace")
    match = re.match(r"---\n(.*?)\n---\n?(.*)", text, re.DOTALL)
    if match is None:
        return {}, text
    try:
        header = yaml.safe_load(match[1])
    except yaml.YAMLError:
        header = None
    return header if isinstance(header, dict) else {}, match[2]


def _prose(body: str) -> Iterator[str]:
    """Paragraphs of a model card that are sentences about it: no headings, tables, lists, images, code or comments."""
    body = re.sub(r"```.*?```|<!--.*?-->", "", body, flags=re.DOTALL)
    for paragraph in re.split(r"\n\s*\n", body):
        lines = [line.strip() for line in paragraph.splitlines() if not line.lstrip().startswith("#")]
        text = " ".join(lines).strip()
        if len(text.split()) >= 3 and not text.startswith(_NO_PROSE) and not _BOILERPLATE.search(text):
            yield text
