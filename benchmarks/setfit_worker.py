"""Trains SetFit in an environment of its own; `setfit_rival.py` starts it. Needs `setfit` alone, not loragen.

Reads a job a line of standard input and answers each with a line on standard output, both JSON:

    {"model": folder, "texts": [...], "targets": [...], "queries": [...], "seed": 0, "settings": {...}}
    {"predicted": [...], "seconds": 1.0}

The first line that it writes says the versions, or what is missing: {"versions": {...}} or {"error": "..."}.
"""

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from typing import Any


def train_and_predict(job: dict[str, Any]) -> dict[str, Any]:
    """Classes that SetFit predicts for the queries after training on the texts."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    begun = time.monotonic()
    model = SetFitModel.from_pretrained(job["model"])
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            seed=job["seed"],
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            show_progress_bar=False,
            **job["settings"],
        )
        data = Dataset.from_dict({"text": job["texts"], "label": job["targets"]})
        Trainer(model=model, args=arguments, train_dataset=data).train()
    predicted = [int(one) for one in model.predict(job["queries"])]
    return {"predicted": predicted, "seconds": round(time.monotonic() - begun, 1)}


def main() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what SetFit prints is no answer

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        import setfit  # noqa: F401
    except ImportError as error:
        answer({"error": str(error)})
        return
    answer({"versions": {name: version(name) for name in ("setfit", "sentence-transformers", "transformers", "torch")}})
    for line in sys.stdin:
        answer(train_and_predict(json.loads(line)))


if __name__ == "__main__":
    main()
