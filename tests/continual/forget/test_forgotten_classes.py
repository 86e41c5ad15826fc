"""An adapter forgets classes of its task: H, the edit apart, and what is left of the adapter."""

import pytest
import torch

import loragen
from loragen.adapters.adapter import Lora
from loragen.continual.forget.classes import ForgottenClasses
from loragen.continual.forget.settings import ClassSettings
from loragen.errors import ConfigError, TaskError
from loragen.tasks.examples import Examples

SETTINGS = ClassSettings(steps=40, rank=2)


@pytest.fixture(scope="module")
def found(toys) -> ForgottenClasses:
    return loragen.forget_classes(
        toys / "zoo" / "experts" / "words", toys / "data" / "words.train.jsonl", ["bread", "cold"], settings=SETTINGS
    )


def test_the_classes_are_gone_and_the_others_stay(found) -> None:
    assert found.before.forgotten > 0.5
    assert found.after.forgotten < 0.2
    assert found.after.remaining > found.before.remaining - 0.1
    assert found.h > 0.8 * found.attainable_h
    told = found.to_json()
    assert told["drop"] == pytest.approx(found.before.forgotten - found.after.forgotten, abs=1e-4)


def test_the_adapter_is_the_old_one_plus_the_edit_that_lies_apart(found, toys, tmp_path) -> None:
    found.adapter.save(tmp_path / "new")
    expert, made = toys / "zoo" / "experts" / "words", tmp_path / "new"
    old, new, edit = (Lora.load(folder) for folder in (expert, made, made / "edit"))
    for site in old.sites:
        whole = old.delta_weight(site) + (edit.delta_weight(site) if site in edit.sites else 0)
        assert float((new.delta_weight(site) - whole).norm() / whole.norm()) < 0.02
        assert (site in found.zero) == (site not in edit.sites)
    assert loragen.Adapter.load(tmp_path / "new").labels == found.adapter.labels
    assert new.spec.sites[0].r <= old.spec.sites[0].r + 2


def test_a_rank_squeezes_it(toys) -> None:
    asked = SETTINGS.model_copy(update={"steps": 10})
    data = toys / "data" / "words.train.jsonl"
    found = loragen.forget_classes(toys / "zoo" / "experts" / "words", data, ["soup"], rank=2, settings=asked)
    assert {site.r for site in found.adapter.lora.spec.sites} == {2}


def test_what_cannot_be_forgotten_is_refused(toys) -> None:
    expert, data = toys / "zoo" / "experts" / "words", Examples.from_file(toys / "data" / "words.train.jsonl")
    for classes, message in (
        (["milk"], "milk is no label"),
        (["soup", "bread", "cold", "warm"], "4 of 5 classes"),
        ([], "0 of 5 classes"),
    ):
        with pytest.raises(ConfigError, match=message):
            loragen.forget_classes(expert, data, classes)
    few = data.subset(torch.tensor(data.labels).argsort()[:32])  # two of the second class
    with pytest.raises(TaskError, match="at least 4"):
        loragen.forget_classes(expert, few, [data.label_names[1]])
    with pytest.raises(TaskError, match="no labels"):
        loragen.forget_classes(expert, Examples(("soup",) * 9, label_names=("a", "b", "c")), ["a"])
