import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from soup import ROWS, task, write_csv, write_jsonl

from loragen.errors import ConfigError, MissingExtraError, TaskError
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSet, TaskSetConfig, TaskSource, overlap

CONFIG = Path(__file__).parents[2] / "configs" / "tasks" / "public.yaml"


def test_own_column_names_and_pairs(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"a": "one", "b": "two", "c": "good"}])
    examples = task(tmp_path, source={"text": "a", "text_pair": "b", "label": "c"}).load_test()
    assert examples == Examples(("one",), pairs=("two",), labels=(1,), label_names=("bad", "good"))


def test_a_file_with_no_pair_at_all_holds_single_texts(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{**ROWS[0], "text_pair": None}, ROWS[1]])
    assert task(tmp_path, source={"text_pair": "text_pair"}).load_train().pairs is None


@pytest.mark.parametrize("odd", [{}, {"text_pair": None}, {"text_pair": " "}])
def test_half_a_pair_is_refused(tmp_path, odd):
    write_jsonl(tmp_path / "rows.jsonl", [{**ROWS[0], "text_pair": "x"}, {**ROWS[1], **odd}])
    with pytest.raises(TaskError, match=r"rows\.jsonl:2.*text_pair"):
        task(tmp_path, source={"text_pair": "text_pair"}).load_train()


@pytest.mark.parametrize(
    ("labels", "met", "wanted"),
    [
        (("bad", "good"), [0, 1, " good"], (0, 1, 1)),
        (("1", "2"), [1, 2, "2"], (0, 1, 1)),  # names that are numbers are names, not positions
    ],
)
def test_labels_are_names_or_positions(tmp_path, labels, met, wanted):
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "x", "label": label} for label in met])
    assert task(tmp_path, labels=labels).load_train().labels == wanted


def test_missing_files_and_parts_are_named(tmp_path):
    with pytest.raises(TaskError, match=r"Cannot read .*rows\.jsonl: No such file"):
        task(tmp_path).load_train()
    with pytest.raises(TaskError, match="soup names no test file"):
        task(tmp_path, source={"test": None}).load_test()


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "../soup"},
        {"description": "  "},
        {"description": "\u200b"},
        {"description": "Judge \ud800."},
        {"paraphrases": ["so\0up"]},
        {"labels": ["bad", "Bad"]},
        {"labels": ["bad", "\udfff"]},
        {"labels": ["bad", "b" * 1_001]},
        {"paraphrases": [""]},
        {"labels": ["bad"]},
        {"labels": ["bad", "bad "]},
        {"labels": ["bad", ""]},
        {"metric": "loss"},
        {"source": {}},
        {"source": {"train": "x.csv", "hub": "org/name"}},
        {"source": {"train": "x.csv", "hub_config": "en"}},
        {"colour": "red"},
    ],
)
def test_a_task_that_does_not_fit_is_refused(fields):
    whole = {"id": "soup", "description": "Judge soup.", "labels": ["bad", "good"], "source": {"train": "x.csv"}}
    Task.checked(whole, source="test")
    with pytest.raises(ConfigError):
        Task.checked({**whole, **fields}, source="test")


def test_descriptions_begin_with_the_description():
    assert task(paraphrases=("Rate soup.",)).descriptions == ("Judge soup.", "Rate soup.")


def fake_hub(monkeypatch, rows, names):
    calls = []

    class Data(list):
        features = {"label": SimpleNamespace(names=names)}  # noqa: RUF012

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return Data(rows)

    bars = SimpleNamespace(shown=True)
    stub = SimpleNamespace(
        load_dataset=load_dataset,
        are_progress_bars_disabled=lambda: not bars.shown,
        disable_progress_bars=lambda: setattr(bars, "shown", False),
        enable_progress_bars=lambda: setattr(bars, "shown", True),
    )
    monkeypatch.setitem(sys.modules, "datasets", stub)
    return calls, bars


