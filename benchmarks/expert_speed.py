"""How long an expert takes to be trained: by loragen, and by peft with transformers' Trainer, on the same batches.

    python benchmarks/expert_speed.py            # one expert, and twenty; three rounds, ours and theirs in turn
    python benchmarks/expert_speed.py --rounds 1 --many 4
    python benchmarks/expert_speed.py --show     # the table again, from the figures kept

Both train the zoo's recipe (rank 4 on query and value, 60 steps of 32 texts, label-text loss, labels embedded under the
adapter) over all-MiniLM-L6-v2 in float32, on tasks of the zoo. A batch holds the same texts for both, of like length,
padded to its longest by the rival. Seconds are those of training alone: no import, no loading, no tokenising, no choice
of a length. loragen trains B over a fixed A, as its zoos do; peft trains A and B, as it does by default.

Twenty experts: loragen as `zoo build` does, a process of one thread for each core; the rival in both ways that a person
would take, one after the other with all threads, and in as many processes; the faster counts. Figures go to
benchmarks/results/expert_speed.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results/expert_speed.json")
TASKS = Path("configs/tasks/public.yaml")
OURS, THEIRS = "loragen", "peft and Trainer"
SEED = 0


# --- in a process of its own: trains some tasks, and prints the seconds of each ---


def batches_of(task: Any, base: Any, recipe: Any) -> list[Any]:
    import torch

    rng = torch.Generator().manual_seed(SEED)
    data = base.prepare(task.load_train(), max_length=recipe.max_length)
    return list(data.batches(recipe.steps, recipe.batch_size, rng=rng))


def train_ours(base: Any, recipe: Any, batches: Sequence[Any]) -> float:
    import torch

    from loragen.recipes.expert import AdapterObjective, Start, trajectory
    from loragen.training.threads import few_threads

    rng = torch.Generator().manual_seed(SEED)
    start = Start.random(base.sites(recipe.target_modules), recipe.r, rng=rng)
    begun = time.perf_counter()
    with few_threads(base.number_of_parameters):
        objective = AdapterObjective(base, start, train_a=False, contrast_weight=0.0)
        trajectory(objective, batches, recipe.learning_rate, seed=SEED)
    return time.perf_counter() - begun


def train_theirs(base: Any, recipe: Any, batches: Sequence[Any]) -> float:
    import copy

    import torch
    import torch.nn.functional as F
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import Dataset, SequentialSampler
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    from loragen.bases.losses import LOGIT_SCALE

    rows = [(list(ids), int(target)) for batch in batches for ids, target in zip(batch.ids, batch.targets, strict=True)]
    padding = base.tokenizer.pad_token_id

    class Texts(Dataset[Any]):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, at: int) -> tuple[list[int], int]:
            return rows[at]

    def padded(ids: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        longest = max(map(len, ids))
        return {
            "input_ids": torch.tensor([[*row, *[padding] * (longest - len(row))] for row in ids]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids]),
        }

    def collate(chosen: Sequence[tuple[list[int], int]]) -> dict[str, Any]:
        return {"texts": padded([ids for ids, _ in chosen]), "targets": torch.tensor([target for _, target in chosen])}

    label_rows = padded(batches[0].label_ids)

    class LabelTexts(Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> SequentialSampler:
            return SequentialSampler(rows)

        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
            texts, labels = (embedded(model, each) for each in (inputs["texts"], label_rows))
            return F.cross_entropy(LOGIT_SCALE * texts @ labels.T, inputs["targets"])

    def embedded(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    settings = LoraConfig(r=recipe.r, lora_alpha=recipe.r, target_modules=list(recipe.target_modules))
    model = get_peft_model(copy.deepcopy(base.model), settings)
    arguments = TrainingArguments(
        output_dir="runs/expert_speed",
        per_device_train_batch_size=recipe.batch_size,
        max_steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=True,
    )
    begun = time.perf_counter()
    trainer = LabelTexts(model, arguments, data_collator=collate, train_dataset=Texts())
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return time.perf_counter() - begun


def worker(way: str, tasks: Sequence[str]) -> None:
    """Train tasks one after the other as soon as a line is read; print the seconds of each."""
    from loragen.tasks.task_set import TaskSet
    from loragen.zoo.zoo import Zoo

    zoo = Zoo.open()
    base, recipe = zoo.load_base(), zoo.manifest.recipe
    known = {task.id: task for task in TaskSet.from_yaml(TASKS).split("experts")}
    made = {name: batches_of(known[name], base, recipe) for name in tasks}
    train = train_ours if way == OURS else train_theirs
    first = next(iter(made.values()))
    train(base, recipe.model_copy(update={"steps": 2}), first[:2])  # imports, and whatever is made ready once
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps({name: round(train(base, recipe, batches), 3) for name, batches in made.items()}), flush=True)


# --- here ---


def timed(way: str, tasks: Sequence[str], *, processes: int, threads: int) -> float:
    """Seconds for some tasks, shared by processes."""
    parts = [tasks[number::processes] for number in range(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--worker", way, "--tasks", *part],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for part in parts
        if part
    ]
    for process in started:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "ready\n":
            if not line:
                raise SystemExit(f"a process of {way} failed")
    begun = time.perf_counter()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in started:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"a process of {way} failed")
    seconds = time.perf_counter() - begun
    for process in started:
        process.communicate()
    return seconds


def rounds(number: int, many: int) -> Iterator[dict[str, Any]]:
    """Figures of each round."""
    from loragen.tasks.task_set import TaskSet

    cores = len(os.sched_getaffinity(0))
    names = [task.id for task in TaskSet.from_yaml(TASKS).split("experts")]
    chosen = [names[at * len(names) // many] for at in range(many)]
    for at in range(number):
        one = [chosen[(at * 7 + 3) % many]]
        print(f"round {at + 1} of {number}: {one[0]}", file=sys.stderr, flush=True)
        yield {
            "round": at,
            "one": {
                "task": one[0],
                OURS: timed(OURS, one, processes=1, threads=1),
                f"{THEIRS}, 1 thread": timed(THEIRS, one, processes=1, threads=1),
                f"{THEIRS}, {cores} threads": timed(THEIRS, one, processes=1, threads=cores),
            },
            "many": {
                "tasks": many,
                OURS: timed(OURS, chosen, processes=cores, threads=1),
                f"{THEIRS}, one after the other": timed(THEIRS, chosen, processes=1, threads=cores),
                f"{THEIRS}, {cores} processes": timed(THEIRS, chosen, processes=cores, threads=1),
            },
        }


def table(found: Sequence[dict[str, Any]]) -> str:
    """Seconds, and how many times as long the rival takes, as Markdown."""
    lines = ["| | seconds, each round | times ours |", "|---|---|---|"]
    for part, title in (("one", "one expert"), ("many", f"{found[0]['many']['tasks']} experts")):
        for way in (name for name in found[0][part] if name not in ("task", "tasks")):
            seconds = [each[part][way] for each in found]
            ratios = sorted(each[part][way] / each[part][OURS] for each in found)
            shown = f"{ratios[0]:.2f} to {ratios[-1]:.2f}" if way != OURS else ""
            lines.append(f"| {title}: {way} | {', '.join(f'{value:.1f}' for value in seconds)} | {shown} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=20)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--tasks", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.tasks)
        return 0
    if not options.show:
        found = list(rounds(options.rounds, options.many))
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(json.loads(RESULTS.read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
