"""The card file of an adapter's folder, read: a generated adapter's, an expert's, or the few facts of any other."""

from pathlib import Path

from loragen.bases.base import LabelTargets
from loragen.bases.wording import PROMPT, Chat, Wording
from loragen.config import read_yaml
from loragen.errors import ConfigError
from loragen.exporters.card import GeneratedCard
from loragen.recipes.expert import ExpertRecipe

CARD = "card.yaml"


def read_facts(folder: Path) -> dict[str, object]:
    """What the card file of a folder holds; nothing where there is none, or a damaged one."""
    try:
        return read_yaml(folder / CARD)
    except ConfigError:
        return {}


def generated_card(facts: dict[str, object], folder: Path) -> GeneratedCard | None:
    """The card of a generated adapter; `None` for any other, or one that a later version wrote."""
    try:
        return GeneratedCard.checked(facts, source=str(folder / CARD)) if "generator" in facts else None
    except ConfigError:
        return None


def wording_of(facts: dict[str, object], card: GeneratedCard | None) -> Wording:
    """How an adapter's task is put to a language model, by the card of a generated adapter, of an expert, or ours."""
    if card is not None:
        return card.wording or PROMPT
    provenance, wording = facts.get("provenance"), facts.get("wording")
    recipe = provenance.get("recipe") if isinstance(provenance, dict) else None
    try:
        if isinstance(recipe, dict):
            asked = {key: recipe[key] for key in ("prompt", "chat") if key in recipe}
            return ExpertRecipe.checked(asked, source=CARD).wording
        return Chat.checked(wording, source=CARD) if isinstance(wording, dict) else str(wording or PROMPT)
    except ConfigError:
        return PROMPT


def label_targets_of(facts: dict[str, object], card: GeneratedCard | None) -> LabelTargets:
    """What an adapter's texts are compared with, by the card of a generated adapter, of an expert, or ours."""
    if card is not None:
        return card.label_targets
    provenance = facts.get("provenance")
    recipe = provenance.get("recipe") if isinstance(provenance, dict) else None
    held = recipe if isinstance(recipe, dict) else facts
    return "frozen" if held.get("label_targets") == "frozen" else "moving"
