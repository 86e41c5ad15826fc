"""Output of the command line: tables, progress with time left, and one shape for errors. Nothing else prints."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

WIDTH = 80
"""Columns of a table where the width of the screen is not known."""
NAME = 40
"""Columns of a name that is not broken over lines."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


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


def say(text: object) -> None:
    """Print a line as it is: brackets in it are no markup."""
    out.print(escape(str(text)))


def done(text: object) -> None:
    """Print a line on work that succeeded."""
    out.print(f"[green]✓[/] {escape(str(text))}")


def warn(text: object) -> None:
    """Print a line that wants attention."""
    out.print(f"[yellow]![/] {escape(str(text))}")


def say_json(value: Any) -> None:
    """Print JSON alone on standard output, for scripts."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=1)  # escapes that every reader of JSON knows
    sys.stdout.write(text + "\n")


def say_error(message: str) -> None:
    """Print a user's mistake and the way out."""
    err.print(f"[bold red]error:[/] {escape(message)}")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()) -> None:
    """Print a table that fits the screen, or 80 columns where there is none.

    Args:
        title: a line above it.
        columns: their headings.
        rows: cells, which are shown as they are: brackets in them are no markup.
        numbers: headings of columns that are set flush right.
    """
    shown = Table(
        title=escape(title), title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    cells = [tuple(map(str, row)) for row in rows]
    for place, column in enumerate(columns):
        is_number = column in numbers
        is_name = column in ("expert", "adapter", "config") and all(len(row[place]) <= NAME for row in cells)
        shown.add_column(
            escape(column), justify="right" if is_number else "left", no_wrap=is_number or is_name, overflow="fold"
        )
    for row in cells:
        shown.add_row(*map(escape, row))
    out.print(shown, soft_wrap=False, width=out.width if out.is_terminal else WIDTH)


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
        TextColumn("{task.description}"),
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
                known[stage] = bars.add_task(stage, total=total, completed=done)
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
        err.print(escape(f"{stage}: {done} of {total}{spent}{left}"))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
