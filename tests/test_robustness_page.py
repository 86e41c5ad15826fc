"""The page on robustness says what the code holds."""

import re
from pathlib import Path

from fuzz.harness import LONG, MEMORY, SECONDS

from loragen import errors, generation, patterns, values, yaml_text
from loragen.adaptation import texts
from loragen.adapters import reading, settings
from loragen.base_store import gguf_header
from loragen.bases import hub_files, pretrained
from loragen.cli import options
from loragen.tasks import table_files, tables, words
from loragen.zoo import external_adapter, model_card

PAGE = " ".join((Path(__file__).parent.parent / "docs" / "robustness.md").read_text(encoding="utf-8").split())


def test_the_page_says_the_caps_of_the_code():
    assert f"| {patterns.LONGEST:,} characters, {patterns.SECONDS} s a match |" in PAGE
    assert f"| {patterns.SECONDS_OF_RE} s, tried in a process of its own |" in PAGE
    assert f"| {pretrained.MOST_LAYERS:,} | [`pretrained.py`]" in PAGE
    weights, header, tensors = reading.WEIGHTS_BYTES // 2**30, reading.HEADER_BYTES, reading.MOST_TENSORS
    assert f"| {reading.CONFIG_BYTES:,} bytes, {reading.DEEPEST} levels |" in PAGE
    assert f"| {weights} GiB, a header of {header:,} bytes, {tensors:,} tensors |" in PAGE
    assert f"| {values.LARGEST_LAYER:,} | [`values.py`]" in PAGE
    assert settings.HIGHEST_RANK == values.LARGEST_LAYER
    aliases = f"{yaml_text.MOST_NODES:,} values with aliases counted each time"
    assert f"| {yaml_text.LARGEST:,} bytes, {aliases}, {yaml_text.DEEPEST} levels |" in PAGE
    assert f"| its first {model_card.LARGEST:,} bytes |" in PAGE
    whole = f"{table_files.LARGEST:,} bytes (JSON: {table_files.LARGEST_WHOLE:,})"
    assert f"| {whole}, {tables.MOST_ROWS:,} rows |" in PAGE
    longest = f"{words.LONGEST_TEXT:,} and {words.LONGEST_NAME:,} characters"
    assert f"| {longest}, {words.MOST_NAMES:,} names |" in PAGE
    assert f"| {values.LONGEST_NAME} letters, digits" in PAGE
    assert f"| {options.MOST_SAMPLES:,} by a command, {generation.MOST_SAMPLES:,} in the library |" in PAGE
    assert f"| {texts.FEWEST} different ones at least; of more than {texts.MOST:,} so many are drawn |" in PAGE
    adapter, base = external_adapter.LIMITS.size // 10**9, hub_files.MODEL_LIMITS.size // 10**9
    assert f"| {adapter} GB an adapter, {base} GB a base |" in PAGE
    file, header = f"{gguf_header.LARGEST_FILE // 10**9} GB", f"a header of {gguf_header.LARGEST_HEADER:,} bytes"
    counts = f"{gguf_header.MOST_TENSORS:,} tensors, {gguf_header.MOST_VALUES:,} values"
    assert f"| {file}, {header}, {counts} |" in PAGE
    assert f"| {errors.LONGEST} characters | [`errors.py`]" in PAGE


def test_the_page_says_what_fuzzing_allows():
    assert SECONDS == 2
    assert "within two seconds of computing" in PAGE
    assert f"and {MEMORY // 2**30} GiB" in PAGE
    assert f"`make fuzz` tries {LONG:,} others" in PAGE


def test_the_table_names_files_that_are_there():
    places = re.findall(r"\]\(\.\./(loragen/[^)]+)\)", PAGE)
    assert places
    assert all((Path(__file__).parent.parent / place).is_file() for place in places)
