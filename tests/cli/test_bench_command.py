import json

import command_line
import pytest
from command_line import widest
from models import word_task, write_tiny_encoder

from loragen.config import dump_yaml
from loragen.recipes import train

run = command_line.run
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("bench")
    base = write_tiny_encoder(root / "tiny", seed=1)
    task = word_task(root / "data")
    (root / "tasks.yaml").write_text(dump_yaml({"tasks": [task.model_dump(mode="json")]}))
    values = {
        "base": str(base),
        "tasks": str(root / "tasks.yaml"),
        "ids": ["drinks"],
        "common": {"r": 2, "steps": 4, "batch_size": 8, "choices": 2, "window": 2},
        "recipes": ["lora", "lora_both"],
        "learning_rates": [0.001, 0.01, 0.1],
        "out": "out",
    }
    (root / "bench.yaml").write_text(dump_yaml(values))
    return root / "bench.yaml"


def test_bench_recipes_shows_both_orders_and_names_its_files(run, inputs) -> None:
    made = run("bench", "recipes", inputs)
    assert made.status == 0, made.err
    assert widest("\n".join(line for line in made.out.splitlines() if not line.startswith(("!", "✓")))) <= 80
    assert "1 tasks, each recipe at its own best rate" in made.out
    assert "The order of the recipes" in made.out
    assert "✓ out/report.md" in made.out
    assert "cells: 6 of 6" in made.err
    summary = json.loads(run("bench", "recipes", inputs, "--json").out)["summary"]
    assert {one["label"] for one in summary["recipes"]} == {"lora", "lora_both"}
    assert summary["reference"] == "lora_both"
    assert sorted(summary["by_best"]) == ["lora", "lora_both"]


def test_a_part_says_that_the_report_comes_with_the_others(run, inputs) -> None:
    first = run("bench", "recipes", inputs, "--part", "1/2")
    assert first.out == "✓ part 1/2; the report is made when the other parts are done\n"
    assert "✓ out/report.md" in run("bench", "recipes", inputs, "--part", "2/2").out


def test_ctrl_c_says_that_the_same_command_goes_on(run, inputs, monkeypatch) -> None:
    of, calls = train.Setting.of, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return of(*arguments)

    monkeypatch.setattr(train.Setting, "of", interrupted)
    stopped = run("bench", "recipes", inputs)
    assert stopped.status == 130
    assert "what was finished is kept, and the same command goes on from there" in stopped.err
    assert run("bench", "recipes", inputs).status == 0
    assert len(calls) == 6 + 1


def test_bench_refuses_with_a_reason_and_status_2(run, inputs) -> None:
    for arguments, message in [
        (("none.yaml",), "none.yaml"),
        ((inputs, "--set", "learning_rates=[0.1, 0.2]"), "at least 3 items"),
        ((inputs, "--set", "recipes=[nope]"), "there is no recipe 'nope'"),
        ((inputs, "--set", "ids=[nope]"), "There is no task 'nope'"),
        ((inputs, "--part", "3/2"), "such as 1/2"),
    ]:
        refused = run("bench", "recipes", *arguments)
        assert refused.status == 2, arguments
        assert message in refused.err
