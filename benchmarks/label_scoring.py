"""Labels after prompts that are read once, beside a full pass for every label with logits at every token.

    python benchmarks/label_scoring.py [--base smollm2-135m-instruct] [--texts 24]
    python benchmarks/label_scoring.py --show

One thread, one process, the two ways in turn; the ratio is what counts. The tasks are of `data/tasks`.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from score_unseen import TASKS

from loragen.bases.language_model import LanguageModel
from loragen.bases.open import open_base
from loragen.bases.predictions import Predictions
from loragen.bases.tokenised import TaskData, padded_rows, tokens_of
from loragen.bases.wording import Chat, Wording
from loragen.cli import console
from loragen.tasks.task_set import TaskSet

RESULTS = Path("benchmarks/results/label_scoring.json")
CASES: dict[str, tuple[str, Wording, bool]] = {
    "15 labels, plain prompt": ("clinc_banking", "{text}\nLabel:", False),
    "15 labels, chat": ("clinc_banking", Chat(), False),
    "15 labels, chat that tells the task": ("clinc_banking", Chat(), True),
    "2 labels, chat": ("review_books", Chat(), False),
}
"""Title → task, wording, and whether prompts tell the task."""


@torch.inference_mode()
def full_passes(base: LanguageModel, data: TaskData, *, batch: int = 64) -> torch.Tensor:
    """Log-likelihood of each label after each prompt, (n, labels), as of the tag `search-2026-11`."""
    pairs = [(prompt, label) for prompt in tokens_of(data.ids) for label in data.label_ids]
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    found = torch.zeros(len(pairs))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        padded, lengths = padded_rows([[*pairs[i][0], *pairs[i][1]] for i in chosen], 0)
        at = torch.arange(padded.shape[1])
        mask = at < lengths[:, None]
        logits = base.model(input_ids=padded, attention_mask=mask).logits
        begins = torch.tensor([len(pairs[i][0]) for i in chosen])
        counted = (mask & (at >= begins[:, None]))[:, 1:]
        found[chosen] = -Predictions(logits[:, :-1], padded[:, 1:], counted).losses
    return found.reshape(len(data), len(data.label_ids))


def measure(name: str, texts: int) -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    rows = {}
    for title, (task_id, wording, told) in CASES.items():
        base = open_base(name, objective="causal_lm", prompt=wording)
        assert isinstance(base, LanguageModel)
        task = TaskSet.from_yaml(TASKS)[task_id]
        instruction = task.description if told else None
        data = base.prepare(task.load_test(), max_length=128, instruction=instruction).first(texts)
        base.read(data.first(2))
        begun = time.perf_counter()
        read = base.read(data).logits
        middle = time.perf_counter()
        plain = full_passes(base, data)
        with torch.inference_mode():
            base.encode(data.ids)  # which the way of before did in a pass of its own
        ended = time.perf_counter()
        rows[title] = {
            "prompt tokens": sum(map(len, tokens_of(data.ids))) / len(data),
            "label tokens": sum(map(len, data.label_ids)) / len(data.label_ids),
            "ms a text": 1000 * (middle - begun) / len(data),
            "before": 1000 * (ended - middle) / len(data),
            "times faster": (ended - middle) / (middle - begun),
            "largest difference": float((read - plain).abs().max()),
        }
        console.say(f"{title}: {rows[title]}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    if not arguments.show:
        RESULTS.write_text(json.dumps(measure(arguments.base, arguments.texts), indent=1) + "\n")
    kept = json.loads(RESULTS.read_text())
    columns = next(iter(kept.values()))
    print(f"| scored | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for title, row in kept.items():
        print(f"| {title} | {' | '.join(f'{value:.3g}' for value in row.values())} |")


if __name__ == "__main__":
    main()
