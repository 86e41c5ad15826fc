"""Text from outside in every place where it is shown: it is shown as it is, and starts nothing."""

import ast
import csv
import io
import json
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from loragen.escaping import (
    csv_text,
    figure_text,
    json_text,
    markdown,
    markdown_code,
    plain,
    plain_lines,
    python_literal,
    yaml_literal,
)

ATTACKS = [
    "[x](javascript:alert(1))",
    "![x](https://a.b/c.png)",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<https://a.b>",
    "https://a.b www.a.b",
    "&lt;b&gt; &#x41;",
    "a\n# heading\n\n- item",
    "---\nlicense: mit\n---",
    "===",
    "- a",
    "+ b",
    "1. c",
    "12) d",
    "> e",
    "# f #",
    "`code` ``",
    "```\nend",
    "~~~",
    "*a* _b_ __c__ ~~d~~ $e$",
    "a|b\\|c\\",
    'x"); import os; os.system("id"); ("',
    "'''",
    "[red]x[/] [link=https://a.b]y[/link] :smile:",
    "\x1b[31mred\x1b[0m \x9b31m \x1b]8;;https://a.b\x1b\\link\x1b]8;;\x07",
    "\u202eevil\u2066\u200f\ufeff\U000e0041",
    "lone \ud800 half",
    "$\\frac",
    "_hidden",
]
MARKUP = st.text(st.sampled_from("\\`*_[]()<>|&~#$!-+=.:;/ \n\t\"'@1aéw\u202e\x1b{}^%"), max_size=40)
TEXTS = st.one_of(st.text(max_size=60), MARKUP, st.sampled_from(ATTACKS))
RENDERED = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def on_one_line(text: str) -> str:
    return " ".join(plain(text).split())


def shown(source: str) -> tuple[list[str], str]:
    """Types of the tokens of a document and the text in them."""
    types, texts = [], []
    for token in RENDERED.parse(source):
        types.append(token.type)
        for child in token.children or ():
            types.append(child.type)
            texts.append(child.content)
    return types, "".join(texts)


@given(TEXTS)
def test_markdown_shows_a_text_as_it_is(text):
    types, read = shown(markdown(text))
    assert read == on_one_line(text)
    assert set(types) <= {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}


@given(TEXTS)
def test_a_cell_of_a_table_shows_a_text_as_it_is(text):
    types, read = shown(f"| a | b |\n|---|---|\n| {markdown(text)} | end |\n")
    assert read == f"ab{on_one_line(text)}end"
    assert [types.count(kind) for kind in ("tr_open", "td_open")] == [2, 2]
    assert not {"link_open", "image", "html_inline", "code_inline", "em_open", "s_open"} & set(types)


@given(TEXTS)
def test_a_heading_and_a_list_show_a_text_as_it_is(text):
    for before, kind in (("# For: ", "heading_open"), ("- for: ", "bullet_list_open")):
        types, read = shown(f"{before}{markdown(text)}\n")
        assert read == f"{before.lstrip('#- ')}{on_one_line(text)}".strip()
        assert types.count(kind) == 1


@given(TEXTS)
def test_a_name_in_code_font_is_shown_as_it_is(text):
    types, read = shown(f"- name: {markdown_code(text)}, end")
    assert read == f"name: {on_one_line(text)}, end"
    assert not {"link_open", "image", "html_inline"} & set(types)


@given(TEXTS)
def test_a_python_literal_is_one_constant_of_exactly_the_text(text):
    literal = python_literal(text)
    (call,) = ast.parse(f"f({literal})").body
    assert [type(argument) for argument in call.value.args] == [ast.Constant]
    assert call.value.args[0].value == text
    assert literal.isprintable()
    assert not set("`<>&") & set(literal)


@given(st.one_of(st.text(max_size=60), st.sampled_from(["org/base", "a_b/c-1.0", "1/2", "true", "~", "null", "/a/b"])))
def test_a_yaml_literal_is_one_scalar_of_exactly_the_text(text):
    literal = yaml_literal(text)
    assert yaml.safe_load(f"a: {literal}\nb: 1\n") == {"a": text, "b": 1}
    assert literal.isprintable()
    assert not set("`<>&[]") & set(literal)


@given(st.one_of(st.text(st.characters(), max_size=60), st.sampled_from(ATTACKS)))
def test_plain_text_is_one_line_that_any_terminal_and_file_can_hold(text):
    line = plain(text)
    line.encode()
    assert not set(line) & set(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x202E, 0x2066, 0xFEFF]))
    assert plain(line) == line
    assert plain_lines(text).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]8;;https://evil\x1b\\here\x1b]8;;\x1b\\", "here"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]0;no end", "0;no end"),
        ("\x1bc\x1b(Bx", "x"),
        ("a\x08b\rc", "ab c"),
        ("a\nb\r\nc\td", "a b c d"),
        ("abc\u202edcba\u202c", "abcdcba"),
        ("\u0645\u06cc\u200c\u062e\u0648", "\u0645\u06cc\u200c\u062e\u0648"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("日本語 é", "日本語 é"),
        ("a\udcff", "a\ufffd"),
    ],
)
def test_what_cannot_be_seen_is_left_out_and_what_is_written_stays(text, seen):
    assert plain(text) == seen


@pytest.mark.parametrize("unit", ["\x1b]", "\x9d", "\x1b[", "\x9b0", "\\", "_", "`", "1.", "\x1b]\x9d", "#"])
def test_a_long_text_takes_no_long_time(unit):
    text, begun = unit * 200_000, time.process_time()
    assert len(markdown(text)) <= 2 * len(text) + 1
    assert time.process_time() - begun < 10


@given(st.recursive(st.one_of(st.none(), st.integers(), st.text(st.characters())), lambda x: st.lists(x, max_size=3)))
def test_json_reads_back_and_holds_nothing_unseen(value):
    written = json_text({"a": value})
    assert json.loads(written) == {"a": value}
    assert "".join(map(plain, written.split("\n"))) == written.replace("\n", "")


def test_json_has_no_number_that_is_none():
    assert json.loads(json_text([float("nan"), {"a": (float("inf"), 1.5)}])) == [None, {"a": [None, 1.5]}]


CELLS = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.sampled_from(["\r", "=1+1", "-x"]))


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=4))
def test_csv_reads_back_also_where_a_spreadsheet_would_take_it_for_a_formula(rows):
    assert list(csv.reader(io.StringIO(csv_text(rows), newline=""))) == rows


@pytest.mark.parametrize("text", ["a$b", "$\\frac", "$$", "_x", "\\$", "^{", "é"])
def test_a_figure_shows_a_text_as_it_is(text, tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.add_subplot()
    axes.plot([1], [1], label=figure_text(text))
    axes.set_title(figure_text(text))
    axes.legend()
    figure.savefig(tmp_path / "figure.png")
    (label,) = axes.get_legend().get_texts()
    assert label._preprocess_math(label.get_text()) == (text if text[0] != "_" else f" {text}", False)
