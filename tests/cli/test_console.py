import io
import json
import re

import pytest
from command_line import widest
from rich.console import Console

from loragen.cli import console


class Clock:
    """A clock that stands still until it is set."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def lines(monkeypatch, capsys):
    """Progress without a terminal over a fake clock: call with seconds and an update; gives the lines printed."""
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    shown = console._Lines()

    def at(seconds, *update):
        clock.now = 1000.0 + seconds
        shown.update(*update)
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()

    return at


# --- progress ---


def test_a_stage_is_told_at_its_begin_and_its_end(lines):
    assert lines(0, "experts", 0, 3) == ["experts: 0 of 3"]
    assert lines(0.2, "experts", 1, 3) == []
    assert lines(0.4, "experts", 3, 3) == ["experts: 3 of 3"]
    assert lines(0.5, "experts", 3, 3) == [], "its end is told once"
    assert lines(0.6, "folds", 0, 2) == ["folds: 0 of 2"]


def test_between_them_a_line_comes_at_a_tenth_and_not_within_ten_seconds(lines):
    assert lines(0, "steps", 0, 100) == ["steps: 0 of 100"]
    assert lines(9, "steps", 10, 100) == [], "ten seconds have not gone by"
    assert lines(11, "steps", 11, 100) == ["steps: 11 of 100, 11 s, 1 min 29 s left"]
    assert lines(60, "steps", 19, 100) == [], "the next tenth is not reached"
    assert lines(61, "steps", 20, 100) == ["steps: 20 of 100, 1 min 01 s, 4 min 04 s left"]
    assert lines(61.5, "steps", 100, 100) == ["steps: 100 of 100, 1 min 02 s"]


def test_every_step_of_slow_work_is_told(lines):
    told = [line for step in range(4) for line in lines(3600 * step, "slow", step, 3)]
    assert told == [
        "slow: 0 of 3",
        "slow: 1 of 3, 1 h 00 min, 2 h 00 min left",
        "slow: 2 of 3, 2 h 00 min, 1 h 00 min left",
        "slow: 3 of 3, 3 h 00 min",
    ]


def test_what_an_earlier_run_left_done_is_not_speed(lines):
    assert lines(0, "steps", 80, 100) == ["steps: 80 of 100"]
    assert lines(20, "steps", 90, 100) == ["steps: 90 of 100, 20 s, 20 s left"]


def test_a_stage_that_is_done_at_once_is_one_line(lines):
    assert lines(0, "steps", 5, 5) == ["steps: 5 of 5"]
    assert lines(100, "steps", 5, 5) == []


def test_brackets_in_a_stage_are_no_markup(lines):
    assert lines(0, "experts of [v1][/x]", 1, 2) == ["experts of [v1][/x]: 1 of 2"]


def test_without_a_terminal_progress_is_lines(capsys):
    with console.progress() as update:
        update("work", 0, 1)
        update("work", 1, 1)
    assert capsys.readouterr().err == "work: 0 of 1\nwork: 1 of 1\n"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599.6, "1 h 00 min"),
        (3725, "1 h 02 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_durations_are_said_in_two_units_at_most(seconds, said):
    assert console._duration(seconds) == said


# --- lines and tables ---


@pytest.mark.parametrize("text", ["out/[v1]", "a[/b]c", "[bold]x[/]", "a\\[b]", "[red]"])
def test_a_text_with_brackets_is_shown_as_it_is(text, capsys):
    console.say(text)
    console.done(text)
    console.warn(text)
    console.say_error(text)
    console.table(text, ("text", "p"), [(text, 1)])
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[:3] == [text, f"✓ {text}", f"! {text}"]
    assert captured.err == f"error: {text}\n"
    assert [lines[3].strip(), lines[5].split()] == [text, [text, "1"]]


FORGED = "out/x\n✓ all 12 experts whole\x1b[2J\x1b]8;;https://a.b\x1b\\y\x9b31m\u202e\udcff"
SEEN = "out/x ✓ all 12 experts wholey\ufffd"


def test_a_text_forges_no_line_and_no_colour(capsys, lines):
    for show in (console.say, console.done, console.warn):
        show(FORGED)
    console.table(FORGED, ("text",), [(FORGED,)])
    console.say_error(FORGED)
    captured = capsys.readouterr()
    assert captured.out.splitlines()[:3] == [SEEN, f"✓ {SEEN}", f"! {SEEN}"]
    assert " ".join(captured.out.split("\n", 3)[3].split()) == f"{SEEN} text {SEEN}"
    assert captured.err.splitlines() == ["error: out/x", "  ✓ all 12 experts wholey\ufffd"]
    assert lines(0, FORGED, 0, 1) == [f"{SEEN}: 0 of 1"]


def test_a_list_in_a_table_is_a_text_a_line(capsys):
    console.table("T", ("a",), [(["one", "two\nthree"],)])
    assert [line.strip() for line in capsys.readouterr().out.splitlines()[2:]] == ["one", "two three"]


def test_a_text_of_many_pages_is_cut_in_a_table(capsys):
    console.table("T", ("text",), [("soup " * 40_000,), (["soup " * 40_000, "end"],)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 60
    assert sum(line.count("…") for line in lines) == 2
    assert "end" in lines[-1]


def test_emoji_codes_and_links_are_shown_as_they_are(capsys):
    console.say(":smile: [link=https://a.b]x[/link]")
    console.table("T", ("text",), [(":smile:",)])
    out = capsys.readouterr().out
    assert out.startswith(":smile: [link=https://a.b]x[/link]\n")
    assert out.count(":smile:") == 2


def test_a_bar_shows_its_stage_as_it_is(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=screen, force_terminal=True, width=200))
    with console.progress() as update:
        update("experts of [v1][/x] :smile:\x1b[2J\x1b[31m", 1, 1)
    assert "experts of [v1][/x] :smile:" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "\x1b[2J" not in screen.getvalue()


def test_json_stays_whole_whatever_is_in_it(capsys):
    value = {"a\x1b": ["\x9b31m", "\ud800", "\u202e", float("inf"), "é"]}
    console.say_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == {"a\x1b": ["\x9b31m", "\ud800", "\u202e", None, "é"]}
    assert out.isascii() is False
    assert not set("\x1b\x9b\u202e\ud800") & set(out)


def test_long_lines_are_not_broken(capsys):
    console.say("word " * 60)
    console.say_error("word " * 60)
    captured = capsys.readouterr()
    assert [captured.out.count("\n"), captured.err.count("\n")] == [1, 1]


def test_a_table_is_80_columns_wide_without_a_terminal_and_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    name = "a-name-of-an-expert-that-is-rather-long"
    text = "words that go on and on until nobody reads them any more, as long descriptions do " * 3
    console.table("Title", ("expert", "similarity", "description"), [(name, "0.123", text)], numbers=("similarity",))
    out = capsys.readouterr().out
    assert widest(out) <= 80
    assert name in out
    assert "0.123" in out
    column = " ".join(" ".join(line[-30:] for line in out.splitlines()[2:]).split())
    assert "as long descriptions do" in re.sub(r"\s+", " ", out) or "descriptions" in column
    assert "…" not in out


def test_cells_without_a_space_are_folded_and_not_cut(capsys):
    path = "/a/very/long/path" * 10
    console.table("T", ("expert", "path"), [("x", path)])
    out = capsys.readouterr().out
    assert widest(out) <= 80
    assert path in "".join(line[6:].strip() for line in out.splitlines()[2:]) or path in "".join(out.split())


def test_names_that_are_wider_than_the_table_are_not_lost(capsys):
    name = "x" * 100
    console.table("T", ("expert", "similarity"), [(name, "0.5")], numbers=("similarity",))
    out = capsys.readouterr().out
    assert out.count("x") - out.count("expert") == 100
    assert "0.5" in out


def test_json_is_alone_and_keeps_letters(capsys):
    console.say_json({"a": "日本語 [x]"})
    assert capsys.readouterr().out == '{\n "a": "日本語 [x]"\n}\n'
