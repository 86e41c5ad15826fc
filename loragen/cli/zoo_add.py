"""`loragen zoo add`: one expert more, trained for a task or brought from elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.generators import told, warn_of
from loragen.cli.options import JsonOption, OwnZooOption, WithoutHeadOption
from loragen.errors import ConfigError

if TYPE_CHECKING:
    from loragen.confidence.coverage import Coverage
    from loragen.generators.listing import GeneratorInfo
    from loragen.zoo.add import Added


def zoo_add(
    source: Annotated[
        str,
        typer.Argument(
            help="An adapter folder or hub:ORG/NAME@COMMIT/SUBFOLDER; with --tasks, the id of a task.",
            show_default=False,
        ),
    ],
    zoo: OwnZooOption,
    tasks: Annotated[
        Path | None, typer.Option(help="Task file of the task, for which an expert is trained as `zoo build` would.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of a trained expert (default: experts, or the task's in its file).")
    ] = None,
    score: Annotated[bool, typer.Option("--score/--no-score", help="Score a trained expert on its test file.")] = True,
    description: Annotated[
        str | None, typer.Option(help="What an adapter is for (default: what its card says).")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--id", help="Name of an adapter's expert (default: that of its folder).")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--licence", "--license", help="Of an adapter's data (default: what its card says)."),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Base of an adapter (default: the one it names).")] = None,
    max_loss: Annotated[
        float, typer.Option(min=0, max=1, help="Share of an adapter's energy that the frame may lose.")
    ] = 0.05,
    without_head: WithoutHeadOption = False,
    auto: Annotated[
        bool, typer.Option("--auto", help="Train an expert only if the task is new to the zoo; say what to do if not.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Add one expert to a zoo, in folders or packed, without building it again."""
    import loragen
    from loragen.cli import console

    opened = loragen.Zoo.open(zoo)
    if auto:
        if tasks is None:
            raise ConfigError("--auto decides about a task; name its file with --tasks.")
        with console.progress() as update:
            coverage, new = loragen.add_if_new(source, opened, tasks, split=split, score=score, progress=update)
        if new is None:
            _show_known(coverage, as_json=as_json)
            return
        _show(new, zoo, loragen.list_generators(opened.root), as_json=as_json)
        return
    with console.progress() as update:
        added = loragen.add_expert(
            source,
            opened,
            tasks=tasks,
            split=split,
            score=score,
            description=description,
            name=name,
            licence=licence,
            base=base,
            max_loss=max_loss,
            without_head=without_head,
            progress=update,
        )
    _show(added, zoo, loragen.list_generators(opened.root), as_json=as_json)


def _show_known(coverage: "Coverage", *, as_json: bool) -> None:
    from loragen.cli import console

    if as_json:
        facts = {"state": coverage.state, "figure": coverage.figure, "action": coverage.action}
        console.say_json({"id": None, "coverage": facts, "nearest": [near.id for near in coverage.nearest]})
        return
    console.say(coverage.sentence())
    console.say("Nothing was added; without --auto an expert is trained in any case.")


def _show(added: "Added", zoo: Path, generators: "tuple[GeneratorInfo, ...]", *, as_json: bool) -> None:
    from loragen.cli import console

    card = added.card
    if as_json:
        facts = {"id": card.id, "zoo": str(zoo), "experts": added.experts, "fingerprint": added.fingerprint}
        facts |= {"split": card.split, "description": card.description, "licence": card.licence, "notes": added.notes}
        console.say_json(facts | {"generators": told(generators)})
        return
    for line in added.notes:
        console.warn(line)
    console.done(f"{card.id} is an expert of {zoo}, which has {added.experts:,} now")
    if not added.is_drawn_on:
        console.warn(f"It is of the split {card.split}, on which generators do not draw; see --split.")
    warn_of(generators)
