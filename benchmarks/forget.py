"""Forgetting an expert, and classes of a task, on the bundled zoo: how near it comes to never having known them.

    python benchmarks/forget.py         # measures what is not kept yet, prints the tables
    python benchmarks/forget.py --show  # prints the tables

Of ten experts (the set `domains` of compose_lab.py) SG-LoRA is trained on all, forgets clinc_banking by an edit, and is
trained on the other nine: the gold standard. The last of the expert's descriptions takes no part in the edit. Adapters
are generated from all descriptions and scored on the tasks' test texts. For classes, the expert of clinc_banking
forgets three of its fifteen by its task's training texts, drawn thrice, and is scored on its test texts.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from compose_lab import SETS

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.conditions.text_encoder import TextEncoder
from loragen.continual.forget.classes import forget_classes, harmonic
from loragen.continual.forget.described import Conditions
from loragen.continual.forget.edit_fit import reached_layers
from loragen.continual.forget.forgetting import edit_of
from loragen.continual.forget.judge import Judge
from loragen.continual.forget.lesson import Lesson
from loragen.continual.forget.settings import ClassSettings, ForgetSettings
from loragen.files import sha256_of, write_folder
from loragen.generators.edits import TENSORS, write_edit
from loragen.generators.sg.fit import SGTrainConfig, fit_sg
from loragen.generators.sg.model import SG
from loragen.inference import Adapter
from loragen.tasks.task_set import TaskSet
from loragen.zoo.zoo import Zoo

RESULTS = Path("benchmarks/results/forget.json")
EXPERT, IDS = "clinc_banking", SETS["domains"][1]
TASKS = Path("configs/tasks/public.yaml")
CONFIG, CHANGES = Path("configs/train/sg.yaml"), ["sg.top_k=4"]
SETTINGS = ForgetSettings(spared=1)
TEXTS, LENGTH = 120, 64
"""Test texts of a task, and tokens of each."""
PENALTIES = (0.0, 0.1, 0.2, 0.4)
FORGOTTEN = 3
"""Classes of the task."""
ROWS = {
    "before": "as it was",
    "unlisted": "the expert no longer looked up",
    "after": "and the edit",
    "gold": "trained without it",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the tables of the figures that are kept")
    if not parser.parse_args().show:
        measure()
    print(expert_table(), class_table(), sep="\n\n")


def kept() -> dict[str, Any]:
    """The figures that are kept."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def measure() -> None:
    """Measure what is not kept yet."""
    for name, part in {"expert": measure_expert, "classes": measure_classes}.items():
        if name not in (results := kept()):
            begun = time.process_time()
            results[name] = part()
            results[name]["seconds"] = round(time.process_time() - begun)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


# --- an expert out of a generator ---


def measure_expert() -> dict[str, Any]:
    """Figures of the generator before, without the row, after the edit, and trained without the expert."""
    torch.set_num_threads(1)
    zoo, encoder = Zoo.open(), TextEncoder.load()
    ten = replace(zoo, cards={name: zoo.cards[name] for name in sorted(IDS)})
    whole, gold = (trained(some, encoder) for some in (ten, ten.select(without={EXPERT})))
    lesson = Lesson.of(whole, EXPERT, ten, encoder, SETTINGS)
    strangers = [card.id for card in zoo if card.split == "validation"]
    judge, scorer = Judge.of(whole, EXPERT, ten, strangers, encoder, SETTINGS), Scorer.of(zoo, ten, encoder)
    results: dict[str, Any] = {"bound": round(lesson.bound, 3), "rows": {}, "penalties": {}}
    edits = {penalty: after(whole, lesson, penalty, zoo) for penalty in PENALTIES}
    for penalty, (edited, zero) in edits.items():
        results["penalties"][str(penalty)] = weights(judge, edited, gold) | {"zero": list(zero)}
    states = {"before": whole, "unlisted": lesson.generator, "after": edits[SETTINGS.penalty][0], "gold": gold}
    for name, generator in states.items():
        results["rows"][name] = weights(judge, generator, gold) | scorer.accuracies(generator)
        print(name, results["rows"][name], flush=True)
    results["layers"] = len(reached_layers(lesson))
    return results


def trained(zoo: Zoo, encoder: TextEncoder) -> SG:
    """SG-LoRA as bundled, on some experts."""
    return fit_sg(SGTrainConfig.from_yaml(CONFIG, CHANGES), zoo, encoder)[0]


