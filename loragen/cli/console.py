"""What the command line shows: tables, progress with time left, and one shape for errors. Nothing else prints."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line of rich markup."""
    out.print(text)


def say_json(value: Any) -> None:
    """Print JSON alone on standard output, for scripts."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def say_error(message: str) -> None:
    """Print a user's mistake and the way out."""
    err.print(f"[bold red]error:[/] {escape(message)}")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """Print a table; columns in ``numbers`` are set flush right, and ``expert`` or ``adapter`` is never cut."""
    shown = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        is_number = column in numbers
        shown.add_column(
            column, justify="right" if is_number else "left", no_wrap=is_number or column in ("expert", "adapter")
        )
    for row in rows:
        shown.add_row(*(escape(cell) for cell in row))
    out.print(shown, soft_wrap=False)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show bars on standard error while the block runs; yields ``update(what, done, total)``, a bar a ``what``."""
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

        def update(what: str, done: int, total: int) -> None:
            if what not in known:
                # What an earlier run left done is not speed: the bar starts there.
                known[what] = bars.add_task(what, total=total, completed=done)
            bars.update(known[what], completed=done)

        yield update
