"""A training step of a language model: a plain full pass, and each of the ways by which loragen makes it cheaper.

    python benchmarks/training_steps.py [--base smollm2-135m-instruct] [--steps 8]
    python benchmarks/training_steps.py --show

One thread; the ways in turn on the same batches of 16 texts, each batch of another task of configs/tasks/shapes.yaml
(benchmarks/shape_tasks.py writes the texts), with adapters as in configs/zoo/smollm2.yaml. Ratios are medians over the
batches. Each way adds to the one above it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from smollm2_cells import TASKS

from loragen.bases.causal_lm import CausalLM
from loragen.bases.open import open_base
from loragen.bases.tokenised import TaskData, padded_rows, tokens_of
from loragen.bases.wording import Chat
from loragen.cli import console
from loragen.recipes.expert import AdapterObjective, Start
from loragen.tasks.task_set import TaskSet

RESULTS = Path("benchmarks/results/training_steps.json")
TEXTS, SITES = 16, r"model\.layers\.2[4-9]\..*_proj"
PLAIN = "full passes of prompt and answer, logits at every token"
TOGETHER = "the template read once, logits where they are counted"
FIRST = "states below the adapters kept: a text's first time"
AGAIN = "states below the adapters kept: each later time"


def plain_loss(base: CausalLM, batch: TaskData) -> torch.Tensor:
    """Mean surprise over the answers' tokens, by one pass over padded rows as transformers and PEFT make it."""
    prompts, answers = tokens_of(batch.ids), batch.own_outputs()
    rows, lengths = padded_rows([[*p, *a] for p, a in zip(prompts, answers, strict=True)], 0)
    at = torch.arange(rows.shape[1])
    mask = at < lengths[:, None]
    wanted = rows.masked_fill(~mask | (at < torch.tensor([len(p) for p in prompts])[:, None]), -100)
    loss: torch.Tensor = base.model(input_ids=rows, attention_mask=mask, labels=wanted).loss
    return loss


def timed(
    objective: AdapterObjective, loss: Callable[[TaskData], torch.Tensor], batch: TaskData
) -> tuple[float, float]:
    """Seconds of a loss with its gradients, and the loss."""
    begun = time.perf_counter()
    value = loss(batch)
    value.backward()
    seconds = time.perf_counter() - begun
    objective.zero_grad()
    return seconds, float(value.detach())


Way = tuple[AdapterObjective, Callable[[TaskData], torch.Tensor]]
"""The objective, and its loss of a batch."""


def ways(base: CausalLM, start: Start) -> dict[str, Way]:
    """All ways by their titles."""
    plain = AdapterObjective(base, start, train_a=False, contrast_weight=0)
    keeping = AdapterObjective(base.keeping_below(start.lora_B), start, train_a=False, contrast_weight=0)

    def full(batch: TaskData) -> torch.Tensor:
        with base.using(plain.factors()):
            return plain_loss(base, batch)

    def ours(objective: AdapterObjective) -> Way:
        return objective, lambda batch: objective.loss(batch)["loss"]

    return {PLAIN: (plain, full), TOGETHER: ours(plain), FIRST: ours(keeping), AGAIN: ours(keeping)}


def measure(name: str, steps: int) -> dict[str, dict[str, float]]:
    """A row a way."""
    torch.set_num_threads(1)
    base = open_base(name, objective="causal_lm", prompt=Chat())
    assert isinstance(base, CausalLM)
    rng = torch.Generator().manual_seed(0)
    all_ways = ways(base, Start.random(base.sites(SITES), 4, rng=rng))
    tasks = TaskSet.from_yaml(TASKS).split("experts")
    found: dict[str, list[tuple[float, float]]] = {title: [] for title in all_ways}
    for step in range(steps + 1):
        task = tasks[step * len(tasks) // (steps + 1)]
        data = base.prepare(task.load_train(), max_length=64)
        batch = next(data.batches(1, TEXTS, rng=rng))
        for title, (objective, loss) in all_ways.items():
            found[title].append(timed(objective, loss, batch))
        console.say(f"{step} of {steps}: {task.id}")
    return rows_of({title: own[1:] for title, own in found.items()})  # the first step warms up


def rows_of(found: dict[str, list[tuple[float, float]]]) -> dict[str, dict[str, float]]:
    """Medians over the batches, and by how much a loss differs from that of a full pass at most."""
    rows, before = {}, found[PLAIN]
    for title, own in found.items():
        rows[title] = {
            "seconds": statistics.median(seconds for seconds, _ in own),
            "times faster": statistics.median(a / b for (a, _), (b, _) in zip(found[PLAIN], own, strict=True)),
            "than the way above": statistics.median(a / b for (a, _), (b, _) in zip(before, own, strict=True)),
            "loss differs by": max(abs(a - b) for (_, a), (_, b) in zip(found[PLAIN], own, strict=True)),
        }
        before = own
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    if not arguments.show:
        RESULTS.write_text(json.dumps(measure(arguments.base, arguments.steps), indent=1) + "\n")
    kept = json.loads(RESULTS.read_text())
    columns = next(iter(kept.values()))
    print(f"| a step of {TEXTS} texts | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for title, row in kept.items():
        print(f"| {title} | {' | '.join(f'{value:.2g}' for value in row.values())} |")


if __name__ == "__main__":
    main()
