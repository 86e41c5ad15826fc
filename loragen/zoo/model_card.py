"""Model cards of the Hugging Face Hub: the licence in their header, and the sentence that says what a model is for.

Most cards are a template that nobody filled in. Its sentences describe no model, so they are told by comparison with
the template that is installed with huggingface_hub, and those that training tools write by how they begin.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from loragen.errors import ConfigError
from loragen.paths import read_capped
from loragen.yaml_text import parse_yaml

LARGEST = 200_000
"""Bytes of a model card that are read; what stands further down says nothing of what the model is for."""
LONGEST_HEADING = 300
"""Characters of a line that can be a heading."""
MODEL_CARD = "README.md"

_DESCRIBING = {"model details", "model description", "uses", "direct use", "downstream use"}
"""Sections of the template that are about the model's purpose; text in its other sections is about something else."""
_OF_TRAINING_TOOLS = {
    "citations",
    "framework versions",
    "quick start",
    "training and evaluation data",
    "training hyperparameters",
    "training procedure",
    "training results",
}
"""Sections that training tools write, and that are not about the model's purpose."""
_WRITTEN_BY_TOOLS = re.compile(
    r"more information needed|provide a (quick|longer) summary|^use the code below|^cite \w+ as|"
    r"^(this|the following) (model card|hyperparameters) (has|have|were|was)\b|"
    r"^this ([\w.-]+ )?(model|adapter) (is a fine-?tun|was (fine-?tuned|trained) (from scratch|using|with|\d))|"
    r"^it (achieves the following|has been trained)\b",
    re.IGNORECASE,
)
"""Sentences that training tools write."""
_NO_PROSE = ("|", "-", "*", "!", "[", "<", ">")
_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*$")
_OPENING = re.compile(r"```|<!--")
_JINJA_DEFAULT = re.compile(r"\{\{[^}]*?default\(\"(.*?)\"[^}]*\}\}")


@dataclass(frozen=True)
class ModelCard:
    """Header and text of a model card; both empty where there is none."""

    header: dict[str, Any]
    text: str

    @classmethod
    def read(cls, folder: Path) -> "ModelCard":
        """Read the card of a model's folder; a damaged header says nothing."""
        path = folder / MODEL_CARD
        if not path.is_file():
            return cls({}, "")
        try:
            text = read_capped(path, LARGEST, kind="model card", whole=False).decode("utf-8", errors="replace")
        except ConfigError:
            return cls({}, "")
        text = text.replace("\r\n", "\n")
        match = re.match(r"---\n(.*?)\n---\n?(.*)", text, re.DOTALL)
        if match is None:
            return cls({}, text)
        try:
            header = parse_yaml(match[1], str(path))
        except ConfigError:
            header = None
        return cls(header if isinstance(header, dict) else {}, match[2])

    @property
    def licence(self) -> str | None:
        """The licence that the header names."""
        licence = self.header.get("license")
        return licence if isinstance(licence, str) else None

    @cached_property
    def description(self) -> str | None:
        """The purpose of the model: what the header says, or else the first paragraph that is of no template."""
        told = self.header.get("description")
        return told if isinstance(told, str) and told.strip() else next(self._paragraphs(), None)

    def _paragraphs(self) -> Iterator[str]:
        """Paragraphs of sentences on the model: no headings, tables, lists, images, code, comments or template text."""
        text = _without_code_and_comments(self.text)
        for paragraph in re.split(r"\n\s*\n", "\n\n".join(_describing_sections(text))):
            lines = [line for line in map(_plain, paragraph.splitlines()) if line and line not in _template().lines]
            prose = " ".join(lines)
            if len(prose.split()) >= 3 and not prose.startswith(_NO_PROSE) and not _WRITTEN_BY_TOOLS.search(prose):
                yield prose


def _without_code_and_comments(text: str) -> str:
    """A text without ``` blocks and comments; an opening without its end stays. In time linear in the text."""
    kept, at, search_from = [], 0, 0
    closings = {"```": "```", "<!--": "-->"}
    while opening := _OPENING.search(text, search_from):
        closing = closings.get(opening[0])
        end = -1 if closing is None else text.find(closing, opening.end())
        if closing is None or end < 0:
            closings.pop(opening[0], None)  # nor has any later one an end
            search_from = opening.start() + 1
            continue
        kept.append(text[at : opening.start()])
        at = search_from = end + len(closing)
    return "".join((*kept, text[at:]))


@dataclass(frozen=True)
class _Template:
    """The template of model cards: its lines of text, and the names of its sections."""

    lines: frozenset[str]
    sections: frozenset[str]


@cache
def _template() -> _Template:
    text = (files("huggingface_hub") / "templates" / "modelcard_template.md").read_text(encoding="utf-8")
    text = _JINJA_DEFAULT.sub(lambda match: match[1], text)  # as it is rendered where nothing is filled in
    text = re.sub(r"<!--(.*?)-->", lambda match: match[1], text, flags=re.DOTALL)  # some tools keep the hints as text
    headings = (match for line in text.splitlines() if (match := _HEADING.match(line)))
    sections = frozenset(_section(match[2]) for match in headings if match[1] != "#")  # that one is the title
    return _Template(frozenset(map(_plain, text.splitlines())), sections)


def _describing_sections(text: str) -> Iterator[str]:
    """The text of a card, section by section, without the sections that are not about the model's purpose."""
    skipped = (_template().sections | _OF_TRAINING_TOOLS) - _DESCRIBING
    lines: list[str] = []
    skipped_level: int | None = None  # of the heading over the section that is being skipped
    for line in text.splitlines():
        heading = _HEADING.match(line) if len(line) <= LONGEST_HEADING else None
        if heading and (skipped_level is None or len(heading[1]) <= skipped_level):
            yield "\n".join(lines)
            lines = []
            skipped_level = len(heading[1]) if _section(heading[2]) in skipped else None
        elif not heading and skipped_level is None:
            lines.append(line)
    yield "\n".join(lines)


def _section(heading: str) -> str:
    return heading.casefold().replace("[optional]", "").strip(" :")


def _plain(line: str) -> str:
    return " ".join(line.split())
