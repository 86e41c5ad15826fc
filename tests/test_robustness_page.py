"""The page on robustness says what the code holds."""

import re
from pathlib import Path

from fuzz.harness import LONG, MEMORY, SECONDS

from loragen import config, patterns
from loragen.bases import pretrained

PAGE = " ".join((Path(__file__).parent.parent / "docs" / "robustness.md").read_text(encoding="utf-8").split())


def test_the_page_says_the_caps_of_the_code():
    assert f"| {patterns.LONGEST:,} characters, {patterns.SECONDS} s a match |" in PAGE
    assert f"| {patterns.SECONDS_OF_RE} s, tried in a process of its own |" in PAGE
    assert f"| {pretrained.MOST_LAYERS:,} | [`pretrained.py`]" in PAGE
    assert f"| {config.LARGEST:,} bytes |" in PAGE


def test_the_page_says_what_fuzzing_allows():
    assert SECONDS == 2
    assert "within two seconds of computing" in PAGE
    assert f"and {MEMORY // 2**30} GiB" in PAGE
    assert f"`make fuzz` tries {LONG:,} others" in PAGE


def test_the_table_names_files_that_are_there():
    places = re.findall(r"\]\(\.\./(loragen/[^)]+)\)", PAGE)
    assert places
    assert all((Path(__file__).parent.parent / place).is_file() for place in places)
