"""`loragen zoo check`: are the files of a zoo whole, and its generators up to date."""

import typer

from loragen.cli.generators import told, warn_of
from loragen.cli.options import JsonOption, ZooOption


def zoo_check(zoo: ZooOption = None, as_json: JsonOption = False) -> None:
    """Verify every expert and fold of a zoo (files, shapes, base, statistics), and say which generators are behind."""
    import loragen
    from loragen.cli import console

    opened = loragen.Zoo.open(zoo)
    checked = dict(opened.check())
    folds = len(checked) - len(opened)
    faults = {name: fault for name, fault in checked.items() if fault is not None}
    generators = [] if faults else loragen.list_generators(opened)
    if as_json:
        facts = {"experts": len(opened), "folds": folds, "faults": faults}
        console.say_json(facts | {"generators": told(generators)})
    else:
        for name, fault in faults.items():
            console.say_error(f"{name}: {fault}")
        if not faults:
            also = f" and {folds} folds" if folds else ""
            console.done(f"{len(opened)} experts{also}, all whole")
            warn_of(generators)
    if faults:
        raise typer.Exit(2)
