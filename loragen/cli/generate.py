"""`loragen generate`: a LoRA for a task described in words."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loragen.cli.options import (
    ENCODER,
    MOST_SAMPLES,
    STDIN,
    EncoderOption,
    ForceOption,
    JsonOption,
    LabelColumnOption,
    LabelOption,
    LabelsFileOption,
    LicenceOption,
    TextColumnOption,
    ZooOption,
    label_names,
    numbers,
)

if TYPE_CHECKING:
    from loragen import Adapter, Examples
    from loragen.exporters.card import GeneratedCard
    from loragen.exporters.peft_folder import Written
    from loragen.lean.generate import LeanAdapter

    Made = Adapter | LeanAdapter

GENERATORS = "sg, icm, hyper, ridge, topk, uniform, nearest, mean, or a generator's folder"
"""For the help, which is shown without loading the registry; a test holds it equal to the registry's rows."""


def generate(
    description: Annotated[str, typer.Argument(help="The task, in words.", show_default=False)],
    labels: Annotated[
        str | None,
        typer.Option(help="The task's label names, separated by commas; kept with the adapter for `loragen classify`."),
    ] = None,
    label: LabelOption = None,
    labels_file: LabelsFileOption = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="50 to 10,000 texts of the task without labels, to adapt to (CSV, JSONL, JSON, Parquet, .txt, or - for"
            " lines of input); wants label names."
        ),
    ] = None,
    shares: Annotated[
        str | None,
        typer.Option(help="How large the classes are among the --texts, if you know it: a number for each label."),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            help="A few texts of the task (columns text, label) for --fit, or for a generator that reads them."
        ),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(help='Past texts of a person, with labels or without (up to 5,000); the description may be "".'),
    ] = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    fit: Annotated[bool, typer.Option("--fit", help="Then fit the adapter to the labelled --examples.")] = False,
    fallback: Annotated[
        bool,
        typer.Option(
            "--fallback/--no-fallback", help="Write a safer adapter, or none, where this one should gain nothing."
        ),
    ] = True,
    best_of: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_SAMPLES, help="Draw so many, and --fit the best on the --examples."),
    ] = None,
    clip_rows: Annotated[
        float | None,
        typer.Option(help="Let no row of the update grow beyond so many times the mean row while it is fitted."),
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help=f"{GENERATORS} (default: the one that the zoo names; sg in the bundled zoo).")
    ] = None,
    own_adapter: Annotated[
        Path | None,
        typer.Option(help="An adapter of this very task, for generators that follow a paper in needing it."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Experts to draw on.")] = None,
    samples: Annotated[int, typer.Option(min=1, max=MOST_SAMPLES, help="Adapters to draw.")] = 1,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes on a machine.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: adapters/NAME-OF-TASK).")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Also write the base with the adapter merged in.")] = False,
    force: ForceOption = False,
    licence: LicenceOption = None,
    zoo: ZooOption = None,
    encoder: EncoderOption = ENCODER,
    as_json: JsonOption = False,
) -> None:
    """Generate a LoRA for a task described in words."""
    names = label_names(labels, label, labels_file)
    from loragen.cli import console
    from loragen.files import folder_name, refuse_to_replace
    from loragen.lean.choose import STRAIGHT, generate_folders, is_lean

    stem = history.stem if history is not None and not description.strip() else description
    folder = out or Path("adapters") / folder_name(stem)
    folders = [folder] if samples == 1 else [folder / f"sample-{number}" for number in range(samples)]
    chosen: dict[str, object] = dict(
        texts=texts, shares=shares, examples=examples, fit=fit, best_of=best_of, own_adapter=own_adapter
    )
    chosen["clip_rows"] = clip_rows
    chosen |= dict(history=history, top_k=top_k, licence=licence, zoo=zoo, encoder=encoder, merge=merge)
    chosen["generator"] = generator or STRAIGHT["generator"]
    if is_lean(chosen):
        lean = generate_folders(description, folders, labels=names, seed=seed, fallback=fallback, force=force)
        if lean is not None:
            _tell([one for one, _ in lean], [made for _, made in lean], merged=False, as_json=as_json)
            return
    import loragen

    opened = loragen.Zoo.open(zoo)
    read = (opened.root, own_adapter, examples, texts, history, generator, encoder)
    refuse_to_replace([*folders, *(_merged(f) for f in folders if merge)], force=force, read=read)
    told = None
    if examples is not None:
        told = loragen.Examples.from_file(examples, names, text_column=text_column, label_column=label_column)
    past = None
    if history is not None:
        past = loragen.Examples.from_file(history, text_column=text_column, label_column=label_column)
    unlabelled = None if texts is None else _texts(texts, text_column)
    with console.progress() as update:
        adapters = loragen.generate_samples(
            description,
            labels=names,
            texts=unlabelled,
            shares=None if shares is None else numbers(shares, "--shares"),
            examples=told,
            fit=fit,
            fallback=fallback,
            best_of=best_of,
            clip_rows=clip_rows,
            generator=generator,
            zoo=opened,
            encoder=encoder,
            samples=samples,
            seed=seed,
            top_k=top_k,
            licences=licence,
            own_adapter=own_adapter,
            history=past,
            progress=update,
        )
    written = []
    for adapter, target in zip(adapters, folders, strict=True):
        written.append(adapter.save(target, force=force))
        if merge:
            adapter.merge(_merged(target), force=force)
    _tell(adapters, written, merged=merge, as_json=as_json)


