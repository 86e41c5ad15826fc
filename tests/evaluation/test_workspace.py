import dataclasses
import shutil

import pytest
from evaluation_toys import EXPERTS, FAR, NEAR, changed, replace_in
from models import word_task, write_tiny_encoder

from loragen.config import dump_yaml
from loragen.errors import ConfigError, TaskError, ZooError
from loragen.evaluation.evaluate import evaluate_cells
from loragen.evaluation.workspace import Workspace, refuse_leaks, shuffled
from loragen.zoo.zoo import Zoo

# --- leaks ---


def test_a_task_that_was_trained_on_is_refused(config, tmp_path):
    leaky = with_splits(config, tmp_path, near=["cups", "meals"])
    with pytest.raises(ConfigError, match=r"meals: trained on.*leave them out") as met:
        evaluate_cells(leaky)
    assert "cups" not in str(met.value)
    assert not leaky.out.exists()


def test_a_task_of_a_known_family_is_refused_where_families_are_to_be_unseen(config, tmp_path):
    leaky = with_splits(config, tmp_path, near=[], far=["menus", "cups"])
    with pytest.raises(ConfigError, match=r"cups: of a family that the experts of .* hold") as met:
        evaluate_cells(leaky)
    assert "menus" not in str(met.value)
    assert not leaky.out.exists()
    assert Workspace.open(changed(leaky, unseen_families=())).split_of == {"menus": "far", "cups": "far"}


def test_families_that_may_be_known_are_not_refused_beside_those_that_may_not(whole):
    assert whole.workspace.split_of["cups"] == "near", "whose family is that of drinks"
    workspace = whole.workspace
    refuse_leaks(workspace.zoo, workspace.tasks, workspace.split_of, ("far",))
    with pytest.raises(ConfigError, match="cups: of a family"):
        refuse_leaks(workspace.zoo, workspace.tasks, workspace.split_of, ("near",))


def test_a_task_without_a_family_is_a_family_of_its_own(whole):
    zoo, (ovens,) = whole.workspace.zoo, [task for task in whole.workspace.tasks if task.id == "ovens"]
    weather = ovens.model_copy(update={"id": "ovens2", "family": "weather"})  # an expert's id, which has no family
    refuse_leaks(zoo, [ovens], {"ovens": "far"}, ("far",))
    with pytest.raises(ConfigError, match="ovens2"):
        refuse_leaks(zoo, [weather], {"ovens2": "far"}, ("far",))


def test_experts_that_nothing_was_learnt_from_are_no_leak(whole):
    """A zoo's other splits serve for choosing settings, and may be their own oracles."""
    workspace = whole.workspace
    cards = {
        name: card.model_copy(update={"split": "validation"}) if name == "meals" else card
        for name, card in workspace.zoo.cards.items()
    }
    task = workspace.tasks[0].model_copy(update={"id": "meals", "family": "meal"})
    with pytest.raises(ConfigError, match="meals: trained on"):
        refuse_leaks(workspace.zoo, [task], {"meals": "far"}, ("far",))
    refuse_leaks(dataclasses.replace(workspace.zoo, cards=cards), [task], {"meals": "far"}, ("far",))


def test_a_slip_of_the_pen_does_not_switch_the_check_off(config, tmp_path):
    with pytest.raises(TaskError, match="no split 'fra'"):
        evaluate_cells(changed(config, unseen_families=("fra",), out=tmp_path / "out"))


def with_splits(config, folder, **splits):
    text = config.tasks.read_text()
    head, _, _ = text.partition("splits:\n")
    kept = {"experts": [*EXPERTS], "near": [*NEAR], "far": [*FAR]} | splits
    (folder / "tasks.yaml").write_text(head + dump_yaml({"splits": kept}))
    return changed(config, tasks=folder / "tasks.yaml", out=folder / "out")


# --- what does not go together ---


def test_a_task_without_an_oracle_is_named(config, tmp_path):
    shutil.copytree(config.oracles, tmp_path / "oracles")
    shutil.rmtree(tmp_path / "oracles" / "experts" / "plates")
    with pytest.raises(ZooError, match="plates"):
        evaluate_cells(changed(config, oracles=tmp_path / "oracles", out=tmp_path / "out"))


def test_oracles_of_another_base_are_refused(config, tmp_path):
    shutil.copytree(config.oracles, tmp_path / "oracles")
    replace_in(tmp_path / "oracles" / "zoo.yaml", "base_hash: ", "base_hash: 0")
    with pytest.raises(ConfigError, match="adapt other weights"):
        evaluate_cells(changed(config, oracles=tmp_path / "oracles", out=tmp_path / "out"))


def test_a_base_whose_weights_have_changed_is_refused(copied):
    base = write_tiny_encoder(copied.out.parent / "other", seed=2)
    for place in (copied.zoo, copied.oracles):
        replace_in(place / "zoo.yaml", Zoo.open(place).manifest.base, str(base))
    with pytest.raises(ConfigError, match="has other weights here"):
        evaluate_cells(copied)


# --- the order of test texts ---


def test_test_examples_are_shuffled_the_same_way_each_time(tmp_path):
    task = word_task(tmp_path)
    met, file = shuffled(task), task.load_test()
    pairs = list(zip(file.texts, file.labels, strict=True))
    assert list(zip(met.texts, met.labels, strict=True)) != pairs
    assert sorted(zip(met.texts, met.labels, strict=True)) == sorted(pairs)
    assert shuffled(task) == met
    assert set(met.labels[:10]) == {0, 1}
