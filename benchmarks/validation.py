"""Every generator on the 13 validation tasks, which no expert of its library has seen.

    python benchmarks/validation.py            # what is not yet in the table
    python benchmarks/validation.py --again    # everything
    python benchmarks/validation.py --show     # the table again, from the figures kept

Reads the tasks of configs/tasks/public.yaml; keeps its figures in benchmarks/results/validation.json and prints the
table as Markdown. ICM-LoRA stands there three times: told the description alone, and told 16 texts of the task's train
file beside it, without and with their labels.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from icm import SHOTS, few_examples, unlabelled
from score_unseen import TASKS, Row, means, recovered_gain, score_unseen

from loragen.adapters.adapter import Lora
from loragen.bases.devices import choose_dtype
from loragen.bases.scores import Scores
from loragen.cli import console
from loragen.conditions.text_encoder import TextEncoder
from loragen.generation import Pipeline
from loragen.generators.registry import merges
from loragen.tasks.task_set import Task, TaskSet, overlap
from loragen.zoo.zoo import Zoo

RESULTS = Path("benchmarks/results/validation.json")
ORACLES = Path("benchmarks/oracles")
ORACLE = "oracle"
"""What recovers everything: an adapter trained on the task's own data, as experts are."""
SEEDS = (0, 1, 2)
WITH_EXAMPLES = {f"icm, {SHOTS} texts": unlabelled, f"icm, {SHOTS} labelled": few_examples}


def markdown(rows: Sequence[Row]) -> str:
    """Means over the tasks; a stochastic generator's are means over its seeds too, with their range behind."""
    lines = [
        "| adapter | label-text accuracy | recovered gain | kNN accuracy | recovered gain |",
        "|---|---|---|---|---|",
    ]
    table = {score: means(rows, score) for score in ("accuracy", "knn_accuracy")}
    for method in [*(m for m in table["accuracy"] if m != ORACLE), ORACLE]:
        cells = []
        for values in table.values():
            spread = by_seed(rows, method, "accuracy" if values is table["accuracy"] else "knn_accuracy")
            spanned = f" ({min(spread):.3f} to {max(spread):.3f})" if len(spread) > 1 else ""
            gain = recovered_gain(values[method], values["base"], values[ORACLE])
            cells += [f"{values[method]:.3f}{spanned}", f"{gain:.2f}"]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def kept_rows() -> list[Row]:
    """The rows of the last run."""
    rows = []
    for kept in json.loads(RESULTS.read_text()):
        task, method, seed = (kept.pop(name) for name in ("task", "method", "seed"))
        rows.append(Row(task, method, seed, Scores.checked(kept, source=str(RESULTS))))
    return rows


def by_seed(rows: Sequence[Row], method: str, score: str) -> list[float]:
    """Mean over the tasks for each seed of a method."""
    seeds = sorted({row.seed for row in rows if row.method == method})
    return [means([r for r in rows if r.method == method and r.seed == seed], score)[method] for seed in seeds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo/minilm"))
    parser.add_argument("--icm", default="icm", help="folder of the ICM-LoRA")
    parser.add_argument("--again", action="store_true", help="compute everything again")
    parser.add_argument("--show", action="store_true", help="print the table of the last run")
    arguments = parser.parse_args()
    if arguments.show:
        print(markdown(kept_rows()))
        return
    tasks = TaskSet.from_yaml(TASKS)
    zoo = Zoo.open(arguments.zoo)
    oracles = Zoo.open(ORACLES)
    experts, judged = zoo.select(splits={"experts"}), tasks.split("validation")
    shared = overlap([tasks[expert] for expert in experts.ids], judged, by="id")
    assert not shared, f"validation tasks among the experts: {shared}"
    encoder = TextEncoder.load()
    base = zoo.load_base(dtype=choose_dtype("auto"))
    rows = [] if arguments.again or not RESULTS.exists() else kept_rows()
    there = {row.method for row in rows}
    fixed: dict[str, Callable[[Task], Lora | None]] = {
        "base": lambda _task: None,
        "multi-task LoRA": lambda _task: zoo.multitask(),
        ORACLE: lambda task: oracles.adapter(task.id),
    }
    fixed = {name: adapter_for for name, adapter_for in fixed.items() if name not in there}
    pipelines = {name: Pipeline.open(name, zoo, encoder) for name in (*merges(), "sg") if name not in there}
    icm = Pipeline.open(arguments.icm, zoo, encoder)
    pipelines |= {name: icm for name in ("icm", *WITH_EXAMPLES) if name not in there}
    new = len(fixed) + sum(len(SEEDS) if each.generator.is_stochastic else 1 for each in pipelines.values())
    total = len(rows) + len(judged) * new
    with console.progress() as update:
        score_unseen(
            judged,
            pipelines,
            base,
            seeds=SEEDS,
            max_length=zoo.manifest.recipe.score_length,
            fixed=fixed,
            examples=WITH_EXAMPLES,
            on_row=lambda row: (rows.append(row), update("adapters scored", len(rows), total)),
        )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps(
            [
                {"task": r.task, "method": r.method, "seed": r.seed} | r.scores.model_dump(exclude_none=True)
                for r in rows
            ],
            indent=1,
        )
    )
    print(markdown(rows))


if __name__ == "__main__":
    main()
