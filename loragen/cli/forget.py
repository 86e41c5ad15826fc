"""`loragen forget`: an expert out of a zoo and its generators, or classes out of an adapter."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.options import ENCODER, BaseOption, EncoderOption, ForceOption, JsonOption
from loragen.errors import ConfigError

if TYPE_CHECKING:
    from loragen.continual.forget.classes import ForgottenClasses
    from loragen.continual.forget.report import Forgotten


def forget(
    expert: Annotated[str | None, typer.Argument(help="Id of an expert.", show_default=False)] = None,
    zoo: Annotated[Path | None, typer.Option(help="Folder of the zoo that is to forget it.")] = None,
    generator: Annotated[
        list[str] | None, typer.Option(help="Generator to edit; repeat for several (default: all of the zoo).")
    ] = None,
    gold: Annotated[
        bool, typer.Option("--gold", help="Train each generator anew without it, and say how near the edit came.")
    ] = False,
    keep_expert: Annotated[
        bool, typer.Option("--keep-expert", help="Edit the generators alone; the zoo keeps the expert.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Remove the edits for an expert that the zoo still has.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the expert is removed.")] = False,
    adapter: Annotated[Path | None, typer.Option(help="In place of an expert: an adapter folder.")] = None,
    examples: Annotated[Path | None, typer.Option(help="Labelled examples of all classes of its task.")] = None,
    classes: Annotated[str | None, typer.Option(help="Labels that it is to forget, separated by commas.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Largest rank of a site of the new adapter.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the new adapter.")] = None,
    base: BaseOption = None,
    encoder: EncoderOption = ENCODER,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Forget an expert, or classes of an adapter's task, by a small edit that is a file of its own.

    An expert leaves the zoo for good; the edits of the generators can be removed again while the zoo has it.
    """
    if adapter is not None:
        if expert is not None or zoo is not None or examples is None or not classes or out is None:
            raise ConfigError("--adapter goes with --examples, --classes and --out, and with no expert or zoo.")
        _forget_classes(adapter, examples, classes, rank, out, base, force=force, as_json=as_json)
        return
    if expert is None or zoo is None:
        raise ConfigError("Say which expert of which zoo: loragen forget ID --zoo FOLDER (or --adapter FOLDER).")
    if undo:
        _undo(expert, zoo, generator, as_json=as_json)
        return
    if not keep_expert:
        _ask(expert, zoo, yes=yes)
    import loragen
    from loragen.cli import console

    with console.progress() as update:
        found = loragen.forget(
            expert,
            zoo,
            generators=generator,
            gold=gold,
            keep_expert=keep_expert,
            encoder=encoder,
            progress=update,
        )
    if as_json:
        console.say_json(found.to_json())
        return
    _say(found, zoo)


def _say(found: "Forgotten", zoo: Path) -> None:
    from loragen.cli import console

    for report in found.generators:
        console.done(f"{report.generator} has forgotten {found.expert}: {report.edit}")
        for sentence in report.sentences():
            console.say(f"  {sentence}")
    if not found.generators:
        console.say(f"No generator to edit: none of them knows {found.expert}.")
    if found.removed:
        console.done(f"{found.expert} is no longer in {zoo}")
    for note in found.notes:
        console.warn(note)


def _undo(expert: str, zoo: Path, generators: list[str] | None, *, as_json: bool) -> None:
    import loragen
    from loragen.cli import console

    names = loragen.undo_forgetting(expert, zoo, generators=generators)
    if as_json:
        console.say_json({"expert": expert, "generators": list(names)})
        return
    console.done(f"{', '.join(names)}: as before {expert} was forgotten")


def _ask(expert: str, zoo: Path, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{expert} would be removed from {zoo} for good; say so with --yes, or add --keep-expert.")
    typer.confirm(f"{expert} is removed from {zoo} for good. Go on?", abort=True, err=True)


def _forget_classes(
    adapter: Path,
    examples: Path,
    classes: str,
    rank: int | None,
    out: Path,
    base: str | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    import loragen
    from loragen.cli import console
    from loragen.files import refuse_to_replace

    refuse_to_replace([out], force=force, read=(adapter, examples, base))
    names = [name.strip() for name in classes.split(",") if name.strip()]
    with console.progress() as update:
        found = loragen.forget_classes(adapter, examples, names, rank=rank, base=base, progress=update)
    written = found.adapter.save(out, force=force)
    if as_json:
        console.say_json({"folder": str(out), "r": written.r} | found.to_json())
        return
    _say_classes(found, out)


def _say_classes(found: "ForgottenClasses", out: Path) -> None:
    from loragen.cli import console

    for note in found.adapter.notes:
        console.warn(note)
    console.done(f"{out}: without {', '.join(found.classes)}; the edit apart in {out / 'edit'}")
    before, after = found.before, found.after
    console.say(f"  accuracy on {found.examples} held-out examples, among all labels:")
    console.say(f"  forgotten classes {before.forgotten:.3f} → {after.forgotten:.3f}")
    console.say(f"  other classes {before.remaining:.3f} → {after.remaining:.3f}")
    console.say(f"  H {found.h:.3f} of {found.attainable_h:.3f} attainable; sites left as they were: {len(found.zero)}")
