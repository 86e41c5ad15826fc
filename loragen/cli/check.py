"""`loragen check`: does an adapter fit its base, and what loads it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.options import BaseOption, JsonOption

if TYPE_CHECKING:
    from loragen.exporters.check import CheckResult


def check(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder.")],
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check an adapter's keys and shapes against its base, without the base's weights, and what servers make of it."""
    import loragen
    from loragen.cli import console

    result = loragen.check(adapter, base)
    if as_json:
        console.say_json(
            {
                "adapter": str(adapter),
                "base": result.base,
                "base_class": None if result.architecture is None else result.architecture.model_class,
                "unchecked": result.remark,
                "notes": result.notes,
                "faults": result.faults,
                "verdicts": [asdict(verdict) for verdict in result.verdicts],
            }
        )
    else:
        _show(adapter, result)
    if result.faults:
        raise typer.Exit(2)


def _show(adapter: Path, result: "CheckResult") -> None:
    from loragen.cli import console

    for note in result.notes:
        console.say(f"note: {note}")
    for fault in result.faults:
        console.say_error(fault)
    if result.architecture is None:
        console.warn(f"Keys and shapes were not checked: {result.remark}")
    elif not result.faults:
        console.done(f"all {len(result.adapter.sites)} sites are in {result.architecture.model_class}, of these shapes")
    rows = []
    for verdict in result.verdicts:
        loads = "no" if not verdict.loads else "yes, wrongly" if verdict.problems else "yes"
        remarks = [*verdict.problems, *(f"note: {note}" for note in verdict.notes)]
        rows.append((verdict.server, loads, remarks))
    console.table(str(adapter), ("server", "loads", "what to know"), rows)
