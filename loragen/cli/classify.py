"""`loragen classify`: an adapter tried on texts, beside the bare base."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loragen.cli.options import BaseOption, JsonOption, LabelsOption, label_names
from loragen.errors import ConfigError

if TYPE_CHECKING:
    from loragen import Examples, Prediction

STDIN = Path("-")


def classify(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to classify.", show_default=False)] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A file of texts (CSV, JSONL, JSON, Parquet with a column text), or - for lines of input."),
    ] = None,
    labels: LabelsOption = None,
    out: Annotated[Path | None, typer.Option(help="Write the labels to this file (.csv or .jsonl).")] = None,
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try an adapter on texts: the label that fits best, beside what the bare base says."""
    names = label_names(labels)
    if out is not None and out.suffix.lower() not in (".csv", ".jsonl"):
        raise ConfigError(f"--out {out} ends in neither .csv nor .jsonl; name a file of one of these kinds.")
    _refuse_file_names(texts or [])
    import loragen
    from loragen.cli import console

    loaded = loragen.Adapter.load(adapter, base=base)
    examples = _examples(texts or [], data)
    adapted = loaded.classify(examples.texts, names)
    bare = loaded.classify(examples.texts, names, adapted=False)
    rows = _rows(examples, adapted, bare)
    right = _accuracies(rows) if examples.labels is not None else None
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
    if right is not None:
        console.say(
            f"Right: {right[0]} of {len(rows)} ({right[0] / len(rows):.0%}) with the adapter, {right[1]} "
            f"({right[1] / len(rows):.0%}) by the bare base."
        )


def _refuse_file_names(texts: Sequence[str]) -> None:
    for text in texts:
        if text.lower().endswith((".csv", ".jsonl", ".json", ".parquet", ".txt")) and Path(text).is_file():
            raise ConfigError(f"{text} is a file; to classify the texts in it, write --data {text}")


def _examples(texts: Sequence[str], data: Path | None) -> "Examples":
    import loragen

    if bool(texts) == (data is not None):
        raise ConfigError('Give texts, as in: loragen classify ADAPTER "a text", or a file of them with --data FILE.')
    if data is None:
        return loragen.Examples(tuple(texts))
    if data == STDIN:
        lines = [line.strip() for line in sys.stdin if line.strip()]
        return loragen.Examples(tuple(lines))
    return loragen.Examples.from_file(data)


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


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    from io import StringIO

    from loragen.files import atomic_write

    if out.suffix.lower() == ".jsonl":
        atomic_write(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    buffer = StringIO()
    columns = [name for name in rows[0] if name != "probabilities"]
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(out, buffer.getvalue())
