"""Building a zoo: every task gets an expert, and a build goes on where one was."""

import shutil

import pytest
import torch
from builds import TASKS, changed, recorded, state, tensors_of
from models import write_tiny_encoder

from loragen.bases.hub import weights_hash
from loragen.errors import ConfigError, TaskError, ZooError
from loragen.zoo import build_jobs
from loragen.zoo.build import build_zoo
from loragen.zoo.start import read_start
from loragen.zoo.zoo import Zoo

pytest_plugins = ("build_fixtures",)


def test_every_task_gets_an_expert(built, zoo_config):
    zoo = Zoo.open(zoo_config.out)
    assert dict(zoo.check()) == dict.fromkeys(("drinks", "meals", "weather"))
    assert zoo.select(splits={"experts"}).ids == ("drinks", "meals")
    assert zoo.select(splits={"validation"}).ids == ("weather",)
    assert {path.name for path in zoo_config.out.rglob(".*")} <= {".loragen.json"}, "nothing unfinished is left"


def test_experts_are_stored_in_bfloat16_over_the_zoos_frame(built, zoo_config):
    zoo, start = Zoo.open(zoo_config.out), read_start(zoo_config.out)
    for expert in zoo.ids:
        adapter = zoo.adapter(expert)
        assert len(adapter.sites) == 4, "query and value of both layers"
        for site in adapter.sites:
            assert adapter.lora_A[site].dtype == adapter.lora_B[site].dtype == torch.bfloat16
            assert torch.equal(adapter.lora_A[site].float(), start.lora_A[site])
            assert zoo.snapshots(expert)[site].shape == (3, *adapter.lora_B[site].shape)
    assert zoo.adapter("drinks").settings.base_model_name_or_path == zoo_config.base


def test_cards_tell_what_was_trained_on_what(built, zoo_config, word_tasks):
    card = Zoo.open(zoo_config.out).card("drinks")
    assert (card.description, card.labels, card.licence) == ("Is it soup or tea?", ("soup", "tea"), "CC0")
    assert (card.base, card.base_hash) == (zoo_config.base, weights_hash(word_tasks / "base"))
    trained = card.provenance
    assert (trained.kind, trained.recipe, trained.dtype) == ("trained", zoo_config.recipe, "float32")
    assert trained.steps in trained.held_out_losses
    assert list(trained.held_out_losses) == [6, 12]
    assert card.versions.keys() == {"loragen", "torch", "transformers"}
    assert (card.before, card.after) == (None, None), "scores were not asked for"


def test_progress_is_reported_expert_by_expert(built, zoo_config):
    assert built == [("experts", done, 3) for done in range(4)]
    assert len(Zoo.open(zoo_config.out)) == 3


# --- building again -------------------------------------------------------------------------------------------------


def test_a_second_build_touches_nothing(built_copy):
    before, reports = state(built_copy.out), []
    build_zoo(built_copy, progress=recorded(reports))
    assert state(built_copy.out) == before
    assert reports == [("experts", 3, 3)]


def test_a_missing_expert_alone_is_trained_again_bit_for_bit(built_copy, zoo_config):
    shutil.rmtree(built_copy.out / "experts" / "meals")
    before, reports = state(built_copy.out), []
    build_zoo(built_copy, progress=recorded(reports))
    after = state(built_copy.out)
    assert {name: after[name] for name in before} == before
    assert reports == [("experts", 2, 3), ("experts", 3, 3)]
    again_meals, meals = (tensors_of(out / "experts" / "meals") for out in (built_copy.out, zoo_config.out))
    assert len(meals) == 3
    assert again_meals == meals, "in another process, and after other tasks"


def test_scores_are_filled_in_without_training(built_copy, monkeypatch):
    before = state(built_copy.out)
    monkeypatch.setattr(build_jobs, "train_expert", None)
    reports = []
    build_zoo(changed(built_copy, score=True), progress=recorded(reports))
    after = state(built_copy.out)
    assert {name for name in after if after[name] != before[name]} == {
        f"experts/{expert}/card.yaml" for expert in TASKS
    }
    for card in Zoo.open(built_copy.out):
        assert card.after.cross_entropy < card.before.cross_entropy, "trained on what it is scored on"
    assert reports == [("experts", done, 3) for done in range(4)]
    build_zoo(changed(built_copy, score=True))
    assert state(built_copy.out) == after, "once"


