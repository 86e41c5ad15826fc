"""A table of tasks as CSV: labels in one cell, and files of its own in each row."""

from pathlib import Path

import pytest

from loragen.errors import ConfigError
from loragen.tasks.task_set import TaskSet

EXAMPLES = Path(__file__).parents[2] / "examples"
COLUMNS = "columns: {id: id, description: description, labels: labels, train: train, test: test}\n"


def tasks_of(folder: Path, table: str, config: str = COLUMNS) -> TaskSet:
    (folder / "tasks.csv").write_text(table)
    (folder / "soup.csv").write_text("text,label\nhot,good\ncold,bad\n")
    (folder / "tasks.yaml").write_text("table: tasks.csv\n" + config)
    return TaskSet.from_yaml(folder / "tasks.yaml")


def test_the_examples_of_this_repository_are_read(tmp_path):
    (tmp_path / "tasks.yaml").write_text(f"root: {EXAMPLES}\ntable: tasks.csv\n{COLUMNS}")
    tasks = TaskSet.from_yaml(tmp_path / "tasks.yaml")
    assert [task.id for task in tasks][:2] == ["city_complaints", "tenant_messages"]
    assert tasks["city_complaints"].labels == ("noise", "rubbish", "parking", "street lights", "roads and pavements")
    for task in tasks:
        assert len(task.load_train()) == len(task.load_test()) == 24


def test_labels_and_paraphrases_are_parts_of_a_cell(tmp_path):
    config = COLUMNS.replace("test: test", "paraphrases: also, licence: licence")
    table = "id,description,labels,train,also,licence\nsoup,Judge soup.,bad| good ,soup.csv,Rate soup.|Is it hot?,\n"
    (task,) = tasks_of(tmp_path, table, config)
    assert task.labels == ("bad", "good")
    assert task.paraphrases == ("Rate soup.", "Is it hot?")
    assert task.licence == "none stated", "an empty cell says nothing"
    assert task.load_train().labels == (1, 0)


def test_a_source_can_name_the_columns_of_the_files_of_all_rows(tmp_path):
    (tmp_path / "other.csv").write_text("body,class\nhot,good\n")
    table = "id,description,labels,train,test\na,Judge.,bad|good,other.csv,\nb,Judge.,bad|good,other.csv,other.csv\n"
    tasks = tasks_of(tmp_path, table, COLUMNS + "source: {text: body, label: class}\n")
    assert tasks["a"].load_train() == tasks["b"].load_test()
    assert tasks["a"].load_train().texts == ("hot",)
    assert tasks["a"].source.test is None


def test_labels_with_bars_are_a_json_array(tmp_path):
    table = 'id,description,labels,train,test\nsoup,J.,"[""a, b"", ""c|d""]",soup.csv,\ntea,J.,[x] or y|[z],soup.csv,\n'
    tasks = tasks_of(tmp_path, table)
    assert tasks["soup"].labels == ("a, b", "c|d")
    assert tasks["tea"].labels == ("[x] or y", "[z]"), "what is no JSON is split"
    with pytest.raises(ConfigError, match=r"tasks\.csv:2"):
        tasks_of(tmp_path, 'id,description,labels,train,test\nsoup,J.,"[1, 2]",soup.csv,\n')


@pytest.mark.parametrize(
    ("table", "config", "named"),
    [
        ("id,description,labels,train\nsoup,Judge.,bad|bad,soup.csv\n", "", r"tasks\.csv:2.*\n.*more than once: bad"),
        ("id,description,labels,train\nsoup,Judge.,bad|good,\n", "", r"tasks\.csv:2.*\n.*local files \(train, test\)"),
        ("id,description,labels,train\n,Judge.,bad|good,soup.csv\n", "", r"tasks\.csv:2.*\n  id: Field required"),
        (
            "id,description,labels,train\nsoup,Judge.,bad|good,soup.csv\n",
            "source: {hub: org/name}\n",
            r"either local files",
        ),
    ],
)
def test_a_row_that_is_no_task_is_named(tmp_path, table, config, named):
    with pytest.raises(ConfigError, match=named):
        tasks_of(tmp_path, table, COLUMNS.replace(", test: test", "") + config)


def test_a_table_wants_a_place_for_its_examples(tmp_path):
    with pytest.raises(ConfigError, match=r"a table needs a source .* or a column for train"):
        tasks_of(tmp_path, "id,description\nsoup,Judge.\n", "columns: {id: id, description: description}\n")