def _tell(adapters: "Sequence[Made]", written: "Sequence[Written]", *, merged: bool, as_json: bool) -> None:
    from loragen.cli import console

    if as_json:
        console.say_json([_facts(*pair) for pair in zip(adapters, written, strict=True)])
        return
    _show(adapters, written, merged=merged)


def _texts(file: Path, text_column: str | None) -> "Examples":
    import loragen

    if file == STDIN:
        return loragen.Examples.from_lines(sys.stdin, "standard input")
    return loragen.Examples.texts_from_file(file, text_column=text_column)


def _merged(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-merged")


def _facts(adapter: "Made", written: "Written") -> dict[str, Any]:
    assert adapter.card is not None
    facts = {"norm": round(written.norm, 6), "sites": written.sites, "r": written.r, "notes": adapter.notes}
    return adapter.card.model_dump(mode="json") | {"folder": str(written.folder)} | facts


def _show(adapters: "Sequence[Made]", written: "Sequence[Written]", *, merged: bool) -> None:
    from loragen.cli import console

    card = adapters[0].card
    assert card is not None
    parents = card.parents[:8]
    console.table(
        f"Nearest experts of {len(card.parents)} used" if len(card.parents) > 8 else "Experts it draws on",
        ("expert", "similarity", "weight", "licence"),
        [(p.id, f"{p.similarity:.3f}", f"{p.weight:.3f}", p.licence) for p in parents],
        numbers=("similarity", "weight"),
    )
    for note in dict.fromkeys(note for adapter in adapters for note in adapter.notes):
        console.warn(note)
    if len(adapters) > 1 and len({round(made.norm, 9) for made in written}) == 1:
        console.warn(f"{card.generator} draws nothing at random: the {len(adapters)} samples are equal.")
    fitted = f"fitted to {card.examples} examples; " if card.fitted else ""
    fitted += f"adapted to {card.texts} texts; " if card.adapted else ""
    fitted = f"from {card.history.texts} past texts; {fitted}" if card.history else fitted
    for made in written:
        console.done(
            f"{made.folder}: rank {made.r} at {made.sites} sites; {fitted}verified on disk; update norm {made.norm:.2f}"
        )
        if merged:
            console.done(f"{_merged(made.folder)}: the base with the adapter merged in")
    _say_outlook(card)
    console.say("", f"Try it:     loragen {_trial(written[0], card.labels)}")
    if written[0].task_type == "FEATURE_EXTRACTION":
        for number, line in enumerate(_advice(card)):
            console.say(f"{'' if number else 'Improve it:':11} {line}")
        console.say(f"Judge it:   loragen evaluate {_quoted(written[0].folder)} --data labelled.csv")


def _say_outlook(card: "GeneratedCard") -> None:
    """Say what to expect; with a mark where it may be a loss."""
    if card.outlook is None:
        return
    expected = card.outlook.expected
    if card.outlook.instead is not None:
        _say_wrapped(f"This is the zoo's one adapter for all tasks: {card.outlook.instead}.", is_marked=True)
    _say_wrapped(card.outlook.sentence(), is_marked=expected is not None and expected.low < 0)


def _say_wrapped(text: str, *, is_marked: bool) -> None:
    from textwrap import wrap

    from loragen.cli import console

    first, *rest = wrap(text, _WIDTH)
    (console.warn if is_marked else console.say)(first)
    console.say(*(f"  {line}" for line in rest))


_WIDTH = 76
"""Columns of a sentence after a mark."""


def _advice(card: "GeneratedCard") -> list[str]:
    """What would help most that was not given, in lines."""
    if card.fitted is not None:
        return [] if card.texts else ["your texts without labels: --texts FILE"]
    labelled = "eight labelled examples a class: --examples FILE --fit"
    if card.texts:
        return [labelled]
    names = "" if card.labels else " --labels first,second"
    return [f"50 of your texts without labels: --texts FILE{names};", f"or, better, {labelled}"]


def _trial(written: "Written", labels: tuple[str, ...]) -> str:
    folder = _quoted(written.folder)
    if written.task_type in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return f'complete {folder} "a prompt"'
    if written.task_type is None:
        return f"check {folder}"
    return f'classify {folder} "a text"' + ("" if labels else " --labels first,second")


def _quoted(folder: Path) -> str:
    return shlex.quote(str(folder))
