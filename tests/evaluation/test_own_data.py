"""`loragen.evaluate`: one adapter on labelled texts, with made-up adapters whose worth is known."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from models import word_task

from loragen.adapters.adapter import Lora
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.config import read_yaml
from loragen.errors import ConfigError, TaskError, ZooError
from loragen.evaluation.labelled_rivals import CENTROID, LOGISTIC
from loragen.evaluation.own_data import evaluate
from loragen.evaluation.own_data_rows import ADAPTER
from loragen.evaluation.statistics import Interval, difference_interval
from loragen.inference import Adapter
from loragen.recipes.expert import ExpertRecipe, Start
from loragen.recipes.train import train_expert
from loragen.tasks.examples import Examples
from loragen.zoo.zoo import Zoo

RECIPE = ExpertRecipe(r=2, steps=60, batch_size=16, learning_rate=5e-2, window=4)
DESCRIPTION = "Is it bread or tea?"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return word_task(tmp_path_factory.mktemp("own"), "snacks", words=("bread", "tea"), train=100)


@pytest.fixture(scope="module")
def base(toys):
    return LabelTextEncoder.load(str(toys / "base"))


@pytest.fixture(scope="module")
def helping(task, base) -> Adapter:
    """An adapter that was trained on the task."""
    start = Start.random(base.sites(RECIPE.target_modules), RECIPE.r, rng=torch.Generator().manual_seed(0))
    expert = train_expert(task, base, start, RECIPE)
    lora = Lora.from_factors(expert.lora_A, expert.mean, base_model_name_or_path=base.name)
    return Adapter(lora, base.name, description=DESCRIPTION, labels=task.labels).with_base(base)


def times(adapter, factor) -> Adapter:
    lora = adapter.lora
    changed = Lora(lora.settings, lora.lora_A, {site: factor * b for site, b in lora.lora_B.items()})
    return dataclasses.replace(adapter, lora=changed).with_base(adapter.opened_base)


@pytest.fixture(scope="module")
def judge(task, toys):
    """Evaluate an adapter on the task's test file over the toys' zoo."""

    def judge(adapter, data=None, **options):
        options = {"zoo": toys / "zoo", "encoder": str(toys / "base")} | options
        return evaluate(adapter, task.load_test() if data is None else data, **options)

    return judge


@pytest.fixture(scope="module")
def report(judge, helping):
    return judge(helping)


@pytest.fixture(scope="module")
def harmed(judge, helping, task):
    """The helping adapter on texts whose labels are exchanged: what it has learnt is wrong there."""
    test = task.load_test()
    return judge(helping, dataclasses.replace(test, labels=tuple(1 - label for label in test.labels)))


def test_rows_stand_in_order_with_the_labelled_ones_last_and_marked(report):
    assert [row.method for row in report.rows] == ["base", "mean", "nearest", "topk", ADAPTER, CENTROID, LOGISTIC]
    assert [row.method for row in report.rows if row.uses_labels] == [CENTROID, LOGISTIC]
    assert (report.texts, report.labels, report.description) == (40, ("bread", "tea"), DESCRIPTION)


def test_an_adapter_that_helps_is_said_to_with_the_interval_over_texts(report, task, base, helping):
    data = base.prepare(task.load_test(), max_length=128)
    right = [
        (base.read(data, lora).logits.argmax(1) == data.targets).double().numpy()[:, None]
        for lora in (helping.lora, None)
    ]
    wanted = difference_interval(*right, rng=np.random.default_rng(0))
    assert wanted.low > 0
    assert report.row("base").above == wanted
    assert report.row("base").accuracy == pytest.approx(right[1].mean())
    assert report.row(ADAPTER).accuracy == pytest.approx(right[0].mean())
    assert report.verdict.startswith(f"This adapter is better than the base on these 40 texts: {wanted:+.3f}.")
    assert report.row(ADAPTER).above is None


def test_an_adapter_that_does_nothing_equals_the_base(judge, helping):
    report = judge(times(helping, 0.0))
    right = round(40 * report.row("base").accuracy)
    assert report.verdict.startswith(f"This adapter and the base get the same {right} of 40 texts right.")
    assert report.row("base").above == report.row("base").knn_above == Interval(0, 0, 0)


def test_an_adapter_that_harms_is_said_to(harmed):
    assert harmed.row("base").above.high < 0
    assert harmed.verdict.startswith("This adapter is worse than the base on these 40 texts: -")


def test_labels_that_an_adapter_contradicts_lead_to_fitting(harmed):
    behind = [row for row in harmed.rows if row.uses_labels and row.above.high < 0]
    best = min(behind, key=lambda row: row.above.mean)
    assert f"With these labels, fitting does better: {best.method}" in harmed.verdict


def test_merges_of_the_zoo_that_are_better_are_noted(harmed):
    merges = ("mean", "nearest", "topk")
    noted = {name for name in merges if any(f"merge {name} of" in note for note in harmed.notes)}
    assert noted
    assert noted <= {name for name in merges if harmed.row(name).above.high < 0}


def test_random_noise_is_never_called_better(judge, helping):
    rng = torch.Generator().manual_seed(0)
    for _ in range(4):
        noise = {site: torch.randn(b.shape, generator=rng) * b.std() for site, b in helping.lora.lora_B.items()}
        lora = Lora(helping.lora.settings, helping.lora.lora_A, noise)
        report = judge(dataclasses.replace(helping, lora=lora).with_base(helping.opened_base))
        assert "This adapter is better than the base" not in report.verdict
        low, high = report.row("base").above.low, report.row("base").above.high
        assert ("No difference" in report.verdict) == (low <= 0 <= high)


# --- labels ---


def test_labels_without_two_texts_leave_the_labelled_classifiers_out(judge, helping, task):
    test = task.load_test()
    odd = Examples((*test.texts[:12], "soup a b"), labels=(*test.labels[:12], 2), label_names=("bread", "tea", "soup"))
    report = judge(helping, odd)
    assert [row.method for row in report.rows] == ["base", "mean", "nearest", "topk", ADAPTER]
    assert any("'soup' has one." in note for note in report.notes)


def test_a_file_gives_the_same_as_its_examples(judge, report, helping, task, tmp_path):
    helping.save(tmp_path / "adapter")
    met = judge(str(tmp_path / "adapter"), Path(task.source.test), description=DESCRIPTION)
    assert met.rows == report.rows
    assert met.verdict == report.verdict


def test_texts_without_labels_and_with_one_label_are_refused(judge, helping, tmp_path):
    bare, one = tmp_path / "bare.jsonl", tmp_path / "one.jsonl"
    bare.write_text(json.dumps({"text": "a tea"}))
    one.write_text("\n".join(json.dumps({"text": f"{letter} tea", "label": "tea"}) for letter in "abc"))
    with pytest.raises(
        TaskError, match=r"bare\.jsonl has no labels \(columns met: text\); the true label of every text"
    ):
        judge(helping, bare)
    with pytest.raises(TaskError, match="one label alone, 'tea'"):
        judge(helping, one)


def test_labels_of_the_card_that_do_not_occur_are_noted(judge, helping):
    wider = dataclasses.replace(helping, labels=("bread", "tea", "soup")).with_base(helping.opened_base)
    assert any("does not hold: soup" in note for note in judge(wider).notes)


# --- the zoo ---


def test_without_a_description_the_zoo_is_not_searched(judge, helping):
    report = judge(dataclasses.replace(helping, description=None).with_base(helping.opened_base))
    assert [row.method for row in report.rows if not row.uses_labels] == ["base", "mean", ADAPTER]
    assert any("nearest and topk are left out" in note for note in report.notes)


@pytest.fixture
def foreign(toys, tmp_path):
    """The zoo, said to be of other weights."""
    shutil.copytree(toys / "zoo", tmp_path / "zoo")
    values = read_yaml(tmp_path / "zoo" / "zoo.yaml")
    file = tmp_path / "zoo" / "zoo.yaml"
    file.write_text(file.read_text().replace(values["base_hash"], "f" * 64))
    return tmp_path / "zoo"


def test_a_bundled_zoo_of_another_base_is_left_out_with_a_note(judge, helping, foreign, monkeypatch):
    monkeypatch.setattr("loragen.evaluation.own_data.default_zoo", lambda: foreign)
    report = judge(helping, zoo=None)
    assert [row.method for row in report.rows] == ["base", ADAPTER, CENTROID, LOGISTIC]
    assert any("not this adapter's base" in note for note in report.notes)


def test_a_named_zoo_of_another_base_is_refused(judge, helping, foreign):
    for zoo in (foreign, Zoo.open(foreign)):
        with pytest.raises(ConfigError, match="name a zoo of that base"):
            judge(helping, zoo=zoo)


def test_without_a_bundled_zoo_its_rows_are_left_out(judge, helping, tmp_path, monkeypatch):
    monkeypatch.setattr("loragen.evaluation.own_data.default_zoo", lambda: tmp_path / "none")
    report = judge(helping, zoo=None)
    assert report.row("mean") is None
    assert any("there is no zoo" in note for note in report.notes)
    with pytest.raises(ZooError):
        judge(helping, zoo=tmp_path / "none")


# --- the whole ---


def test_progress_counts_the_methods(judge, helping):
    steps = []
    judge(helping, progress=lambda *step: steps.append(step))
    assert steps == [("methods", done, 5) for done in range(6)]


def test_a_report_can_be_written_as_json(report):
    values = json.loads(json.dumps(dataclasses.asdict(report)))
    assert values["rows"][0]["above"]["low"] == report.row("base").above.low
