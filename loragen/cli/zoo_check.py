"""`loragen zoo check`: are the files of a zoo whole."""

import typer

from loragen.cli.options import JsonOption, ZooOption


def zoo_check(zoo: ZooOption = None, as_json: JsonOption = False) -> None:
    """Verify every expert and fold of a zoo: files whole, shapes and base as the zoo's, statistics finite."""
    import loragen
    from loragen.cli import console

    opened = loragen.Zoo.open(zoo)
    checked = dict(opened.check())
    folds = len(checked) - len(opened)
    faults = {name: fault for name, fault in checked.items() if fault is not None}
    if as_json:
        console.say_json({"experts": len(opened), "folds": folds, "faults": faults})
    else:
        for name, fault in faults.items():
            console.say_error(f"{name}: {fault}")
        if not faults:
            also = f" and {folds} folds" if folds else ""
            console.done(f"{len(opened)} experts{also}, all whole")
    if faults:
        raise typer.Exit(2)
