"""Cards: those of others are read or left aside; ours hold nothing but text, whatever names they are made of."""

import ast
import re
import unicodedata

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.cards import FOLDER, folders, texts
from fuzz.files import Mutant
from fuzz.harness import examples, outcome
from loragen.adapters.adapter import Lora
from loragen.exporters.card import GeneratedCard, merged_card, model_card
from loragen.inference import Adapter
from loragen.zoo.external_adapter import ExternalAdapter

ESCAPED = re.compile(r"^```python\n.*?^```$|\\.|`[^`\n]*`|&[#\w]+;", re.DOTALL | re.MULTILINE)
"""What Markdown shows as it stands."""
DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that turn the direction of writing."""


@settings(max_examples=examples("light"))
@given(mutant=folders())
def test_cards_of_others_are_read_or_left_aside(mutant, scratch):
    folder = mutant.write(scratch / "card")
    outcome("cards, imported", lambda: ExternalAdapter.open(str(folder)))
    outcome("cards, loaded", lambda: Adapter.load(folder))


@settings(max_examples=examples("middle"))
@given(base=texts(), description=texts(), name=texts(), labels=st.lists(texts(), max_size=2))
def test_our_cards_hold_text_alone(base, description, name, labels, scratch):
    folder = Mutant(FOLDER).write(scratch / "ours")
    lora = Lora.load(folder)
    values = yaml.safe_load(FOLDER["card.yaml"]) | {"base": base, "description": description, "generator": name}
    values["parents"] = [{**values["parents"][0], "id": name, "licence": description, "origin": base}]

    def write():
        card = GeneratedCard.checked(values | {"labels": labels}, source="here")
        return model_card(card, lora), merged_card(base, lora, card)

    written = outcome("cards, written", write)
    for text in () if isinstance(written, Exception) else written:
        _check_text(text)
    if not isinstance(written, Exception):
        _check_code(written[0])


def _check_text(text: str) -> None:
    strange = {letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")} - {"\n"}
    assert not strange | (DIRECTIONS & set(text)), "control characters"
    _, header, body = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    assert set(yaml.safe_load(header)) == {"base_model", "library_name", "tags"}
    plain = ESCAPED.sub("", body)
    assert "<" not in plain, "markup"
    assert "](" not in plain, "a link"


def _check_code(text: str) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    imports, other, assigned = ast.parse(code).body
    assert (type(imports), type(other), type(assigned)) == (ast.ImportFrom, ast.ImportFrom, ast.Assign)
    calls = {ast.unparse(node.func) for node in ast.walk(assigned) if isinstance(node, ast.Call)}
    assert calls == {"PeftModel.from_pretrained", "AutoModel.from_pretrained"}