def after(generator: SG, lesson: Lesson, penalty: float, zoo: Zoo) -> tuple[SG, Sequence[str]]:
    """A generator loaded from a folder with its edit, and the layers that stay as they were."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "sg"
        write_folder(folder, generator.files())
        settings = SETTINGS.model_copy(update={"penalty": penalty})
        hashes = {"adapter_hash": zoo.hashes[EXPERT], "generator_hash": sha256_of(folder / TENSORS)}
        edit = edit_of(lesson, settings, **hashes)
        write_edit(folder, edit)
        return SG.load(folder), edit.facts.zero


def weights(judge: Judge, generator: SG, gold: SG) -> dict[str, float]:
    """Figures of weights: errors, the probe, and distances from the gold standard."""
    made, best = judge.made_by(generator), judge.made_by(gold)
    return {name: round(value, 4) for name, value in judge.figures(made, best).items()}


class Scorer:
    """Scores adapters generated for the ten tasks on their test texts."""

    def __init__(self, base: Base, data: Mapping[str, TaskData], zoo: Zoo, encoder: TextEncoder) -> None:
        self.base, self.data, self.zoo, self.encoder = base, data, zoo, encoder

    @classmethod
    def of(cls, zoo: Zoo, ten: Zoo, encoder: TextEncoder) -> "Scorer":
        """Read some test texts of each task."""
        base, tasks = zoo.load_base(), TaskSet.from_yaml(TASKS)
        rng = torch.Generator().manual_seed(0)
        data = {}
        for name in ten.ids:
            examples = tasks[name].load_test()
            some = examples.subset(torch.randperm(len(examples), generator=rng)[:TEXTS])
            data[name] = base.prepare(some, max_length=LENGTH)
        return cls(base, data, ten, encoder)

    def accuracies(self, generator: SG) -> dict[str, float]:
        """Mean accuracy on the forgotten task, over its descriptions, and on the others, from their first ones."""
        asked = Conditions(generator, self.zoo, self.encoder)
        own = [self._accuracy(EXPERT, generator, condition, at) for at, condition in enumerate(asked.of(EXPERT))]
        others = [self._accuracy(name, generator, asked.of(name)[0], 0) for name in self.zoo.ids if name != EXPERT]
        return {"accuracy": round(mean(own), 4), "accuracy_others": round(mean(others), 4)}

    def _accuracy(self, name: str, generator: SG, condition: Any, seed: int) -> float:
        rng = torch.Generator().manual_seed(seed)
        return self.score(name, generator.generate(condition, rng=rng)[0].adapter)

    def score(self, name: str, adapter: Lora) -> float:
        """Accuracy of an adapter on a task."""
        read = self.base.read(self.data[name], adapter)
        return float((read.logits.argmax(1) == read.targets).double().mean())


# --- classes out of an adapter ---


def measure_classes() -> dict[str, Any]:
    """Three classes out of the expert of one task, drawn thrice: accuracies on test texts before and after, and H."""
    zoo, task = Zoo.open(), TaskSet.from_yaml(TASKS)[EXPERT]
    expert = Adapter.load(zoo.folder(EXPERT)).with_base(zoo.load_base())
    test, draws = task.load_test(), []
    for seed in range(3):
        order = torch.randperm(len(task.labels), generator=torch.Generator().manual_seed(seed))
        classes = [task.labels[at] for at in order[:FORGOTTEN].tolist()]
        found = forget_classes(expert, task.load_train(), classes, settings=ClassSettings(seed=seed))
        one = {"classes": classes, "zero": len(found.zero), "sites": len(expert.lora.sites)}
        data = expert.opened_base.prepare(test, max_length=LENGTH)
        gone = torch.isin(data.targets, order[:FORGOTTEN])
        for name, lora in (("before", expert.lora), ("after", found.adapter.lora)):
            right = expert.opened_base.read(data, lora).logits.argmax(1) == data.targets
            one[name] = [round(float(right[rows].double().mean()), 4) for rows in (gone, ~gone)]
        draws.append(one)
        print(one, flush=True)
    return {"draws": draws}


# --- tables ---


def expert_table() -> str:
    """The states of the generator; with other penalties the edit alone."""
    found = kept()["expert"]
    lines = [
        "| SG-LoRA of ten experts | accuracy, forgotten | accuracy, others | error, forgotten | error, others | from "
        "that trained without | probe |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, title in ROWS.items():
        row = found["rows"][name]
        scores = f"{100 * row['accuracy']:.1f} | {100 * row['accuracy_others']:.1f}"
        lines.append(f"| {title} | {scores} | {_weights(row)} |")
    for penalty, row in found["penalties"].items():
        if float(penalty) != SETTINGS.penalty:
            zero = f"{len(row['zero'])} of {found['layers']} layers zero"
            lines.append(f"| the edit with a penalty of {penalty}: {zero} | | | {_weights(row)} |")
    return "\n".join(lines)


def _weights(row: Mapping[str, Any]) -> str:
    return f"{row['forgotten']:.2f} | {row['remaining']:.2f} | {row['to_gold']:.2f} | {row['membership']:.2f}"


def class_table() -> str:
    """Each draw of classes; nothing where they were not measured."""
    if "classes" not in kept():
        return ""
    lines = [
        "| forgotten | accuracy on them | on the others | H | attainable | sites left as they were |",
        "|---|---|---|---|---|---|",
    ]
    for one in kept()["classes"]["draws"]:
        (own, others), (own_after, others_after) = one["before"], one["after"]
        h, most = harmonic(own - own_after, others_after), harmonic(own, others)
        lines.append(
            f"| {', '.join(one['classes'])} | {100 * own:.1f} → {100 * own_after:.1f} | {100 * others:.1f} → "
            f"{100 * others_after:.1f} | {h:.2f} | {most:.2f} | {one['zero']} of {one['sites']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
