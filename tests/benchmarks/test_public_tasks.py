"""Task files of configs/tasks: the hint where public tasks are missing, and the examples that are always there."""

from pathlib import Path

import pytest

from loragen.errors import TaskError
from loragen.tasks.task_set import TaskSet

TASKS = Path(__file__).parents[2] / "configs" / "tasks"


def test_the_error_says_how_to_get_the_public_tasks(tmp_path):
    with pytest.raises(
        TaskError, match=r"Cannot read .*tasks\.json.*python benchmarks/fetch_tasks\.py --out data/tasks"
    ):
        TaskSet.from_yaml(TASKS / "public.yaml", root=tmp_path)


def test_a_damaged_table_is_no_reason_to_get_them_again(tmp_path):
    (tmp_path / "tasks.json").write_text("[")
    with pytest.raises(TaskError) as caught:
        TaskSet.from_yaml(TASKS / "public.yaml", root=tmp_path)
    assert "fetch_tasks" not in str(caught.value)


def test_the_examples_are_read_from_their_csv_table():
    tasks = TaskSet.from_yaml(TASKS / "examples.yaml")
    assert len(tasks) == 5
    for task in tasks:
        for examples in (task.load_train(), task.load_test()):
            assert len(examples) == 24
            assert set(examples.labels) == set(range(len(task.labels)))
