"""One adapter on one's own labelled texts: beside the base, merges of a zoo, and classifiers fitted to the labels."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base, Switch
from loragen.compose.composed import Composed, open_adapter
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError
from loragen.evaluation.config import BASE
from loragen.evaluation.labelled_rivals import classes_of_one, cross_validated
from loragen.evaluation.own_data_rows import ADAPTER, OwnDataReport, Predictions
from loragen.evaluation.verdict import Comparison, resolution_note, verdict_of
from loragen.generation import ENCODER, Pipeline
from loragen.inference import Adapter
from loragen.progress import Progress, silent
from loragen.tasks.examples import Examples
from loragen.tasks.words import listed
from loragen.zoo.card import ZOO_MANIFEST
from loragen.zoo.zoo import Zoo, default_zoo

MERGES = ("mean", "nearest", "topk")
"""Generators without training that an adapter is compared with."""
MAX_LENGTH = 128
"""Tokens of a text."""


def evaluate(
    adapter: Adapter | Composed | Path | str,
    data: Path | Examples,
    *,
    labels: Sequence[str] | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    description: str | None = None,
    zoo: Zoo | Path | None = None,
    encoder: str = ENCODER,
    base: str | None = None,
    progress: Progress = silent,
) -> OwnDataReport:
    """Score an adapter on labelled texts, beside the base, merges of a zoo, and classifiers fitted to the labels.

    Args:
        adapter: an adapter or a dynamic composition, or its folder.
        data: labelled texts, or a file of them with the columns ``text`` and ``label``.
        labels: names of all classes of the file, in order; by default those that occur. Numbers go by the names of the
            adapter's card too.
        text_column: name of the file's column of texts.
        label_column: name of the file's column of labels.
        description: the task in words, by which the zoo is searched; by default that of the adapter's card.
        zoo: the zoo of the merges; by default the bundled one, whose rows are left out if it is of another base.
        encoder: text encoder of descriptions.
        base: stands in for the base that the adapter names.
        progress: called with the stage, the methods done and their total.

    Raises:
        TaskError: the texts have no labels, or only one, or are all equal, or the file cannot be used.
        ConfigError: the base is not at hand, or the zoo named here is of another one.
        ZooError: there is no zoo of that name.
        AdapterError: the adapter's folder is damaged, or the adapter does not fit the base.
    """
    opened, name = _opened(adapter, base), "The data"
    if not isinstance(data, Examples):
        name, data = (
            str(data),
            Examples.from_file(data, labels, known=opened.labels, text_column=text_column, label_column=label_column),
        )
    examples = data.checked_for_scores(name)
    words, model = description or opened.description, opened.opened_base
    merges, notes = _zoo_merges(zoo, encoder, model, words)
    predictions, fitting_notes = _predictions(
        model, {BASE: None, **merges, ADAPTER: opened.switched}, examples, progress
    )
    compared = predictions.compared
    notes = [*examples.notes, *notes, *fitting_notes, *_lead_notes(compared, merges), *_origin_notes(opened, examples)]
    if remark := resolution_note(compared[BASE]):
        notes.append(remark)
    return OwnDataReport(
        texts=len(examples),
        labels=examples.label_names,
        base=model.name,
        description=words,
        rows=predictions.rows(),
        verdict=verdict_of(compared[BASE], {name: compared[name] for name in predictions.fitted}),
        notes=tuple(notes),
    )


def _predictions(
    base: Base, adapters: Mapping[str, Lora | Switch | None], examples: Examples, progress: Progress
) -> tuple[Predictions, list[str]]:
    """Predictions of all methods, and notes on those that are left out."""
    data, read = base.prepare(examples, max_length=MAX_LENGTH), {}
    for done, (method, lora) in enumerate(adapters.items()):
        progress("methods", done, len(adapters))
        read[method] = base.read(data, lora)
    progress("methods", len(adapters), len(adapters))
    targets = data.targets.cpu()
    if alone := classes_of_one(targets):
        names = listed([repr(examples.label_names[one]) for one in alone], most=5)
        note = f"Classifiers fitted to the labels are left out: they want two texts a label, and {names} has one."
        return Predictions(read, {}, targets), [note]
    return Predictions(read, cross_validated(read[BASE].texts, targets), targets), []


def _opened(adapter: Adapter | Composed | Path | str, base: str | None) -> Adapter | Composed:
    if isinstance(adapter, Adapter | Composed):
        return adapter if base is None else adapter.over(base)
    return open_adapter(adapter, base=base)


def _zoo_merges(
    zoo: Zoo | Path | None, encoder: str, base: Base, words: str | None
) -> tuple[dict[str, Lora | None], list[str]]:
    """Merges of a zoo by name, and notes on those that are left out."""
    if zoo is None and not (default_zoo() / ZOO_MANIFEST).is_file():
        return {}, [f"Merges of a zoo are left out: there is no zoo in {default_zoo()}; name one with --zoo."]
    opened = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo or default_zoo())
    if opened.manifest.base_hash not in ("", base.fingerprint):
        other = f"{opened.root} adapts {opened.manifest.base} ({opened.manifest.base_hash[:12]})"
        if zoo is not None:
            raise ConfigError(
                f"The zoo {other}, the adapter one of the weights {base.fingerprint[:12]}; name a zoo of that base "
                "with --zoo."
            )
        return {}, [f"Merges of a zoo are left out: the bundled zoo {other}, not this adapter's base."]
    names = MERGES if words is not None else MERGES[:1]
    text_encoder, evidence = TextEncoder.load(encoder), Evidence(words or "not described")
    merges: dict[str, Lora | None] = {
        name: Pipeline.open(name, opened, text_encoder).generate(evidence)[0].adapter for name in names
    }
    if words is None:
        return merges, [
            "The merges nearest and topk are left out: neither the adapter's card nor --description says the task."
        ]
    return merges, []


def _lead_notes(compared: Mapping[str, Comparison], merges: Collection[str]) -> list[str]:
    return [
        f"The merge {name} of the zoo is better than this adapter, whose difference to it is "
        f"{compared[name].difference:+.3f}."
        for name in merges
        if compared[name].is_behind
    ]


def _origin_notes(adapter: Adapter | Composed, examples: Examples) -> list[str]:
    notes = []
    if adapter.card is not None and adapter.card.examples:
        notes.append(
            f"This adapter was made from {adapter.card.examples} texts of the task; if they are among these, its "
            "scores are too high."
        )
    if missing := [label for label in adapter.labels if label not in examples.label_names]:
        notes.append(
            f"The adapter's card names labels that the data does not hold: {listed(missing)}. Here it chooses among "
            "the labels of the data alone."
        )
    return notes
