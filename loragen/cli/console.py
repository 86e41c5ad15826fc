"""Output of the command line: tables, progress with time left, and one shape for errors. Nothing else prints."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from loragen.escaping import json_text, plain, plain_lines

WIDTH = 80
"""Columns of a table where the width of the screen is not known."""
NAME = 40
"""Columns of a name that is not broken over lines."""
CELL = 2_000
"""Characters of a text in a table; files and JSON hold all of it."""
NAMES = ("expert", "adapter", "base", "config", "recipe", "option")
"""Headings of columns of names."""

out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def prepare() -> None:
    """Make the streams take any text: letters that the terminal's encoding lacks are written as escapes.

    A stream that was closed before the program began takes all and keeps nothing.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the program runs
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(*lines: object) -> None:
    """Print lines as they are: brackets in them are no markup, and a line break in one begins no other."""
    for line in lines:
        out.print(plain(str(line)))


def say_text(text: str) -> None:
    """Print a text of several lines."""
    out.print(plain_lines(text))


def done(text: object) -> None:
    """Print a line on work that succeeded."""
    _marked("✓", "green", text)


def warn(text: object) -> None:
    """Print a line that wants attention."""
    _marked("!", "yellow", text)


def _marked(mark: str, style: str, text: object) -> None:
    out.print(Text.assemble((mark, style), " ", plain(str(text))))


def say_json(value: Any) -> None:
    """Print JSON alone on standard output, for scripts."""
    sys.stdout.write(json_text(value, sys.stdout.encoding or "utf-8") + "\n")


def say_error(message: str) -> None:
    """Print a user's mistake and the way out; its further lines are set in, so that none passes for another message."""
    first, *rest = plain_lines(message).split("\n")
    set_in = (line if line.startswith(" ") else f"  {line}" for line in rest)
    err.print(Text.assemble(("error:", "bold red"), " ", "\n".join([first, *set_in])))


def say_usage(error: Any) -> None:
    """Print what is wrong with a command line, and where its help is, unless the error is that help itself."""
    if type(error).__name__ != "NoArgsIsHelpError":
        help_of = f"; see `{error.ctx.command_path} --help`." if error.ctx is not None else ""
        say_error(plain(error.format_message()).rstrip(". ") + help_of)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()) -> None:
    """Print a table that fits the screen, or 80 columns where there is none.

    Args:
        title: a line above it.
        columns: their headings.
        rows: cells, which are shown as they are: brackets in them are no markup. A list of texts is one a line, and a
            text over `CELL` characters is cut.
        numbers: headings of columns that are set flush right.
    """
    shown = Table(
        title=Text(plain(title)), title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    cells = [tuple(map(_cell, row)) for row in rows]
    for place, column in enumerate(columns):
        is_number = column in numbers
        is_name = column in NAMES and all(len(row[place]) <= NAME for row in cells)
        shown.add_column(
            Text(plain(column)), justify="right" if is_number else "left", no_wrap=is_number or is_name, overflow="fold"
        )
    for row in cells:
        shown.add_row(*map(Text, row))
    out.print(shown, soft_wrap=False, width=out.width if out.is_terminal else WIDTH)


def _cell(value: object) -> str:
    return "\n".join(map(_line, value)) if isinstance(value, list) else _line(value)


def _line(value: object) -> str:
    text = str(value)
    return plain(text if len(text) <= CELL else f"{text[: CELL - 1]}…")


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show progress on standard error while the block runs; yields ``update(stage, done, total)``.

    A terminal gets a bar a stage. Anywhere else, such as in a log file, a line is printed when a stage begins, at every
    tenth of it but not more often than every ten seconds, and at its end.
    """
    if err.is_terminal:
        with _bars() as update:
            yield update
    else:
        yield _Lines().update


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bars:
        known: dict[str, Any] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in known:
                # Work that an earlier run left done is not speed: the bar starts there.
                known[stage] = bars.add_task(plain(stage), total=total, completed=done)
            bars.update(known[stage], completed=done)

        yield update


class _Lines:
    """Progress as lines of a log."""

    EVERY = 10.0
    """Least seconds between two lines of a stage."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[float, int]] = {}
        self._last: dict[str, tuple[float, int]] = {}

    def update(self, stage: str, done: int, total: int) -> None:
        """Print a line where one is due."""
        now = time.monotonic()
        begun, first = self._begun.setdefault(stage, (now, done))
        last, tenth = self._last.get(stage, (-self.EVERY, -1))
        reached = 10 * done // max(total, 1)
        is_end = done >= total > 0
        if (reached == tenth or now - last < self.EVERY) and not (is_end and tenth < 10):
            return
        self._last[stage] = now, reached
        elapsed = now - begun
        left = "" if is_end or done <= first else f", {_duration(elapsed * (total - done) / (done - first))} left"
        spent = f", {_duration(elapsed)}" if elapsed >= 1 else ""
        err.print(plain(f"{stage}: {done} of {total}{spent}{left}"))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
