"""Which experts help which task, measured, as what a selector learns in place of cosine, and whether that helps.

    python benchmarks/outcomes.py measure    # losses of experts on one another's held-out texts; goes on where it was
    python benchmarks/outcomes.py validate   # selectors that learn from them, on the validation tasks
    python benchmarks/outcomes.py show       # the table again

For each task of the split `experts` its nearest 12 other experts by description and 4 drawn at random are tried on 64
of its test texts, which no expert has seen; the gain is how far an expert lowers the loss of the bare base. A selector
scores an expert e for a task t by

    α cos(t, e) + (U t)·(V e) + b_e        t, e: embeddings of descriptions

and learns to put the gains of a task in order (cross-entropy to a softmax of the gains). Its rank and decay are chosen
by tasks of the split that were left out. On the 13 validation tasks the 4 experts of highest score are merged by a
softmax, as the generator topk does by cosine. Figures go to benchmarks/results/outcomes.json.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from outcome_selector import CHOICES, Gains, Selector, chosen_by_left_out, fit_selector

from loragen.adapters.combine import weighted_sum
from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.cli import console
from loragen.conditions.text_encoder import TextEncoder
from loragen.evaluation.workspace import shuffled, task_rng
from loragen.files import atomic_write
from loragen.generation import ENCODER
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import SPLIT, Zoo

RESULTS = Path("benchmarks/results/outcomes.json")
NEAREST, DRAWN, TEXTS, MERGED = 12, 4, 64, 4
TEMPERATURE = 0.1


def kept(file: Path) -> dict[str, Any]:
    """``gains``: task → expert → gain in nats; ``validation``: method → task → accuracy and loss."""
    return json.loads(file.read_text()) if file.exists() else {"gains": {}, "validation": {}}


def loss_of(base: Base, data: TaskData, adapter: Any) -> tuple[float, float]:
    """Cross-entropy of labelled texts, in nats, and accuracy."""
    read = base.read(data, adapter)
    right = float((read.logits.argmax(1) == read.targets).double().mean())
    return float(F.cross_entropy(read.logits.float(), read.targets)), right


def candidates(task: Task, index: ExpertIndex, encoder: TextEncoder) -> list[str]:
    """The nearest other experts to a task, and some drawn at random."""
    query = encoder.encode([task.description])[0]
    order = [hit.id for hit in index.index.search(query, len(index.zoo)) if hit.id != task.id]
    rest = order[NEAREST:]
    drawn = torch.randperm(len(rest), generator=task_rng(task, "outcomes"))[:DRAWN].tolist()
    return [*order[:NEAREST], *(rest[at] for at in drawn)]


def measure(file: Path, zoo: Zoo, tasks: TaskSet, texts: int, most: int | None) -> None:
    """Measure the gains that are not kept yet."""
    base, encoder = zoo.load_base(), TextEncoder.load(ENCODER)
    experts = zoo.select(splits={SPLIT})
    index = ExpertIndex.of(experts, encoder)
    for task in tasks.split(SPLIT)[:most]:
        whole = kept(file)
        if task.id in whole["gains"] or task.id not in experts.ids:
            continue
        data = base.prepare(shuffled(task), max_length=64).first(texts)
        bare, _ = loss_of(base, data, None)
        found = {one: bare - loss_of(base, data, zoo.adapter(one))[0] for one in candidates(task, index, encoder)}
        whole["gains"][task.id] = {one: round(gain, 4) for one, gain in found.items()}
        atomic_write(file, json.dumps(whole, indent=1) + "\n")
        console.say(f"{task.id}: the best of {len(found)} gains {max(found.values()):+.3f} nats")


def gains_of(measured: Mapping[str, Mapping[str, float]], index: ExpertIndex) -> Gains:
    """The gains kept as tensors."""
    ids = list(index.index.ids)
    tasks = [task for task in measured if task in ids]
    values = torch.full((len(tasks), len(ids)), float("nan"))
    for row, task in zip(values, tasks, strict=True):
        for expert, gain in measured[task].items():
            row[ids.index(expert)] = gain
    vectors = index.index.vectors.float()
    return Gains(vectors[[ids.index(task) for task in tasks]], vectors, values)


def merged(scores: torch.Tensor, temperature: float, index: ExpertIndex) -> Any:
    """The experts of highest score (n,), merged by a softmax of their scores."""
    top = scores.topk(MERGED)
    weights = torch.softmax(top.values.double() / temperature, 0).tolist()
    adapters = [index.zoo.adapter(index.index.ids[at]) for at in top.indices.tolist()]
    return weighted_sum(adapters, weights)


def validate(file: Path, zoo: Zoo, tasks: TaskSet, texts: int, most: int | None) -> None:
    """Fit selectors to the gains, and merge by them for the validation tasks."""
    base, encoder = zoo.load_base(), TextEncoder.load(ENCODER)
    index = ExpertIndex.of(zoo.select(splits={SPLIT}), encoder)
    whole = kept(file)
    gains = gains_of(whole["gains"], index)
    choice, by_choice = chosen_by_left_out(gains)
    console.say(f"left-out tasks choose {choice} of " + ", ".join(f"{c}: {v:.4f}" for c, v in by_choice.items()))
    learnt, alone = fit_selector(gains, *choice), fit_selector(gains, 0, choice[1])
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for task in tasks.split("validation")[:most]:
        query = encoder.encode([task.description])[0].float()
        data = base.prepare(shuffled(task), max_length=128).first(texts)
        for name, adapter in adapters_of(query, index, learnt, alone).items():
            found.setdefault(name, {})[task.id] = tuple(round(one, 4) for one in loss_of(base, data, adapter))
        console.say(f"{task.id}: " + ", ".join(f"{name} {rows[task.id][1]:.3f}" for name, rows in found.items()))
    atomic_write(file, json.dumps(whole | {"validation": found, "choice": list(choice)}, indent=1) + "\n")


def adapters_of(query: torch.Tensor, index: ExpertIndex, learnt: Selector, alone: Selector) -> dict[str, Any]:
    """What is compared for one task."""
    vectors = index.index.vectors.float()
    return {
        "base": None,
        "cosine (topk)": merged(vectors @ query, TEMPERATURE, index),
        "outcomes": merged(learnt.scores(query[None], vectors)[0], 1.0, index),
        "outcomes, no interaction": merged(alone.scores(query[None], vectors)[0], 1.0, index),
        "helpful to all, description unread": merged(learnt.bias, 1.0, index),
    }


def table(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Means over the validation tasks, and on how many a method is above and below cosine."""
    lines = ["| experts chosen by | accuracy | cross-entropy | above cosine | below |", "|---|---|---|---|---|"]
    cosine = found.get("cosine (topk)", {})
    for name, rows in found.items():
        loss, right = (sum(row[at] for row in rows.values()) / len(rows) for at in (0, 1))
        above = sum(row[1] > cosine[task][1] for task, row in rows.items())
        below = sum(row[1] < cosine[task][1] for task, row in rows.items())
        lines.append(f"| {name} | {right:.3f} | {loss:.3f} | {above} | {below} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "validate", "show"))
    parser.add_argument("--texts", type=int, help=f"of a task (default: {TEXTS} to measure, 200 to validate)")
    parser.add_argument("--tasks", type=int, help="the most tasks, for a trial")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.what != "show":
        task_set = TaskSet.from_yaml(Path("configs/tasks/public.yaml"))
        work, texts = (measure, TEXTS) if options.what == "measure" else (validate, 200)
        work(options.out, Zoo.open(), task_set, options.texts or texts, options.tasks)
    print(f"{len(kept(options.out)['gains'])} tasks measured; choices tried: {CHOICES}\n")
    print(table(kept(options.out)["validation"]))


if __name__ == "__main__":
    main()
