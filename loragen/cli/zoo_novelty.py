"""`loragen zoo novelty`: is a task new to the zoo? `loragen zoo describe`: what the experts' texts look like."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.options import ENCODER, STDIN, EncoderOption, ForceOption, JsonOption, TextColumnOption, ZooOption

if TYPE_CHECKING:
    from loragen.confidence.coverage import Coverage

_RULES = "means, or errors as in SEMA"


def zoo_novelty(
    description: Annotated[str, typer.Argument(help='A task, in words; "" for its texts alone.')],
    texts: Annotated[
        Path | None,
        typer.Option(help="20 or more of its texts, without labels (CSV, JSONL, JSON, Parquet, .txt, or - for lines)."),
    ] = None,
    text_column: TextColumnOption = None,
    rule: Annotated[str, typer.Option(help=f"What is compared of texts: {_RULES}.")] = "means",
    zoo: ZooOption = None,
    encoder: EncoderOption = ENCODER,
    as_json: JsonOption = False,
) -> None:
    """Say if a task is covered by the zoo, near to it, or new, and what to do: reuse, generate or train."""
    import loragen
    from loragen.cli import console

    given = None
    if texts is not None and texts == STDIN:
        given = loragen.Examples.from_lines(sys.stdin, "standard input")
    elif texts is not None:
        given = loragen.Examples.texts_from_file(texts, text_column=text_column)
    found = loragen.novelty(description, texts=given, zoo=zoo, encoder=encoder, rule=rule)  # type: ignore[arg-type]
    if as_json:
        console.say_json(found.model_dump(mode="json") | {"action": found.action})
        return
    _show(found)


def _show(found: "Coverage") -> None:
    from textwrap import wrap

    from loragen.cli import console

    parts = [found] if found.beside is None else [found, found.beside]
    for part in sorted(parts, key=lambda one: one.knows):
        title = {"description": "By description", "texts": "By texts"}[part.knows]
        value = {"description": "similarity", "texts": "distance"}[part.knows]
        rows = [(near.id, f"{near.value:.3f}") for near in part.nearest]
        console.table(title, ("expert", value), rows, numbers=(value,))
        if part.undescribed:
            console.warn(
                f"The zoo knows no texts of {part.undescribed} experts; tell it: loragen zoo describe --force."
            )
    console.say("", *wrap(found.sentence(), 80))
    if found.beside is not None:
        console.say(*wrap(f"Its {found.beside.knows} alone would say: {found.beside.state}.", 80))


def zoo_describe(
    tasks: Annotated[Path, typer.Argument(help="YAML file of the tasks that the experts were trained on.")],
    zoo: ZooOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read the experts' texts, so that `zoo novelty --texts` can compare others with them."""
    import loragen
    from loragen.cli import console

    with console.progress() as update:
        made = loragen.describe_zoo(tasks, zoo, force=force, progress=update)
    if as_json:
        console.say_json({"file": str(made.file), "experts": made.experts, "missing": made.missing})
        return
    if made.missing:
        console.warn(
            f"{len(made.missing)} experts have no task of their name, or few texts: {', '.join(made.missing[:5])}"
        )
    console.done(f"{made.file}: the texts of {len(made.experts)} experts")