@pytest.mark.parametrize(
    ("names", "wanted"),
    [(["good", "bad"], (1, 0)), (["neg", "pos"], (0, 1))],  # the data set's names where they fit, else positions
)
def test_hub_labels_go_by_name_or_position(monkeypatch, names, wanted):
    calls, bars = fake_hub(monkeypatch, [{"text": "x", "label": 0}, {"text": "y", "label": 1}], names)
    hub = TaskSource(hub="org/name", hub_config="en", test_split="validation")
    assert task().model_copy(update={"source": hub}).load_test().labels == wanted
    assert calls == [(("org/name", "en"), {"split": "validation"})]
    assert bars.shown


def test_a_hidden_hub_label_is_refused(monkeypatch):
    fake_hub(monkeypatch, [{"text": "x", "label": -1}], ["good", "bad"])
    with pytest.raises(TaskError, match=r"org/name\[test\] has no value in the column 'label'"):
        task().model_copy(update={"source": TaskSource(hub="org/name")}).load_test()


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'loragen\[hub\]'"):
        task().model_copy(update={"source": TaskSource(hub="org/name")}).load_train()


TABLE = """
table: data/table.jsonl
columns: {id: name, description: about, labels: classes, family: family}
source: {train: "data/{id}.csv", text_pair: other}
splits: data/splits.json
"""


def write_table(folder):
    data = folder / "data"
    data.mkdir(parents=True)
    row = {"about": "Judge.", "classes": ["bad", "good"], "family": "food", "ignored": 1}
    write_jsonl(data / "table.jsonl", [{"name": "soup", **row}, {"name": "bread", **row}])
    (data / "splits.json").write_text('{"all": ["bread", "soup"], "held": []}')
    write_csv(data / "soup.csv", ROWS)


def test_descriptions_can_be_made_of_a_tables_columns(tmp_path):
    write_table(tmp_path)
    text = TABLE.replace("description: about, ", "") + 'description: "a photo of {name}, {family}"'
    (tmp_path / "set.yaml").write_text(text)
    assert [one.description for one in TaskSet.from_yaml(tmp_path / "set.yaml")] == [
        "a photo of soup, food",
        "a photo of bread, food",
    ]
    (tmp_path / "set.yaml").write_text(text.replace("{family}", "{colour}"))
    with pytest.raises(TaskError, match=r"table\.jsonl:1: the description template .*'colour'.*columns are: name"):
        TaskSet.from_yaml(tmp_path / "set.yaml")
    (tmp_path / "set.yaml").write_text(TABLE + "description: both")
    with pytest.raises(ConfigError, match="from a column or from a template"):
        TaskSet.from_yaml(tmp_path / "set.yaml")


def test_a_table_with_a_source_template(tmp_path):
    write_table(tmp_path)
    (tmp_path / "set.yaml").write_text(TABLE)
    tasks = TaskSet.from_yaml(tmp_path / "set.yaml")
    assert [one.id for one in tasks] == ["soup", "bread"]
    assert [one.id for one in tasks.split("all")] == ["bread", "soup"]
    assert tasks.split("held") == ()
    assert tasks["soup"].family == "food"
    assert len(tasks["soup"].load_train()) == len(ROWS)


def test_root_moves_every_relative_path(tmp_path):
    write_table(tmp_path / "elsewhere")
    (tmp_path / "set.yaml").write_text(TABLE)
    assert len(TaskSet.from_yaml(tmp_path / "set.yaml", root=tmp_path / "elsewhere")["soup"].load_train()) == len(ROWS)
    (tmp_path / "rooted.yaml").write_text("root: elsewhere\n" + TABLE)
    assert len(TaskSet.from_yaml(tmp_path / "rooted.yaml")["soup"].load_train()) == len(ROWS)
    with pytest.raises(TaskError, match=r"table\.jsonl: No such file"):
        TaskSet.from_yaml(tmp_path / "set.yaml")


