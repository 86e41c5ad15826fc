"""`loragen check`: whether an adapter fits its base, and which servers load it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.options import BaseOption, JsonOption
from loragen.errors import ConfigError

if TYPE_CHECKING:
    from loragen.adapters.adapter import Lora
    from loragen.bases.architecture import Blueprint
    from loragen.exporters.compatibility import Verdict


def check(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder.")],
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check an adapter's keys and shapes against its base, without the base's weights, and what servers make of it."""
    from loragen.adapters.adapter import Lora
    from loragen.adapters.settings import CONFIG_NAME
    from loragen.cli import console
    from loragen.exporters.compatibility import verdicts

    loaded = Lora.load(adapter)
    blueprint, remark = _blueprint(loaded, base)
    faults = () if blueprint is None else blueprint.faults(loaded)
    found = verdicts(
        loaded,
        config=json.loads((adapter / CONFIG_NAME).read_bytes()),
        base=blueprint,
        served=None if blueprint is None else _served(blueprint, is_local=base is None),
    )
    if as_json:
        console.say_json(
            {
                "adapter": str(adapter),
                "base": base or loaded.settings.base_model_name_or_path,
                "base_class": None if blueprint is None else blueprint.model_class,
                "unchecked": remark,
                "faults": faults,
                "verdicts": [asdict(verdict) for verdict in found],
            }
        )
    else:
        for fault in faults:
            console.say_error(fault)
        if blueprint is None:
            console.out.print(f"Keys and shapes were not checked: {remark}", markup=False)
        elif not faults:
            console.say(f"[green]✓[/] all {len(loaded.sites)} sites are in {blueprint.model_class}, of these shapes")
        _show(adapter, found)
    if faults:
        raise typer.Exit(2)


def _blueprint(adapter: "Lora", given: str | None) -> "tuple[Blueprint | None, str | None]":
    """The base's blueprint; or None, and why. Only a base that the user names is looked for on the Hub."""
    from loragen.bases.architecture import Blueprint

    task_type = adapter.settings.task_type
    if given is not None:
        return Blueprint.fitting(given, adapter.sites, task_type), None
    name = adapter.settings.base_model_name_or_path
    if name is None:
        return None, "the adapter does not name its base; give it with --base."
    try:
        blueprint = Blueprint.at_hand(name, adapter.sites, task_type)
    except ConfigError as error:
        return None, str(error)
    missing = f"the config of {name!r} is not on this machine; give --base to fetch it, or the folder of the base."
    return blueprint, missing if blueprint is None else None


def _served(blueprint: "Blueprint", *, is_local: bool) -> "Blueprint":
    from loragen.bases.architecture import Blueprint

    try:
        return Blueprint.of(blueprint.name, is_local=is_local)
    except ConfigError:  # the class that the config names cannot be laid out, but the adapter's can
        return blueprint


def _show(adapter: Path, found: "tuple[Verdict, ...]") -> None:
    from loragen.cli import console

    rows = []
    for verdict in found:
        loads = "no" if not verdict.loads else "yes, wrongly" if verdict.problems else "yes"
        said = [*verdict.problems, *(f"note: {note}" for note in verdict.notes)]
        rows.append((verdict.server, loads, "\n".join(said)))
    console.table(str(adapter), ("server", "loads", "what to know"), rows)
