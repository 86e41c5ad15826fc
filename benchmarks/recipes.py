"""Claims of the recipes' papers, tried over MiniLM: each check says what was claimed, what came out, and if it holds.

    python benchmarks/recipes.py [--only SoRA …]   # what is not kept yet; goes on where it was
    python benchmarks/recipes.py --show            # the table again

Experts of 60 steps of 32, rank 4 on query and value; each recipe at the best of three learning rates (3e-3, 1e-2,
3e-2), by the loss on a slice of the train file; label-text accuracy on 400 test texts. TREC, Subj and CR, which the
papers' checks name, are test tasks here, so others of their kind stand in: phone_question_type, phrase_polarity,
sentence_amazon. Figures go to benchmarks/results/recipes.json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe_checks import CHECKS
from recipe_lab import Lab

from loragen.cli import console
from loragen.files import atomic_write

RESULTS = Path("benchmarks/results/recipes.json")


def kept() -> dict[str, dict[str, Any]]:
    """Check → its outcome."""
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def table(names: Sequence[str] = tuple(CHECKS)) -> str:
    """The outcomes of some checks, a row each."""
    lines = ["| system | what was tried | what came out | holds |", "|---|---|---|---|"]
    for name, outcome in ((name, outcome) for name, outcome in kept().items() if name in names):
        told = "; ".join(f"{what} {value}" for what, value in outcome["figures"].items())
        lines.append(f"| {name} | {outcome['claim']} | {told} | {'yes' if outcome['holds'] else '**no**'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=CHECKS, default=tuple(CHECKS), metavar="CHECK")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    lab = Lab()
    for name in options.only if not options.show else ():
        if name in kept():
            continue
        console.say(name)
        outcome = CHECKS[name].run(lab)
        found = kept() | {name: {"claim": CHECKS[name].claim, "holds": outcome.holds, "figures": outcome.figures}}
        ordered = {check: found[check] for check in CHECKS if check in found}
        atomic_write(RESULTS, json.dumps(ordered, indent=1) + "\n")
    print(table())


if __name__ == "__main__":
    main()