def test_scores_of_a_fresh_build_are_those_filled_in_later(built_copy, fresh):
    build_zoo(changed(built_copy, score=True))
    build_zoo(changed(fresh, score=True))
    for one, two in zip(Zoo.open(built_copy.out), Zoo.open(fresh.out), strict=True):
        assert (one.before, one.after) == (two.before, two.after)
        assert tensors_of(built_copy.out / "experts" / one.id) == tensors_of(fresh.out / "experts" / two.id)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"recipe": {"r": 2, "steps": 13}}, r"recipe\.steps \(12 there, 13 asked for\)"),
        ({"frame": "multitask"}, r"frame \(random there, multitask asked for\)"),
        ({"name": "other"}, "name"),
    ],
)
def test_a_zoo_built_with_other_settings_is_refused_and_left_alone(built_copy, values, named):
    before = state(built_copy.out)
    with pytest.raises(
        ZooError, match=rf"already holds a zoo built with other settings: .*{named}.*give another `out`"
    ):
        build_zoo(changed(built_copy, **values))
    assert state(built_copy.out) == before


def test_a_zoo_keeps_the_generator_that_its_manifest_names(built_copy):
    manifest = built_copy.out / "zoo.yaml"
    manifest.write_text(manifest.read_text().replace("generator: null", "generator: own"))
    before = state(built_copy.out)
    build_zoo(built_copy)
    assert state(built_copy.out) == before
    assert Zoo.open(built_copy.out).manifest.generator == "own"


def test_a_zoo_of_another_base_is_refused(built_copy, tmp_path):
    base = write_tiny_encoder(tmp_path / "base", seed=2)
    shutil.rmtree(tmp_path / "base" / "1_Pooling")
    with pytest.raises(ZooError, match="base_hash"):
        build_zoo(changed(built_copy, base=str(base)))


# --- what is asked for ----------------------------------------------------------------------------------------------


def test_some_tasks_alone(fresh, zoo_config):
    reports = []
    build_zoo(changed(fresh, only=("weather",)), progress=recorded(reports))
    assert Zoo.open(fresh.out).ids == ("weather",)
    assert reports == [("experts", 0, 1), ("experts", 1, 1)]


def test_tasks_outside_the_splits_are_named_before_anything_is_written(fresh):
    with pytest.raises(ConfigError, match=r"`only`.*\['experts'\].*sports, weather"):
        build_zoo(changed(fresh, splits=("experts",), only=("weather", "drinks", "sports")))
    assert not fresh.out.exists()


def test_an_unknown_split_is_named(fresh):
    with pytest.raises(TaskError, match="no split 'test'"):
        build_zoo(changed(fresh, splits=("test",)))


def test_one_bad_task_does_not_cost_the_others(fresh, word_tasks, tmp_path):
    values = word_tasks / "tasks.yaml"
    (tmp_path / "tasks.yaml").write_text(values.read_text().replace("meals.train.jsonl", "lost.train.jsonl"))
    with pytest.raises(TaskError, match=r"lost\.train\.jsonl"):
        build_zoo(changed(fresh, tasks=tmp_path / "tasks.yaml"))
    assert Zoo.open(fresh.out).ids == ("drinks", "weather")
    build_zoo(fresh)
    assert Zoo.open(fresh.out).ids == ("drinks", "meals", "weather")


def test_a_file_of_the_manifests_name_that_is_none_is_left(fresh):
    fresh.out.mkdir()
    (fresh.out / "zoo.yaml").write_text(fresh.to_yaml())  # the config itself, in the folder of the zoo
    with pytest.raises(ConfigError, match=r"zoo\.yaml"):
        build_zoo(fresh)
    assert (fresh.out / "zoo.yaml").read_text() == fresh.to_yaml()
