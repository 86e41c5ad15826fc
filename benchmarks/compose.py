"""Ways to compose experts, on texts of several tasks that nothing tells the task of, over the bundled zoo.

    python benchmarks/compose.py [--only mora …] [--sets domains] [--texts 100]   # what is not kept yet
    python benchmarks/compose.py --show                                           # the tables again

Two sets: ten domains of requests to an assistant, and six families; a text chooses among the labels of all tasks of
its set. All tasks are of the split `experts`, whose test texts no expert has seen. Gates are trained,
and outcomes measured, on the tasks' train texts. Figures go to benchmarks/results/compose.json.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from compose_lab import SETS, Figures, Lab, experts_active
from compose_tables import tables

from loragen.cli import console
from loragen.compose.composed import Composed
from loragen.compose.discovery import discover, measured
from loragen.compose.experts import Experts
from loragen.files import atomic_write
from loragen.inference import Adapter
from loragen.recipes.expert import Start
from loragen.recipes.multitask import MultitaskRecipe, train_multitask

RESULTS = Path("benchmarks/results/compose.json")
METHODS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "uniform": ("uniform", {}, False),
    "description": ("description", {}, False),
    "arrow": ("arrow", {}, False),
    "arrow, sharp": ("arrow", {"temperature": 0.1}, False),
    "mora": ("mora", {}, False),
    "mora, signed": ("mora", {"signed": True}, False),
    "mora, block": ("mora", {"norm": "block", "k": 4}, False),
    "mora, as published": ("mora", {"signed": True, "temperature": 0.03, "threshold": 0.2, "scale": 1.0}, False),
    "mora, trained": ("mora", {"train": True}, True),
    "smora": ("smora", {}, True),
    "smora, unbiased weights": ("smora", {"biased_weights": False}, True),
    "smora, no balance": ("smora", {"balance": 0.0}, True),
    "smora, experts too": ("smora", {"train_experts": True}, True),
    "sema_router": ("sema_router", {}, True),
    "brainstacks": ("brainstacks", {}, True),
    "brainstacks, added up": ("brainstacks", {"normalise": False}, True),
    "brainstacks, boosted": ("brainstacks", {"boost": 3}, True),
    "brainstacks, null space": ("brainstacks", {"protect": 8}, True),
}
"""Row → method, settings, and if it reads labelled texts. The first of each method has its defaults."""
TRAINED = ("smora", "sema_router")
"""Methods whose steps `--steps` sets."""


def methods_row(lab: Lab, row: str, steps: int | None) -> dict[str, Any]:
    """A method's figures, and what it met."""
    method, settings, needs_data = METHODS[row]
    if steps is not None and (method in TRAINED or settings.get("train")):
        settings = settings | {"steps": steps}
    if steps is not None and method == "brainstacks":
        settings = settings | {"texts": steps, "boost_steps": steps, "protect_texts": steps}
    made = lab.compose(method, settings, needs_data=needs_data)
    if isinstance(made.adapter, Adapter):
        lora = made.adapter.lora
        return asdict(lab.figures(lambda: lab.base.adapted(lora), len(lab.ids)))
    assert isinstance(made.adapter, Composed)
    composition = made.adapter.composition
    figures = lab.figures(lambda: composition.put_on(lab.base), experts_active(lab, composition))
    return asdict(figures) | {"facts": dict(made.facts)}


def greedy(lab: Lab) -> Figures:
    """Each text under the experts that lower its own loss the most: it looks at the answers, and is an upper bound."""
    experts = Experts.of([lab.zoo.adapter(one) for one in lab.ids], lab.ids)
    found = discover(
        measured(lab.base, experts, lab.data, mean=True), len(lab.data), len(experts), least_gain=0.01, most=2
    )
    sizes = [len(subset) for subset in found.subsets]
    loss = round(float(found.losses.mean()), 4)
    return Figures(float("nan"), loss, round(sum(sizes) / len(sizes), 2), None)


def multitask_of_these(lab: Lab, steps: int) -> Figures:
    """One LoRA for all tasks of the set, trained from the zoo's multi-task A on their train texts."""
    tasks, recipe = [lab.tasks[one] for one in lab.ids], lab.zoo.manifest.recipe
    start = Start.at(lab.zoo.multitask()).from_zero()
    settings = MultitaskRecipe(steps=steps, learning_rate=5e-3)
    trained, _ = train_multitask(tasks, lab.base, start, recipe, settings, train_a=True)
    factors = {site: (trained.lora_A[site], trained.lora_B[site]) for site in trained.lora_A}
    return lab.figures(lambda: lab.base.using(factors), 1)


def references(lab: Lab, steps: int | None) -> dict[str, Callable[[], Figures]]:
    """Rows that are no compositions."""
    multitask = lab.zoo.multitask()
    first = lab.zoo.adapter(lab.ids[0])

    def timed(figures: Figures) -> Figures:
        return replace(figures, milliseconds=lab.figures(lambda: lab.base.adapted(first), 1).milliseconds)

    return {
        "base": lambda: lab.figures(lambda: lab.base.adapted(None), 0),
        "multi-task LoRA of the zoo": lambda: lab.figures(lambda: lab.base.adapted(multitask), 1),
        "multi-task LoRA of these tasks": lambda: multitask_of_these(lab, steps or 1000),
        "nearest": lambda: lab.picked(lab.nearest_to_texts()),
        "best single expert": lambda: best_single(lab),
        "own expert (oracle)": lambda: timed(lab.picked(lab.owners)),
        "best expert a text (oracle)": lambda: lab.picked(best_by_loss(lab)),
        "greedy experts a text (oracle)": lambda: greedy(lab),
    }


def best_single(lab: Lab) -> Figures:
    """The expert that does best on the set as a whole, looking at the answers."""
    rows = [lab.of_logits(logits, 1.0) for logits in lab.by_expert]
    return max(rows, key=lambda row: row.accuracy)


def best_by_loss(lab: Lab) -> Any:
    """For each text the number of the expert of least loss, looking at the answer."""
    logits = lab.by_expert.log_softmax(-1)
    targets = lab.data.targets[None, :, None].expand(len(lab.ids), -1, 1)
    return logits.gather(-1, targets)[..., 0].argmax(0)


def kept(file: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Set → row → figures."""
    return json.loads(file.read_text()) if file.exists() else {}


def run(file: Path, sets: list[str], only: list[str] | None, texts: int, steps: int | None) -> None:
    """Compute the rows that are not kept yet."""
    lab: Lab | None = None
    for name in sets:
        lab = Lab.open(name, texts, root=lab)
        rows: dict[str, Callable[[], Any]] = {
            **references(lab, steps),
            **{row: partial(methods_row, lab, row, steps) for row in METHODS},
        }
        for row, compute in rows.items():
            if row in kept(file).get(name, {}) or (only is not None and row not in only):
                continue
            console.say(f"{name}: {row}")
            found = compute()
            figures = asdict(found) if isinstance(found, Figures) else found
            figures = {key: None if value != value else value for key, value in figures.items()}
            whole = kept(file)
            whole.setdefault(name, {})[row] = figures | {"texts": len(lab.data)}
            whole[name] = {one: whole[name][one] for one in rows if one in whole[name]}
            atomic_write(file, json.dumps(whole, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="ROW")
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--texts", type=int, default=100, help="test texts of a task, at most")
    parser.add_argument("--steps", type=int, help="of trainings, and texts that outcomes are measured on, for a trial")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    if not options.show:
        run(options.out, options.sets, options.only, options.texts, options.steps)
    print(tables(kept(options.out)))


if __name__ == "__main__":
    main()
