"""The benchmark beside SetFit: the same examples for all rows, a process for SetFit, and its tables."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import setfit_rival
import setfit_tables
from setfit_rival import ALL_ROWS, CHOSEN, LABEL_TEXTS, PLAIN, ROWS, SETFIT, Case, SetFit, judge, setfit_process

from loragen.evaluation.workspace import shuffled
from loragen.recipes.few_shot import FewShotRecipe, fit_examples
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import TaskSet
from loragen.zoo.zoo import Zoo

FAKE = """
class SetFitModel:
    @classmethod
    def from_pretrained(cls, folder):
        print("loading", folder)
        return cls()

    def predict(self, queries):
        return [len(query) % 2 for query in queries]

class TrainingArguments:
    def __init__(self, **settings):
        assert settings["num_iterations"] == 20 and settings["seed"] == 1, settings

class Trainer:
    def __init__(self, model, args, train_dataset):
        assert set(train_dataset) == {"text", "label"} and len(train_dataset["text"]) == 16

    def train(self):
        print("training")
"""
"""A package in the place of setfit, which says much and predicts from the length of a text."""


@pytest.fixture(scope="module")
def case(toys):
    zoo = Zoo.open(toys / "zoo")
    task = TaskSet.from_yaml(toys / "tasks.yaml")["plates"]
    return Case(task, 1, zoo.adapter("drinks"), zoo.load_base(), 32)


@pytest.fixture
def fake_setfit(tmp_path, monkeypatch):
    """An environment with packages named setfit and datasets."""
    for name, text in {
        "setfit": FAKE,
        "datasets": "class Dataset:\n    from_dict = staticmethod(dict)\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    info = tmp_path / "setfit-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: setfit\nVersion: 9.9\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_all_rows_see_one_draw_of_examples_and_the_first_shuffled_texts(case):
    assert sorted(case.examples.labels) == [0] * 8 + [1] * 8
    assert case.queries.texts == shuffled(case.task).texts, "fewer than 300"
    again = Case(case.task, 1, case.begun, case.base, 32)
    other = Case(case.task, 2, case.begun, case.base, 32)
    assert again.examples == case.examples != other.examples


def test_rows_predict_a_class_for_every_text(case):
    for row, predict in ROWS.items():
        predicted = predict(case)
        assert predicted.shape == case.targets.shape, row
        assert set(predicted.tolist()) <= {0, 1}, row
    fitted = fit_examples(case.begun, case.fitting_data, case.base, FewShotRecipe())
    queries = case.base.prepare(case.queries, max_length=32)
    wanted = case.base.read(queries, fitted).logits
    torch.testing.assert_close(LABEL_TEXTS[PLAIN](case), wanted)
    kept = judge(PLAIN, case, None, Path())
    assert kept["cross_entropy"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(wanted, case.targets)), abs=1e-3
    )


def test_the_chosen_fit_is_kept_with_its_choice(case):
    kept = judge(CHOSEN, case, None, Path())
    assert 0 <= kept["macro_f1"] <= 1
    steps, strength = kept["choice"]
    assert kept["losses"][f"{steps} steps, {strength:g}"] == min(kept["losses"].values())


def test_setfit_runs_in_a_process_of_its_own_and_what_it_prints_is_no_answer(case, fake_setfit):
    with setfit_process(sys.executable, wanted=True) as process:
        assert process.versions["setfit"] == "9.9"
        kept = judge(SETFIT, case, process, Path("model"))
    wanted = torch.tensor([len(text) % 2 for text in case.queries.texts])
    assert kept["accuracy"] == round(float((wanted == case.targets).double().mean()), 4)
    assert process.process.returncode == 0


def test_a_python_without_setfit_is_refused_with_the_way_to_one(tmp_path, monkeypatch):
    (tmp_path / "setfit.py").write_text("raise ImportError('none here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"cannot import setfit \(none here\).*--setfit-python"):
        SetFit(sys.executable)


def test_pairs_are_joined_by_the_separator():
    pairs = Examples(("soup", "tea"), ("hot", "cold"))
    assert setfit_rival._joined(pairs, "[SEP]") == ["soup [SEP] hot", "tea [SEP] cold"]
    assert setfit_rival._joined(Examples(("soup",)), "[SEP]") == ["soup"]


# --- tables ---


def cells(**by_task):
    return {
        task: {str(draw): {"accuracy": one, "macro_f1": one / 2} for draw, one in enumerate(values)}
        for task, values in by_task.items()
    }


def test_a_table_holds_what_all_its_rows_have(monkeypatch):
    figures = {"a": cells(x=[0.5, 0.7], y=[0.2, 0.4], z=[0.9]), "b": cells(x=[0.6, 0.6], y=[0.1, 0.1])}
    lines = setfit_tables.table(figures, ["a", "b"], against="b").splitlines()
    assert lines[0] == "| 2 tasks, 2 draws of 8 a class | accuracy | over draws | macro-F1 | cross-entropy | less b |"
    assert lines[1] == "|---|---|---|---|---|---|"
    assert lines[2] == "| a | 0.450 | 0.141 | 0.225 |  | +0.100 ± 0.100 |"
    assert lines[3] == "| b | 0.350 | 0.000 | 0.175 |  |  |"
    assert setfit_tables.table({"a": cells(x=[1])}, ["a", "b"]) == ""
    told = {"a": {"x": {"0": {"accuracy": 1, "macro_f1": 1, "cross_entropy": 0.25}}}}
    assert setfit_tables.table(told, ["a"]).splitlines()[-1] == "| a | 1.000 |  | 1.000 | 0.250 |"


def test_setfit_has_a_table_of_what_it_was_computed_on(monkeypatch):
    figures = {PLAIN: cells(x=[0.5], y=[0.7]), SETFIT: cells(x=[0.4])}
    monkeypatch.setattr(setfit_tables, "kept", lambda: {"validation": figures})
    ours = [row for row in ALL_ROWS if "SetFit" not in row]
    made = setfit_tables.tables("validation", ours, [SETFIT], against=PLAIN).split("\n\n")
    assert [part.splitlines()[0].split(",")[0] for part in made] == ["| 2 tasks", "| 1 tasks"]
    assert "+0.100" in made[1]
    assert setfit_tables.tables("test_far", ours, [SETFIT], against=PLAIN) == ""