def test_tasks_in_full_with_splits_in_place(tmp_path):
    write_csv(tmp_path / "soup.csv", ROWS)
    full = "tasks: [{id: soup, description: Judge., labels: [bad, good], source: {train: soup.csv}}]\n"
    (tmp_path / "set.yaml").write_text(full + "splits: {experts: [soup]}")
    (one,) = TaskSet.from_yaml(tmp_path / "set.yaml").split("experts")
    assert len(one.load_train()) == len(ROWS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("family: family}", "colour: family}"), "no fields of a task: colour"),
        (("description: about, ", ""), "columns for description"),
        (('source: {train: "data/{id}.csv", text_pair: other}', ""), "needs a source"),
        (("table: data/table.jsonl", ""), "either tasks"),
        (("splits:", "split:"), "split: Extra inputs"),
        (("labels: classes", "labels: about"), r"table\.jsonl:1 does not fit Task:\n  labels"),
    ],
)
def test_a_set_config_that_does_not_fit_is_refused(tmp_path, change, message):
    write_table(tmp_path)
    (tmp_path / "set.yaml").write_text(TABLE.replace(*change))
    with pytest.raises(ConfigError, match=message):
        TaskSet.from_yaml(tmp_path / "set.yaml")


@pytest.mark.parametrize("content", ['["soup"]', '{"all": "soup"}', '{"all": [1]}', "{"])
def test_damaged_splits_are_refused(tmp_path, content):
    write_table(tmp_path)
    (tmp_path / "set.yaml").write_text(TABLE)
    (tmp_path / "data" / "splits.json").write_text(content)
    with pytest.raises(TaskError, match=r"splits\.json"):
        TaskSet.from_yaml(tmp_path / "set.yaml")


def test_unknown_names_get_a_hint():
    tasks = TaskSet((task(name="soup"), task(name="bread")), splits={"experts": ("soup",), "far": ("bread",)})
    with pytest.raises(TaskError, match=r"no split 'near'; known splits: experts, far"):
        tasks.split("near")
    with pytest.raises(TaskError, match="Did you mean 'bread'"):
        tasks["braed"]


def test_a_set_refuses_clashing_and_unknown_ids():
    with pytest.raises(TaskError, match="more than once: soup"):
        TaskSet((task(), task()))
    with pytest.raises(TaskError, match="no task 'bread'"):
        TaskSet((task(),), splits={"experts": ("bread",)})
    with pytest.raises(TaskError, match="'experts' names tasks more than once: soup"):
        TaskSet((task(),), splits={"experts": ("soup", "soup")})


def test_overlap_by_id_and_by_family():
    train = [task(name="a", family="x"), task(name="b", family="y"), task(name="c")]
    held = [task(name="b", family="x"), task(name="c"), task(name="d")]
    assert overlap(train, held, "id") == ["b", "c"]
    assert overlap(train, held, "family") == ["c", "x"]
    assert overlap(train, held[2:], "family") == []


def test_the_shipped_config_fits():
    assert TaskSetConfig.from_yaml(CONFIG).splits == "splits.json"


@pytest.mark.skipif(
    not (CONFIG.parent / TaskSetConfig.from_yaml(CONFIG).root / "tasks.json").exists(), reason="the data is not here"
)
def test_the_shipped_config_reads_the_data():
    tasks = TaskSet.from_yaml(CONFIG)
    assert len(tasks) == 141
    assert {name: len(ids) for name, ids in tasks.splits.items()} == {
        "experts": 101,
        "validation": 13,
        "test_near": 12,
        "test_far": 15,
    }
    assert all(len(one.descriptions) == 4 and one.family and one.origin for one in tasks)
    held_out = tasks.split("test_far")
    assert overlap(tasks.split("experts"), held_out, "family") == []
    for name, paired in [("clinc_banking", False), ("news_entailment", True), ("climate_fallacy", False)]:
        train, test = tasks[name].load_train(), tasks[name].load_test()
        assert 0 < len(train) <= 1500
        assert 0 < len(test) <= 500
        assert (train.pairs is not None) == (test.pairs is not None) == paired
        assert max(train.labels) < len(tasks[name].labels)
