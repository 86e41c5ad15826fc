"""`loragen classify`: an adapter tried on texts, beside the bare base."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loragen.cli.options import (
    STDIN,
    BaseOption,
    JsonOption,
    LabelColumnOption,
    LabelOption,
    LabelsFileOption,
    LabelsOption,
    TextColumnOption,
    label_names,
    numbers,
)
from loragen.errors import ConfigError, shown

if TYPE_CHECKING:
    from loragen import Adapter, Examples, Prediction
    from loragen.compose.composed import Composed


def classify(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to classify.", show_default=False)] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "--file",
            help="A file of texts (CSV, JSONL, JSON, Parquet with a column text; .txt, a text a line), or - for lines "
            "of input.",
        ),
    ] = None,
    labels: LabelsOption = None,
    label: LabelOption = None,
    labels_file: LabelsFileOption = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    adapt: Annotated[
        bool, typer.Option("--adapt", help="First adapt to the texts, 20 or more, without looking at their labels.")
    ] = False,
    shares: Annotated[
        str | None,
        typer.Option(help="How large the classes are among the texts, if you know it: a number for each label."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the labels to this file (.csv or .jsonl), texts as they are: a spreadsheet may take one for a "
            "formula."
        ),
    ] = None,
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try an adapter on texts: the label that fits best, beside what the bare base says."""
    names = label_names(labels, label, labels_file)
    if out is not None and out.suffix.lower() not in (".csv", ".jsonl"):
        raise ConfigError(f"--out {out} ends in neither .csv nor .jsonl; name a file of one of these kinds.")
    if out is not None:
        _refuse_others(out)
    _refuse_file_names(texts or [])
    import loragen
    from loragen.cli import console

    loaded = loragen.open_adapter(adapter, base=base)
    examples = _examples(texts or [], data, names or loaded.labels, text_column, label_column)
    loaded = _adapted(loaded, examples, names, adapt=adapt, shares=shares)
    adapted = loaded.classify(examples.texts, names)
    bare = loaded.classify(examples.texts, names, adapted=False)
    rows = _rows(examples, adapted, bare)
    right = _accuracies(rows) if examples.labels is not None else None
    notes = [*examples.notes, *_foreign(rows)]
    if out is not None:
        _write(rows, out)
    if as_json:
        console.say_json(rows)
        return
    for note in loaded.notes:
        console.warn(note)
    if out is None:
        columns = ("text", "label", "p", "bare base says", "p ")
        shown = [
            (r["text"], r["label"], f"{r['probability']:.2f}", r["base_label"], f"{r['base_probability']:.2f}")
            for r in rows
        ]
        console.table(str(adapter), columns, shown, numbers=("p", "p "))
    else:
        console.done(f"{out}: {len(rows)} labels")
    for note in notes:
        console.warn(note)
    if right is not None:
        console.say(
            f"Right: {right[0]} of {len(rows)} ({right[0] / len(rows):.0%}) with the adapter, {right[1]} "
            f"({right[1] / len(rows):.0%}) by the bare base."
        )


def _adapted(
    adapter: "Adapter | Composed", examples: "Examples", names: list[str] | None, *, adapt: bool, shares: str | None
) -> "Adapter | Composed":
    import loragen
    from loragen.cli import console

    if shares is not None and not adapt:
        raise ConfigError("--shares bears on adapting alone; add --adapt.")
    if not adapt:
        return adapter
    if not isinstance(adapter, loragen.Adapter):
        raise ConfigError("--adapt trains the factors of one adapter, and this is a dynamic composition; leave it out.")
    sizes = None if shares is None else numbers(shares, "--shares")
    plain = replace(examples, labels=None, notes=())
    with console.progress() as update:
        return adapter.adapt(plain, names, shares=sizes, progress=update)


_OURS = ("text", "label", "probability")
"""What the files of labels begin with, as columns or keys."""


def _refuse_others(out: Path) -> None:
    """Keep a file that is there, unless it holds labels of an earlier call."""
    if not out.exists() or (out.is_file() and out.stat().st_size == 0):
        return
    try:
        with out.open(encoding="utf-8") as file:
            first = file.readline(1_000_000)
        names = json.loads(first) if out.suffix.lower() == ".jsonl" else first.strip().split(",")
    except (OSError, ValueError, RecursionError):
        names = ()
    if not (isinstance(names, list | dict) and tuple(names)[: len(_OURS)] == _OURS):
        raise ConfigError(f"{out} is there and holds no labels of ours; give another --out, or move it away.")


def _refuse_file_names(texts: Sequence[str]) -> None:
    for text in texts:
        if text.lower().endswith((".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt", ".gz")) and _is_file(text):
            raise ConfigError(f"{text} is a file; to classify the texts in it, write --data {text}")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a text too long for a name, or with a NUL in it
        return False


def _examples(
    texts: Sequence[str], data: Path | None, known: Sequence[str], text_column: str | None, label_column: str | None
) -> "Examples":
    import loragen

    if bool(texts) == (data is not None):
        raise ConfigError('Give texts, as in: loragen classify ADAPTER "a text", or a file of them with --data FILE.')
    if data is None:
        return loragen.Examples(tuple(texts))
    if data == STDIN:
        return loragen.Examples.from_lines(sys.stdin, "standard input")
    return loragen.Examples.from_file(data, known=known, text_column=text_column, label_column=label_column)


def _rows(examples: "Examples", adapted: "list[Prediction]", bare: "list[Prediction]") -> list[dict[str, Any]]:
    true = examples.outputs or (None,) * len(examples)
    return [
        {
            "text": text,
            "label": a.label,
            "probability": round(a.probability, 4),
            "probabilities": a.by_label,
            "base_label": b.label,
            "base_probability": round(b.probability, 4),
        }
        | ({} if label is None else {"true_label": label})
        for text, label, a, b in zip(examples.texts, true, adapted, bare, strict=True)
    ]


def _accuracies(rows: list[dict[str, Any]]) -> tuple[int, int]:
    return tuple(sum(row[name] == row["true_label"] for row in rows) for name in ("label", "base_label"))


def _foreign(rows: list[dict[str, Any]]) -> list[str]:
    """A note on true labels that no text can get, if there are such."""
    foreign = list(
        dict.fromkeys(
            row["true_label"] for row in rows if row.get("true_label") not in (None, *rows[0]["probabilities"])
        )
    )
    if not foreign:
        return []
    told = f"{len(foreign)} of the labels in the file are not among those to choose from, such as {shown(foreign[0])}."
    return [told]


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    from loragen.escaping import csv_text
    from loragen.files import atomic_write

    if out.suffix.lower() == ".jsonl":
        atomic_write(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    columns = [name for name in rows[0] if name != "probabilities"]
    atomic_write(out, csv_text([columns, *([row[name] for name in columns] for row in rows)]))
