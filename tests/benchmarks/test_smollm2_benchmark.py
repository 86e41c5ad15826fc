"""The benchmark over SmolLM2 asks only for adapters that its steps make."""

import sys
from pathlib import Path

import torch
from families import write_base

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from smollm2 import HELD_OUT, KNOWN, ROWS_OF
from smollm2_cells import BASE, INSTRUCTED, MULTI, MULTI_TOLD, ORACLE, ROWS, _surprises, cells
from smollm2_tables import condition_table, target_table

from loragen.bases.language_model import LanguageModel
from loragen.bases.open import open_base
from loragen.evaluation.controls import NONSENSE, OTHER, RIGHT
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSource
from loragen.zoo.build_config import ZooConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "zoo"


def test_oracles_are_wanted_of_the_splits_that_they_are_trained_on() -> None:
    trained = ZooConfig.from_yaml(CONFIGS / "smollm2-oracles.yaml").splits
    assert {split for split in HELD_OUT if ORACLE in ROWS_OF.get(split, ROWS)} == set(trained)
    assert ORACLE in ROWS_OF[KNOWN]  # an expert of the zoo is its own task's oracle


def test_what_was_aimed_at_is_set_beside_what_was_found() -> None:
    def line(row: str, control: str, exact: float, task: str = "a") -> dict[str, object]:
        return {"task": task, "split": "test_both", "row": row, "control": control, "seed": 0, "exact": exact}

    lines = [line("hyper", RIGHT, 0.5), line("hyper", NONSENSE, 0.1), line(MULTI, RIGHT, 0.25), line(BASE, RIGHT, 0.0)]
    table = target_table(lines, ("test_both",))
    assert table.splitlines()[2:] == [
        f"| hyper less {MULTI} | above 0 | +0.250 (+0.250 to +0.250) |",
        "| hyper: the right description less nonsense | +.05 or more | +0.400 (+0.400 to +0.400) |",
    ]
    more = [*lines, line("hyper", RIGHT, 0.5, task="b")]
    assert MULTI not in target_table(more, ("test_both",)), "a row that lacks a task is not compared"


def test_rows_tell_the_base_what_their_adapters_were_made_from() -> None:
    assert {"told", "mean output of told", MULTI_TOLD} < set(INSTRUCTED)
    assert not {"hyper", "sg", BASE, MULTI} & set(INSTRUCTED)


def test_answers_read_in_one_pass_are_as_likely_as_read_one_by_one(tmp_path) -> None:
    base = open_base(str(write_base(tmp_path, "llama")), objective="causal_lm")
    assert isinstance(base, LanguageModel)
    data = base.prepare(
        Examples(("a soup", "cold tea"), labels=(1, 0), label_names=("soup", "warm tea")), max_length=20
    )
    (own, logits), (alone, nothing) = (_surprises(base, data, labels) for labels in (data.label_ids, ()))
    torch.testing.assert_close(logits, base.read(data).logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(own.nats, alone.nats, atol=1e-4, rtol=0)
    assert own.likeliest.tolist() == alone.likeliest.tolist()
    assert nothing is None


def test_pages_are_made_while_cells_are_still_missing() -> None:
    def line(row: str, control: str) -> dict[str, object]:
        facts = {"task": "a", "split": "test_both", "row": row, "control": control, "seed": 0}
        return facts | {"exact": 0.5, "bits": 1.0}

    lines = [line("hyper", RIGHT), line("hyper", NONSENSE)]
    assert len(condition_table(lines, ("test_both",)).splitlines()) == 2
    lines.append(line("hyper", OTHER))
    less = "+0.000 (+0.000 to +0.000)"
    assert condition_table(lines, ("test_both",)).splitlines()[2] == f"| hyper | 0.500 | {less} | {less} |  |  |"
    whole = [*lines, *(line("hyper", f"paraphrase {number}") for number in (1, 2, 3))]
    assert condition_table(whole, ("test_both",)).splitlines()[2] == f"| hyper | 0.500 | {less} | {less} | {less} |  |"


def test_rows_that_read_a_description_are_made_for_other_ones() -> None:
    source = TaskSource(test="unused.jsonl")
    said = ("Does it speak of tea?", "Say yes for tea, no for the rest.", "Tea or not?")
    task = Task(id="a", description="Is the text about tea?", paraphrases=said, labels=("yes", "no"), source=source)
    others = [Task(id="b", description="Name the colour.", labels=("red", "blue"), source=source)]
    asked = {(cell.row, cell.control) for cell in cells(task, others, (BASE, "topk", "hyper"))}
    again = {f"paraphrase {number}" for number in (1, 2, 3)}
    assert {control for row, control in asked if row == "topk"} == {RIGHT, NONSENSE, OTHER}
    assert {control for row, control in asked if row == "hyper"} == {RIGHT, NONSENSE, OTHER, *again}
    assert {control for row, control in asked if row == BASE} == {RIGHT}
