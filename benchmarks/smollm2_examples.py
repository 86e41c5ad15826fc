"""Sixteen small tasks for SmolLM2-135M-Instruct: the bare model, told the task or not, and adapters from descriptions.

    python benchmarks/smollm2_examples.py           # the generators that ship; some 6 minutes of processor time
    python benchmarks/smollm2_examples.py --show    # the table again, from the figures kept

Uses the library as a user would: `loragen.generate` with the description of examples/smollm2.yaml, then
`Adapter.complete` on its texts. An answer is right if it is the wanted one, letter by letter. Figures go to
benchmarks/results/smollm2/examples.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import loragen
from loragen.bases.language_model import LanguageModel
from loragen.cli import console
from loragen.config import read_yaml
from loragen.files import atomic_write

TASKS, RESULTS = Path("examples/smollm2.yaml"), Path("benchmarks/results/smollm2/examples.json")
ZOO = "zoo/smollm2"
GENERATORS = ("topk", "told", "hyper")
BARE, TOLD = "bare", "bare, told the task"
LONGEST = 16


def told(base: LanguageModel, description: str, texts: list[str]) -> list[str]:
    """What the bare model answers when the description stands before the text."""
    return base.continued(
        [base.chat([("system", description), ("user", text)]) for text in texts], max_new_tokens=LONGEST
    )


def measured(task: dict[str, Any], base: LanguageModel | None, zoo: str) -> tuple[dict[str, list[str]], LanguageModel]:
    """Answers of each method to the texts of a task, and the base that was opened for them."""
    texts, found = list(task["answers"]), {}
    for name in GENERATORS:
        adapter = loragen.generate(task["description"], zoo=zoo, generator=name, seed=0)
        if base is not None:
            adapter = adapter.with_base(base)
        opened = adapter.opened_base
        assert isinstance(opened, LanguageModel)
        base = opened
        if BARE not in found:
            found[BARE] = adapter.complete(texts, max_tokens=LONGEST, adapted=False)
            found[TOLD] = told(base, task["description"], texts)
        found[name] = adapter.complete(texts, max_tokens=LONGEST)
    assert base is not None
    return found, base


def table(kept: dict[str, dict[str, list[str]]]) -> str:
    """A row a task: how many of its texts each method answers as wanted."""
    methods = (BARE, TOLD, *GENERATORS)
    lines = [f"| {' | '.join(('task', *methods))} |", "|---" * (len(methods) + 1) + "|"]
    for name, task in read_yaml(TASKS).items():
        wanted, answers = list(task["answers"].values()), kept[name]
        right = (sum(a == w for a, w in zip(answers[method], wanted, strict=True)) for method in methods)
        lines.append(f"| {' | '.join((name, *(f'{one} of {len(wanted)}' for one in right)))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", default=ZOO, help="name or folder")
    parser.add_argument("--show", action="store_true", help="make the table from the figures kept")
    options = parser.parse_args()
    if not options.show:
        tasks, kept, base = read_yaml(TASKS), {}, None
        with console.progress() as update:
            for at, (name, task) in enumerate(tasks.items()):
                update("tasks", at, len(tasks))
                kept[name], base = measured(task, base, options.zoo)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(RESULTS, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(table(json.loads(RESULTS.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
