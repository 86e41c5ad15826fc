"""Fits the models by which `loragen generate` says what to expect, on tasks that their zoos had not seen.

    python benchmarks/confidence.py           # from the readouts of left_out_reads.py; seconds
    python benchmarks/confidence.py --show    # the table again, from the models kept

For each adapter and each kind of knowledge several sets of figures are compared, and the one is kept whose models,
fitted without a task's family, have the least squared error. The models go to zoo/minilm/confidence/sg.yaml; the
expected and realised gains, each task's by a model that has not seen its family, to benchmarks/results/confidence.json.
No test task has a part in it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from left_out_reads import pairs, path_of

from loragen.adaptation.pseudo_labels import pseudo_labels
from loragen.bases.tokenised import Readout
from loragen.conditions.text_encoder import TextEncoder
from loragen.confidence.confidence import CONFIDENCE, Candidate, Confidence
from loragen.confidence.expected import Knowledge
from loragen.confidence.figures import OF_DESCRIPTION, OF_LABELS, OF_TEXTS, Figures, of_description, of_labels, of_texts
from loragen.confidence.gain_model import GainModel
from loragen.zoo.zoo import SPLIT, Zoo

RESULTS = Path("benchmarks/results/confidence.json")
NEARNESS = ("nearest expert", "experts drawn on")
TEXTS = tuple(name for name in OF_TEXTS if name != "clusters: information")
SETS: dict[Knowledge, tuple[tuple[str, ...], ...]] = {
    "description": (NEARNESS, OF_DESCRIPTION),
    "labels": (
        NEARNESS,
        OF_DESCRIPTION,
        (*NEARNESS, "labels"),
        (*OF_DESCRIPTION, "labels"),
        (*OF_DESCRIPTION, *OF_LABELS),
    ),
    "texts": (TEXTS, OF_TEXTS, (*TEXTS, *NEARNESS), (*TEXTS, *OF_DESCRIPTION, *OF_LABELS)),
}
KNOWN: dict[Candidate, tuple[Knowledge, ...]] = {
    "generated": ("description", "labels"),
    "shared": ("description", "labels"),
    "adapted": ("texts",),
}


def read_rows() -> list[tuple[str, str, Figures, dict[str, float]]]:
    """Of each pair its key, the family, its figures, and the gains over the base."""
    encoder, rows = TextEncoder.load(), []
    for pair in pairs():
        if not path_of(pair).exists():
            continue
        kept = torch.load(path_of(pair), weights_only=False)  # our own file
        told, adapters, task = _whole(kept["texts"]), kept["adapters"], pair.task
        own, bare = told["generated"], told["base"]
        figures = of_description(
            adapters["generated"], kept["neighbours"], merge=adapters["merge"], shared=adapters["shared"]
        )
        figures |= of_labels(task.labels, task.description, encoder) | of_texts(bare, own, pseudo_labels(own))
        right = {name: _accuracy(read) for name, read in kept["test"].items()}
        gains = {name: value - right["base"] for name, value in right.items() if name != "base"}
        rows.append((pair.key, task.family or task.id, figures, gains))
    return rows


def _whole(reads: Mapping[str, Readout]) -> dict[str, Readout]:
    return {
        name: Readout(F.normalize(read.texts.float(), dim=1), read.logits, read.targets) for name, read in reads.items()
    }


def _accuracy(read: Readout) -> float:
    return float((read.logits.argmax(1) == read.targets).double().mean())


def best_model(
    figures: Sequence[Figures], gains: Sequence[float], families: Sequence[str], sets: Sequence[Sequence[str]]
) -> tuple[GainModel, list[float]]:
    """The model over one of several sets of figures with the least squared error on families left out."""
    fitted = [
        GainModel.fit([{name: row[name] for name in names} for row in figures], gains, families) for names in sets
    ]
    return min(fitted, key=lambda one: sum((e - g) ** 2 for e, g in zip(one[1], gains, strict=True)))


def table() -> str:
    """Each model's rank correlation and the share of tasks in its interval, on families left out."""
    kept = json.loads(RESULTS.read_text())
    head = ["adapter", "knows", "tasks", "mean gain", "rank correlation", "in the interval", "width", "figures"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    confidence = Confidence.from_yaml(Zoo.open().root / CONFIDENCE / "sg.yaml")
    for candidate, known in KNOWN.items():
        for knows in known:
            model, rows = getattr(confidence, candidate)[knows], kept[f"{candidate}, {knows}"]
            held = [model.below <= row["realised"] - row["expected"] <= model.above for row in rows.values()]
            mean = sum(row["realised"] for row in rows.values()) / len(rows)
            lines.append(
                f"| {candidate} | {knows} | {model.tasks} | {mean:+.3f} | {model.correlation:.2f} "
                f"| {sum(held) / len(held):.0%} | {model.above - model.below:.2f} | {len(model.figures)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the table of the models kept")
    if parser.parse_args().show:
        print(table())
        return
    rows, zoo = read_rows(), Zoo.open()
    keys, families, figures = ([row[at] for row in rows] for at in range(3))
    made: dict[str, dict[Knowledge, GainModel]] = {}
    kept = {}
    for candidate, known in KNOWN.items():
        gains = [row[3][candidate] for row in rows]
        for knows in known:
            model, expected = best_model(figures, gains, families, SETS[knows])
            made.setdefault(candidate, {})[knows] = model
            kept[f"{candidate}, {knows}"] = {
                key: {"expected": round(e, 4), "realised": round(g, 4)}
                for key, e, g in zip(keys, expected, gains, strict=True)
            }
    confidence = Confidence(generator="sg", zoo_hash=zoo.select(splits={SPLIT}).fingerprint, **made)
    path = zoo.root / CONFIDENCE / "sg.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(confidence.to_yaml())
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    print(table())


if __name__ == "__main__":
    main()
