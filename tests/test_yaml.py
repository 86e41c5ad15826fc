"""YAML from outside: whatever it holds, it ends in plain values or one ConfigError, soon."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loragen.errors import ConfigError
from loragen.yaml_text import DEEPEST, MOST_NODES, parse_yaml

CONFIGS = sorted((Path(__file__).parent.parent / "configs").rglob("*.yaml"))
LIMIT = 10.0
"""Seconds, on a machine with much else to do."""
BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x]"]
    + [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]" for i in range(12)]
)


def refused(text: str | bytes, *, within: float = LIMIT) -> str:
    begun = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "here")
    assert time.monotonic() - begun < within
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("here")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        (BOMB, "counting what aliases stand for"),
        ("a: &a [*a]", "stands within what it names"),
        ("&a {b: *a}", "stands within what it names"),
        ("[" * 100_000, "levels deep"),
        ("- " * 100_000, "levels deep"),
        ("{a: " * 100_000, "levels deep"),
        ("? " * 100_000, "levels deep"),
        ("a: [" + "1," * 1_900_000 + "]", f"over {MOST_NODES:,} keys and values"),
        ("a: " + "9" * 5_000, "a number or date of 5,000 characters"),
        ("a: 0x" + "f" * 5_000, "a number or date of 5,002 characters"),
        ("a: 1" + ":59" * 100_000, "a number or date of 300,001 characters"),
        ("a: " + "x" * 5_000_000, "no config has over 4,000,000"),
        ("a: 1\nb: 2\na: 3", "the key a stands twice at line 3"),
        ("a: {b: 1, b: 1}", "the key b stands twice"),
        ("1: a\n0x1: b", "the key 0x1 stands twice"),
        ("<<: 3", "merging"),
        ("a: {<<: [1]}", "merging"),
        ("? [a]: b", "unhashable key"),
        ("{a: b}: c", "unhashable key"),
        ("!!set {a, b}", "a set, which no file"),
        ("!!omap [a: 1]", "a omap, which no file"),
        ("!!binary aGk=", "a binary, which no file"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("!!python/name:os.system ''", "could not determine a constructor"),
        ("a: !!int ''", "'' is no int at line 1"),
        ("a: 0b_", "'0b_' is no int"),
        ("a: !!int +", "'+' is no int"),
        ("a: !!int 1:a", "'1:a' is no int"),
        ("a: !!float x", "'x' is no float"),
        ("a: !!float ''", "'' is no float"),
        ("a: !!bool x", "'x' is no bool"),
        ("a: !!timestamp x", "'x' is no timestamp"),
        ("a: 2024-02-30", "'2024-02-30' is no timestamp"),
        ("a: 2024-01-01 25:00:00", "is no timestamp"),
        ("a: !!str [b]", "expected a scalar"),
        ("a\n---\nb", "single document"),
        ("*" + "x" * 10_000, "undefined alias"),
        ("!" + "x" * 10_000 + " y", "could not determine"),
        ('"\\ud800"', "invalid Unicode"),
        ("\ud800", "surrogates"),
        ("\x00", "control characters"),
        (b"a: \xff", "utf-8"),
    ],
)
def test_what_is_no_plain_value_within_bounds_is_one_line(text, mention):
    assert mention in refused(text)


def test_merges_of_merges_are_counted_too():
    lines = ["a: &a {x: 1}"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join([f'*{chr(97 + i)}'] * 9)}]}}" for i in range(12)]
    assert "counting what aliases stand for" in refused("\n".join(lines))


def test_aliases_and_merges_within_bounds_mean_what_yaml_says():
    values = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [*a, *a]\n", "here")
    assert values == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": [{"x": 1, "y": 2}] * 2}
    # A key of the mapping's own comes before one that is merged in, in whatever order they stand.
    assert parse_yaml("a: &a {x: 1}\nb: {x: 3, <<: *a}", "here")["b"] == {"x": 3}


def test_depth_is_counted_and_not_number():
    fits = "[" * (DEEPEST - 1) + "x" + "]" * (DEEPEST - 1)
    assert str(parse_yaml(fits, "here")).count("[") == DEEPEST - 1
    assert "levels deep" in refused(f"[{fits}]")
    assert len(parse_yaml("\n".join(f"- [{i}]" for i in range(1000)), "here")) == 1000


def test_numbers_and_texts_are_what_they_were():
    text = "a: 0x1f\nb: 1_000\nc: 1e-4\nd: 1.5\ne: yes\nf: '1'\ng: null\nh: 190:20:30\n"
    met = parse_yaml(text, "here")
    assert met == {"a": 31, "b": 1000, "c": "1e-4", "d": 1.5, "e": True, "f": "1", "g": None, "h": 685230}
    assert parse_yaml("a: " + "x" * 100_000, "here") == {"a": "x" * 100_000}


@settings(max_examples=100)
@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_text_is_values_or_one_error(text):
    _parsed(text)


PIECES = ("a", "1", ": ", "- ", "\n", "  ", "[", "]", "{", "}", ", ", "&a ", "*a", "!!int ", "!!float ", "!!set ", "<<")
MORE = (
    "? ",
    "|",
    ">",
    '"',
    "'",
    "#",
    "---\n",
    "...\n",
    "%",
    "0x",
    "0b_",
    ".inf",
    ".nan",
    "2024-02-30",
    ":59",
    "=",
    "!",
)


@settings(max_examples=150)
@given(st.lists(st.sampled_from((*PIECES, *MORE)), max_size=40).map("".join))
def test_any_pieces_of_yaml_are_values_or_one_error(text):
    _parsed(text)


@settings(max_examples=60)
@given(st.sampled_from(CONFIGS), st.integers(0, 10_000), st.integers(0, 30), st.sampled_from((*PIECES, *MORE)))
def test_any_change_of_a_ready_config_is_values_or_one_error(path, at, length, piece):
    text = path.read_text()
    at %= len(text)
    _parsed(text[:at] + piece + text[at + length :])


def _parsed(text: str | bytes) -> None:
    begun = time.monotonic()
    message = ""
    try:
        parse_yaml(text, "here")
    except ConfigError as error:
        message = str(error)
    assert len(message) < 1000
    assert not message or message.startswith("here")
    assert time.monotonic() - begun < LIMIT


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_ready_configs_are_read(path):
    import yaml

    assert parse_yaml(path.read_bytes(), str(path)) == yaml.safe_load(path.read_text())


# --- files ---


def test_files_that_are_none_are_refused_and_do_not_hang(tmp_path):
    from loragen.config import read_yaml

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("a: 1")
    begun = time.monotonic()
    for path, mention in (
        (tmp_path / "pipe", "is a pipe"),
        (tmp_path, "is a directory"),
        (tmp_path / "loop", "symbolic links"),
        (tmp_path / "file" / "under", "Not a directory"),
        (tmp_path / ("x" * 300), "too long"),
        (Path("a\0b"), "null"),
        (Path("/dev/zero"), "is a device"),
        (Path("/proc/self/mem"), "cannot be read"),
        (tmp_path / ("sub/" * 3000), "too long"),
    ):
        with pytest.raises(ConfigError, match=mention) as caught:
            read_yaml(path)
        assert len(str(caught.value)) < 1000
    assert time.monotonic() - begun < LIMIT
