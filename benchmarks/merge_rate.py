"""The rate of `merge_sequence` in the sequences of continual.py, chosen on validation tasks.

    python benchmarks/merge_rate.py          # what is not kept yet; half an hour on one thread
    python benchmarks/merge_rate.py --show   # the table again

One adapter absorbs every second validation task, one by one, with the recipe of `merged` in
configs/sequence/groups.yaml at each rate. AA: accuracy at the end, FM: what is forgotten, both over 150 test texts a
task; groups.yaml takes the rate of the best AA. Figures go to benchmarks/results/merge_rate.json.
"""

import argparse
import json
from pathlib import Path

import yaml
from recipe_lab import Lab

from loragen.cli import console
from loragen.continual.metrics import ContinualScores
from loragen.evaluation.workspace import shuffled
from loragen.files import atomic_write
from loragen.recipes.registry import recipe_from
from loragen.recipes.sequence import merge_sequence
from loragen.training.threads import few_threads

RESULTS, CONFIG = Path("benchmarks/results/merge_rate.json"), Path("configs/sequence/groups.yaml")
RATES, TEXTS = (3e-4, 1e-3, 3e-3), 150


def kept() -> dict[str, dict[str, float]]:
    """Rate → its figures."""
    found: dict[str, dict[str, float]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def measured(lab: Lab, rate: float) -> dict[str, float]:
    """AA and FM of the validation tasks at one rate, and AA of the base."""
    recipe = recipe_from(yaml.safe_load(CONFIG.read_text())["merged"] | {"learning_rate": rate})
    tasks = lab.tasks.split("validation")[::2]
    data = [lab.base.prepare(shuffled(task), max_length=128).first(TEXTS) for task in tasks]
    scores: list[list[float]] = []
    with few_threads(lab.base.number_of_parameters):
        base = [lab.base.score(own).accuracy for own in data]
        for at, adapter in enumerate(merge_sequence(tasks, lab.base, recipe)):
            scores.append([lab.base.score(own, adapter).accuracy for own in data[: at + 1]])
            console.say(f"rate {rate:g}: {tasks[at].id} absorbed")
    found = ContinualScores.of(scores)
    assert found.aa is not None
    assert found.fm is not None
    return {"aa": round(found.aa, 4), "fm": round(found.fm, 4), "base": round(sum(base) / len(base), 4)}


def table() -> str:
    """A row a rate."""
    rows = sorted(kept().items(), key=lambda item: float(item[0]))
    cells = [f"| {rate} | {row['aa']:.3f} | {row['fm']:+.3f} | {row['base']:.3f} |" for rate, row in rows]
    return "\n".join(["| rate | AA | FM | AA of the base |", "|---|---|---|---|", *cells])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true")
    if not parser.parse_args().show:
        lab = Lab()
        for rate in RATES:
            if f"{rate:g}" not in kept():
                found = kept() | {f"{rate:g}": measured(lab, rate)}
                atomic_write(RESULTS, json.dumps(found, indent=1) + "\n")
    print(table())


if __name__ == "__main__":
    main()
