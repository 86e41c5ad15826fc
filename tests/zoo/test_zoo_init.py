"""`init_zoo`: from a table of tasks, or of labelled texts, to configs that work at once."""

import json
import math
import os
from pathlib import Path

import pytest
from models import word_task, write_tiny_encoder

from loragen.config import read_yaml
from loragen.errors import ConfigError, LoragenError, TaskError
from loragen.generators.train import read_config, train_generator
from loragen.tasks.task_set import TaskSet
from loragen.zoo.build import build_zoo
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.init import init_zoo

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = {"drinks": ("soup", "tea"), "meals": ("bread", "soup"), "weather": ("cold", "warm")}


def write_tables(folder: Path, names: tuple[str, ...] = tuple(WORDS)) -> Path:
    """A table of tasks whose texts the tiny encoder can learn."""
    rows = []
    for name in names:
        task = word_task(folder / "data", name, words=WORDS[name], train=40)
        files = {part: f"data/{name}.{part}.jsonl" for part in ("train", "test")}
        rows.append({"id": name, "description": task.description, "labels": "|".join(task.labels)} | files)
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "tasks.jsonl"


def texts_of(*rows: str, columns: str = "task,text,label") -> str:
    return "\n".join([columns, *rows]) + "\n"


def many(task: str, number: int = 12) -> list[str]:
    return [f"{task},text {i},{'yes' if i % 2 else 'no'}" for i in range(number)]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_configs_work_at_once(tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    base = write_tiny_encoder(tmp_path / "base", seed=1)
    table = write_tables(tmp_path, tuple(WORDS)[:number])
    written = init_zoo(table, Path("mine"))
    assert written == [Path("mine/tasks.yaml"), Path("mine/zoo.yaml"), Path("mine/train-sg.yaml")]
    quick = [f"base={base}", "recipe.steps=4", "recipe.window=2", "recipe.batch_size=8", "workers=1", "dtype=float32"]
    zoo = build_zoo(Path("mine/zoo.yaml"), quick)
    assert zoo.root == Path("mine/zoo")
    assert dict(zoo.check()) == dict.fromkeys(sorted(tuple(WORDS)[:number]))
    assert all(card.split == "experts" and card.after is not None for card in zoo)
    assert zoo.manifest.multitask.steps == 4 * number
    config = read_config(Path("mine/train-sg.yaml"), [f"encoder={base}", "epochs=1", "steps_per_epoch=2"])
    trained = train_generator(config)
    assert trained.out == Path("mine/zoo/generators/sg")
    assert all(math.isfinite(loss) for loss in trained.final.values())


def test_the_examples_of_this_repository_make_a_zoo(tmp_path):
    tasks, zoo, train = init_zoo(EXAMPLES / "tasks.csv", tmp_path / "My Zoo")
    assert [len(task.load_test()) for task in TaskSet.from_yaml(tasks)] == [24] * 5
    config = ZooConfig.from_yaml(zoo)
    assert (config.name, config.out, config.tasks) == ("my-zoo", tmp_path / "My Zoo" / "zoo", tasks)
    assert config.score
    assert "steps" not in config.multitask.model_fields_set, "left to the number of tasks"
    assert read_config(train).zoo == config.out
    assert read_config(train).sg.top_k == 4
    assert not os.path.isabs(read_yaml(tasks)["root"])


def test_labels_come_from_the_texts_where_the_table_has_none(tmp_path):
    table = write_tables(tmp_path)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    del rows[0]["labels"]
    rows[1]["labels"] = ""
    table.write_text("\n".join(map(json.dumps, rows)))
    tasks = TaskSet.from_yaml(init_zoo(table, tmp_path / "mine")[0])
    assert set(tasks["drinks"].labels) == {"soup", "tea"}
    assert set(tasks["meals"].labels) == {"bread", "soup"}


def test_pairs_are_kept(tmp_path):
    (tmp_path / "pairs.csv").write_text("text,text_pair,label\n" + "a,b,yes\nc,d,no\n" * 6)
    (tmp_path / "tasks.csv").write_text("id,description,train\nsame,Are they the same?,pairs.csv\n")
    (task,) = TaskSet.from_yaml(init_zoo(tmp_path / "tasks.csv", tmp_path / "mine")[0])
    assert task.load_train().pairs == ("b", "d") * 6
    assert not ZooConfig.from_yaml(tmp_path / "mine" / "zoo.yaml").score, "there is no test file"


# --- one file of labelled texts ---


def test_labelled_texts_are_split_by_task_and_into_train_and_test(tmp_path):
    (tmp_path / "texts.csv").write_text(texts_of(*many("Late trains", 20), *many("bikes", 30)))
    (tasks, zoo, _train) = init_zoo(tmp_path / "texts.csv", tmp_path / "mine")
    late, bikes = TaskSet.from_yaml(tasks)
    assert (late.id, late.description, late.labels) == ("Late_trains", "Late trains: no, yes.", ("no", "yes"))
    assert (len(late.load_train()), len(late.load_test())) == (16, 4)
    assert (len(bikes.load_train()), len(bikes.load_test())) == (24, 6)
    assert sorted(bikes.load_train().texts + bikes.load_test().texts) == sorted(f"text {i}" for i in range(30))
    assert bikes.load_test().labels.count(0) == 3, "every fifth of each label"
    assert ZooConfig.from_yaml(zoo).score


def test_a_column_says_what_is_for_testing_and_what_a_task_is_about(tmp_path):
    rows = [f"{row},Do they complain?,{'test' if i > 10 else 'train'}" for i, row in enumerate(many("bikes", 12))]
    (tmp_path / "texts.csv").write_text(texts_of(*rows, columns="task,text,label,description,split"))
    (task,) = TaskSet.from_yaml(init_zoo(tmp_path / "texts.csv", tmp_path / "mine")[0])
    assert task.description == "Do they complain?"
    assert task.load_test().texts == ("text 11",)


def test_header_variants_and_numbered_labels_are_taken(tmp_path):
    rows = [f"bikes;text {i};{i % 2};{'yes' if i % 2 else 'no'}" for i in range(20)]
    (tmp_path / "texts.csv").write_text("\n".join(["Task;Review;Label;label_text", *rows]) + "\n")
    (task,) = TaskSet.from_yaml(init_zoo(tmp_path / "texts.csv", tmp_path / "mine")[0])
    assert task.labels == ("no", "yes")
    examples = task.load_train()
    assert all(
        output == ("yes" if int(text.split()[1]) % 2 else "no")
        for text, output in zip(examples.texts, examples.outputs, strict=True)
    )


def test_files_of_a_table_may_have_other_headers(tmp_path):
    (tmp_path / "good.csv").write_text("Sentence\tClass\n" + "hot\tgood\ncold\tbad\n" * 6)
    (tmp_path / "table.csv").write_text('ID,Description,labels,train\nsoup,Judge.,"[""good"", ""bad""]",good.csv\n')
    (task,) = TaskSet.from_yaml(init_zoo(tmp_path / "table.csv", tmp_path / "mine")[0])
    assert task.load_train().outputs == ("good", "bad") * 6
    assert (task.source.text, task.source.label) == ("Sentence", "Class")


def test_names_of_tasks_are_cut_for_their_files(tmp_path):
    (tmp_path / "texts.csv").write_text(texts_of(*many("long " * 100, 20)))
    (task,) = TaskSet.from_yaml(init_zoo(tmp_path / "texts.csv", tmp_path / "mine")[0])
    assert len(task.id) <= 80


# --- refusals ---


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("name,words\na,b\n", r"has the columns name, words; wanted are id, description, train .*or task, text, label"),
        ("id,description,train\n", "has no rows"),
        ("id,description,train\nsoup,Judge.,lost.csv\n", r"Cannot read .*lost\.csv"),
        (
            "id,description,train\nsoup,Judge.,few.csv\n",
            r"few\.csv has 4 training texts for the task soup",
        ),
        ("id,description,train\nsoup,Judge.,one.csv\n", r"one\.csv has 1 labels for the task soup; at least two"),
        ("id,description,train\nsoup,,good.csv\n", r"table\.csv:2.*\n  description: Field required"),
        (
            "id,description,labels,train\nsoup,Judge.,bad|worse,good.csv\n",
            "the label 'good', which is not among those",
        ),
        ("id,description,train\na,Judge.,good.csv\na,Judge.,good.csv\n", "more than once: a"),
        ("id,description,train,test\na,J.,good.csv,good.csv\nb,J.,good.csv,\n", "none for b"),
        (texts_of(*(row.replace("yes", "1").replace("no", "0") for row in many("b", 20))), "are numbers, such as '0'"),
        (texts_of(*many("b", 20), "b,x,nan"), r"table\.csv:22 has no 'label' \(it holds 'nan'"),
        (texts_of(*many("b", 20), "b,x,Yes"), "'Yes' differs from 'yes' in capitals alone"),
        (texts_of(*many("bikes", 9)), "8 training texts for the task bikes"),
        (texts_of(*many("bikes"), "bikes,,no"), r"'text' holds ''"),
        (texts_of(*(row.replace("yes", "no") for row in many("bikes", 20))), "1 labels for the task bikes"),
        (texts_of(*(f"{row},dev" for row in many("b")), columns="task,text,label,split"), "'split' holds 'dev'"),
        (texts_of(*many("a b", 20), *many("a-b", 20), *many("a_b", 20)), "more than once: a_b"),
    ],
)
def test_what_cannot_be_used_is_named_before_anything_is_written(tmp_path, content, named):
    (tmp_path / "good.csv").write_text("text,label\n" + "hot,good\ncold,bad\n" * 6)
    (tmp_path / "few.csv").write_text("text,label\n" + "hot,good\ncold,bad\n" * 2)
    (tmp_path / "one.csv").write_text("text,label\n" + "hot,good\n" * 12)
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(LoragenError, match=named):
        init_zoo(tmp_path / "table.csv", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_configs_that_are_there_are_kept_unless_told_otherwise(tmp_path):
    table = write_tables(tmp_path)
    tasks, zoo, _train = init_zoo(table, tmp_path / "mine")
    zoo.write_text("mine alone")
    tasks.unlink()
    with pytest.raises(ConfigError, match=r"zoo\.yaml is there already; name another folder"):
        init_zoo(table, tmp_path / "mine")
    assert zoo.read_text() == "mine alone"
    assert not tasks.exists()
    init_zoo(table, tmp_path / "mine", force=True)
    assert ZooConfig.from_yaml(zoo).name == "mine"


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"Cannot read .*none\.csv"):
        init_zoo(tmp_path / "none.csv", tmp_path / "mine")


def test_what_an_interrupted_run_left_is_completed(tmp_path):
    (tmp_path / "table.csv").write_text(texts_of(*many("mail"), *many("news")))
    written = init_zoo(tmp_path / "table.csv", tmp_path / "mine")
    wanted = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    written[1].unlink()
    (tmp_path / "mine" / "data" / "news.train.csv").unlink()
    init_zoo(tmp_path / "table.csv", tmp_path / "mine")
    assert {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()} == wanted


def test_texts_of_others_are_not_written_over(tmp_path):
    (tmp_path / "table.csv").write_text(texts_of(*many("mail"), *many("news")))
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "news.train.csv").write_text("mine alone")
    with pytest.raises(ConfigError, match=r"news\.train\.csv is there already"):
        init_zoo(tmp_path / "table.csv", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").rglob("*.*")] == ["news.train.csv"]
