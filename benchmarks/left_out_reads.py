"""What bases and adapters say of tasks that their zoo has not seen: the raw material of `confidence.py`.

    python benchmarks/left_out_reads.py [--part 0/2]    # a task a minute on one thread; goes on where it was

For each task left out of a zoo (`left_out.py`) and each validation task of the bundled one: 200 unlabelled texts and
200 test texts as read by the bare base, by the zoo's one adapter for all tasks, by what SG-LoRA makes of the
description, and by that after self-training on the 200 texts (half way, as it ships, and whole). Kept in
runs/left-out/reads.
"""

import argparse
import random
import time
from dataclasses import replace
from pathlib import Path

import torch
from left_out import ROOT, LeftOut, left_out
from score_unseen import TASKS

from loragen.adaptation.self_training import AdaptRecipe, self_train
from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.tokenised import Readout
from loragen.cli import console
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.evaluation.workspace import shuffled, task_rng
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.zoo import Zoo

READS = ROOT / "reads"
TEXTS, LENGTH = 200, 64
VALIDATION = 13


def pairs() -> list[LeftOut]:
    """Validation tasks first, then tasks of unseen families in random order, then the others."""
    zoo = Zoo.open()
    own = [LeftOut(task, zoo.root, False) for task in TaskSet.from_yaml(TASKS).split("validation")]
    groups = [[one for one in left_out() if one.is_far is is_far] for is_far in (True, False)]
    for group in groups:
        random.Random(0).shuffle(group)
    return [*own, *groups[0], *groups[1]]


def unlabelled(task: Task, number: int, *, seed: int = 0) -> Examples:
    """Texts of a task's train file, drawn at random; their labels are for judging alone."""
    examples = task.load_train()
    return examples.subset(torch.randperm(len(examples), generator=task_rng(task, f"texts {seed}"))[:number])


def read_pair(pair: LeftOut, base: Base, encoder: TextEncoder) -> dict[str, object]:
    """Readouts by adapter: of the unlabelled texts, and of the test texts."""
    generation = pair.pipeline("sg", encoder).generate(Evidence(pair.task.description))[0]
    merge = pair.pipeline("topk", encoder).generate(Evidence(pair.task.description))[0].adapter
    shared = Zoo.open(pair.zoo).multitask()
    texts = base.prepare(unlabelled(pair.task, TEXTS), max_length=LENGTH)
    test = base.prepare(shuffled(pair.task), max_length=LENGTH).first(TEXTS)
    whole = self_train(generation.adapter, texts, base, AdaptRecipe(strength=1.0))
    candidates = {"base": None, "shared": shared, "generated": generation.adapter, "whole": whole.lora}
    unlabelled_reads = {
        name: whole.before if name == "generated" else base.read(texts, adapter) for name, adapter in candidates.items()
    }
    candidates["adapted"] = half_way(generation.adapter, whole.lora)
    return {
        "texts": unlabelled_reads,
        "test": {name: base.read(test, adapter) for name, adapter in candidates.items()},
        "adapters": {"generated": generation.adapter, "merge": merge, "shared": shared},
        "neighbours": generation.neighbours,
    }


def half_way(one: Lora, other: Lora) -> Lora:
    """The mean of an adapter and its fit, which share an A but for its orthonormal basis."""
    a = {site: other.scaled_factors(site)[0] for site in other.sites}
    b = {
        site: (other.scaled_factors(site)[1] + one.delta_weight(site) @ torch.linalg.pinv(a[site])) / 2
        for site in other.sites
    }
    return Lora.from_factors(a, b, base_model_name_or_path=other.settings.base, task_type=other.settings.task_type)


def _short(read: Readout) -> Readout:
    return replace(read, texts=read.texts.bfloat16())


def path_of(pair: LeftOut) -> Path:
    """Where a pair's readouts are kept."""
    return READS / f"{pair.key}.pt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="0/1", help="of several processes: number/processes")
    number, processes = map(int, parser.parse_args().part.split("/"))
    torch.set_num_threads(1)
    READS.mkdir(parents=True, exist_ok=True)
    base, encoder = Zoo.open().load_base(), TextEncoder.load()
    for pair in pairs()[number::processes]:
        if path_of(pair).exists():
            continue
        begun = time.monotonic()
        made = read_pair(pair, base, encoder)
        for kind in ("texts", "test"):
            made[kind] = {name: _short(read) for name, read in made[kind].items()}
        torch.save(made | {"seconds": time.monotonic() - begun}, path_of(pair))
        right = {name: float((r.logits.argmax(1) == r.targets).double().mean()) for name, r in made["test"].items()}
        console.say(
            f"{pair.key} {time.monotonic() - begun:.0f} s " + " ".join(f"{n} {v:.3f}" for n, v in right.items())
        )


if __name__ == "__main__":
    main()
