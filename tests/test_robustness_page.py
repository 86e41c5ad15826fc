"""The page on robustness says what the code holds."""

import re
from pathlib import Path

import pytest
from fuzz.harness import LONG, MEMORY, SECONDS

from loragen import errors, generation, patterns, yaml_text
from loragen.adapters import reading, settings
from loragen.bases import pretrained
from loragen.cli import options
from loragen.tasks import table_files, tables, words
from loragen.zoo import model_card

TEXT = (Path(__file__).parent.parent / "docs" / "robustness.md").read_text(encoding="utf-8")
PAGE = " ".join(TEXT.split())
CAPS = (
    f"{patterns.LONGEST:,} characters, {patterns.SECONDS} s a match",
    f"{settings.PATTERN_SECONDS:.0f} s",
    f"{patterns.SECONDS_OF_RE} s, tried in a process of its own",
    f"{settings.HIGHEST_RANK:,}",
    f"{reading.CONFIG_BYTES:,} bytes, nested {reading.DEEPEST} deep",
    f"{reading.HEADER_BYTES:,} bytes, {reading.MOST_TENSORS:,} tensors",
    f"{reading.WEIGHTS_BYTES:,} bytes",
    f"its first {model_card.LARGEST:,} bytes",
    f"{pretrained.MOST_LAYERS:,}",
    f"{yaml_text.LARGEST:,} bytes, {yaml_text.MOST_NODES:,} nodes with what aliases repeat, "
    f"nested {yaml_text.DEEPEST} deep",
    f"{table_files.LARGEST:,} bytes, {table_files.MOST_LINES:,} lines, {table_files.MOST_COLUMNS:,} columns",
    f"{tables.MOST_ROWS:,}",
    f"{words.LONGEST_TEXT:,} characters",
    f"{words.MOST_NAMES:,}, of {words.LONGEST_NAME:,} characters each",
    f"{options.MOST_SAMPLES:,} on the command line, {generation.MOST_SAMPLES:,} in Python",
    f"{errors.LONGEST:,} characters",
)
"""The middle column of the table, from the top down."""


def test_the_table_says_the_caps_of_the_code():
    rows = re.findall(r"^\| (?!what)([^|]+) \| ([^|]+) \| \[`[^`]+`\]", TEXT, re.MULTILINE)
    assert [at_most for _, at_most in rows] == list(CAPS)


def test_the_page_says_what_fuzzing_allows():
    assert SECONDS == 2
    assert "within two seconds of computing" in PAGE
    assert f"and {MEMORY // 2**30} GiB" in PAGE
    assert f"`make fuzz` tries {LONG:,} others" in PAGE


@pytest.mark.parametrize("place", sorted(set(re.findall(r"\]\(\.\./(loragen/[^)]+)\)", TEXT))))
def test_the_table_names_files_that_are_there(place):
    assert (Path(__file__).parent.parent / place).is_file()
