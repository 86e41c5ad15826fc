"""Plans of builds, and numbers of steps that follow from the number of tasks."""

import shutil

import pytest
from builds import TASKS, changed, state
from pydantic import ValidationError

from loragen.bases.text_encoder import LabelTextEncoder
from loragen.errors import ConfigError, TaskError, ZooError
from loragen.recipes.expert import ExpertRecipe
from loragen.recipes.multitask import MultitaskRecipe
from loragen.tasks.task_set import TaskSet
from loragen.zoo import build_plan as planning
from loragen.zoo.build import build_zoo
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.build_plan import BuildPlan, build_plan, seconds_per_step
from loragen.zoo.folds import FoldRecipe
from loragen.zoo.zoo import Zoo

pytest_plugins = ("build_fixtures",)


@pytest.fixture
def slow(monkeypatch) -> list[str]:
    """Every training step takes two seconds; the tasks that were timed."""
    timed: list[str] = []

    def two(_base, task, _recipe) -> float:
        timed.append(task.id)
        return 2.0

    monkeypatch.setattr(planning, "seconds_per_step", two)
    monkeypatch.setattr(planning, "available_cores", lambda: 2)
    return timed


# --- the plan ---


def test_a_plan_counts_all_work_of_a_new_zoo(fresh, slow):
    folds = {"number": 3, "steps": 5, "steps_per_checkpoint": 2}
    plan = build_plan(changed(fresh, frame="multitask", pooled="pool", folds=folds, workers=2))
    assert (plan.multitask_steps, plan.folds, plan.fold_steps) == (4, 3, 6), "in whole rounds between checkpoints"
    assert (plan.to_train, plan.to_score, plan.there) == (tuple(TASKS), (), ())
    assert (plan.expert_steps, plan.seconds_per_step) == (12, 2.0)
    work = 2 * (4 + 2 * 12 + 2 * 6)  # three experts, and three folds, by two workers
    assert work < plan.seconds <= work + 20, "and the start of worker processes"
    assert slow == ["drinks"], "one task is enough"
    assert not fresh.out.exists()


def test_scoring_takes_its_time(fresh, slow):
    plain, scored = (build_plan(changed(fresh, workers=1, score=score)).seconds for score in (False, True))
    assert scored - plain == pytest.approx(3 * 2 * (40 / 8) * 2 / 3), "40 texts twice, a pass forward a third of a step"
    assert plain == 3 * 12 * 2


def test_a_plan_tells_what_is_there_from_what_is_missing(built_copy, slow):
    shutil.rmtree(built_copy.out / "experts" / "meals")
    before = state(built_copy.out)
    plan = build_plan(changed(built_copy, score=True))
    assert (plan.to_train, plan.to_score, plan.there) == (("meals",), ("drinks", "weather"), ())
    plan = build_plan(built_copy)
    assert (plan.to_train, plan.to_score, plan.there) == (("meals",), (), ("drinks", "weather"))
    assert (plan.multitask_steps, plan.folds) == (0, 0)
    assert state(built_copy.out) == before


def test_nothing_is_timed_where_nothing_is_left_to_do(built_copy, slow):
    plan = build_plan(built_copy)
    assert plan.is_done
    assert (plan.seconds, plan.seconds_per_step, slow) == (0, 0, [])
    assert plan.lines() == ["Nothing is left to do: 3 experts there."]


def test_a_multitask_adapter_that_is_there_or_taken_needs_no_steps(fresh, slow, zoo_config, built):
    asked = changed(fresh, frame="multitask", only=("weather",))
    assert build_plan(asked).multitask_steps == 4
    assert build_plan(changed(asked, start_of=zoo_config.out)).multitask_steps == 0
    build_zoo(asked)
    assert build_plan(asked).is_done


def test_a_plan_in_words():
    plan = BuildPlan(
        multitask_steps=300,
        folds=1,
        fold_steps=40,
        to_train=("a",),
        to_score=("b", "c"),
        there=("d",),
        expert_steps=60,
        seconds_per_step=0.2512,
        seconds=200,
    )
    assert plan.lines() == [
        "multi-task adapter: 300 steps",
        "1 expert to train, 60 steps each",
        "2 experts to score",
        "1 expert there already",
        "1 fold to train, 40 steps each",
        "about 3 minutes on this machine, at 0.25 s a step",
    ]


@pytest.mark.parametrize(
    ("batch_size", "patience", "wanted"),
    [(8, 1e9, [2, 2, 8, 8]), (20, 1e9, [2, 2, 8, 20, 20]), (2, 1e9, [2, 2, 2]), (32, 0, [2, 2])],
)
def test_steps_are_timed_on_growing_batches_as_long_as_there_is_patience(
    word_tasks, monkeypatch, batch_size, patience, wanted
):
    base, sizes = LabelTextEncoder.load(str(word_tasks / "base")), []
    task = TaskSet.from_yaml(word_tasks / "tasks.yaml")["drinks"]
    losses = LabelTextEncoder.losses

    def counted(self, batch, **options):
        sizes.append(len(batch))
        return losses(self, batch, **options)

    monkeypatch.setattr(LabelTextEncoder, "losses", counted)
    monkeypatch.setattr(planning, "_PATIENCE", patience)
    assert seconds_per_step(base, task, ExpertRecipe(batch_size=batch_size)) > 0
    assert sizes == wanted


def test_a_build_hands_out_its_plan_before_any_work(fresh, slow):
    plans: list[BuildPlan] = []
    assert build_zoo(fresh, on_plan=plans.append, only_plan=True) is None
    assert [plan.to_train for plan in plans] == [tuple(TASKS)]
    assert not fresh.out.exists()
    zoo = build_zoo(fresh, on_plan=lambda plan: plans.append((plan, fresh.out.exists())))
    assert plans[1] == (plans[0], False)
    assert len(zoo) == 3


def test_a_plan_refuses_what_a_build_would_refuse(built_copy):
    before = state(built_copy.out)
    with pytest.raises(ZooError, match="already holds a zoo built with other settings"):
        build_zoo(changed(built_copy, name="other"), only_plan=True)
    with pytest.raises(TaskError, match="no split 'near'"):
        build_plan(changed(built_copy, splits=("near",)))
    assert state(built_copy.out) == before


def test_settings_of_a_file_can_be_overridden(fresh, tmp_path):
    (tmp_path / "zoo.yaml").write_text(fresh.to_yaml())
    zoo = build_zoo(tmp_path / "zoo.yaml", ["recipe.steps=4", "only=[weather]", "workers=1"])
    assert zoo.ids == ("weather",)
    assert zoo.manifest.recipe.steps == 4


# --- numbers of steps ---


def asked(**values) -> ZooConfig:
    return ZooConfig(**{"name": "tiny", "out": "zoo", "base": "tiny", "tasks": "tasks.yaml"} | values)


@pytest.mark.parametrize(
    ("steps", "tasks", "wanted"),
    [(20, 3, 60), (60, 101, 2000), (20, 1, 20), (20, 0, 20), (2500, 3, 2500)],
)
def test_multitask_steps_that_were_left_open_follow_from_the_tasks(steps, tasks, wanted):
    config = asked(recipe={"steps": steps}, multitask={"learning_rate": 0.1})
    sized = config.sized(tasks, None)
    assert sized.multitask == MultitaskRecipe(steps=wanted, learning_rate=0.1)
    assert sized.recipe == config.recipe
    assert sized.sized(50, None) == sized, "settled once"


def test_steps_that_were_set_stay():
    config = asked(recipe={"steps": 20}, multitask={"steps": 2000}, folds={"number": 3, "steps": 7})
    assert config.sized(3, None) == config


def test_fold_steps_that_were_left_open_follow_from_the_tasks():
    config = asked(recipe={"steps": 20}, folds={"number": 4})
    assert config.sized(6, None).folds == FoldRecipe(number=4, steps=120)
    assert config.sized(100, None).folds.steps == 1000


def test_a_zoo_that_grows_keeps_its_steps(fresh, word_tasks):
    values = fresh.model_dump(exclude={"multitask"}) | {"splits": ("experts",), "frame": "multitask"}
    config = ZooConfig.model_validate(values | {"multitask": {"steps_per_checkpoint": 12}})
    assert build_zoo(config).manifest.multitask.steps == 2 * 12
    grown = config.model_copy(update={"splits": ("experts", "validation"), "pooled": "pool"})
    zoo = build_zoo(grown)
    assert zoo.manifest.multitask.steps == 2 * 12, "not 4 * 12"
    assert len(zoo) == 3


def test_all_tasks_of_the_file_get_an_expert_where_no_splits_are_named(fresh):
    values = fresh.model_dump(exclude={"splits", "pooled", "multitask"}) | {"frame": "multitask"}
    zoo = build_zoo(ZooConfig.model_validate(values))
    assert zoo.ids == ("drinks", "meals", "stove", "weather")
    assert {card.split for card in zoo} == {"experts"}
    assert zoo.manifest.multitask.steps == 4 * 12, "all are pooled"
    assert Zoo.open(fresh.out).select(splits={"experts"}).ids == zoo.ids


def test_tasks_outside_the_file_are_named(fresh):
    values = fresh.model_dump(exclude={"splits", "pooled"}) | {"only": ("weather", "sports")}
    with pytest.raises(ConfigError, match="`only` names tasks outside the task file: sports"):
        build_zoo(ZooConfig.model_validate(values))


def test_a_config_is_refused_that_starts_from_folds_there_are_none_of():
    with pytest.raises(ValidationError, match="'start: folds' wants 'folds'"):
        asked(start="folds")
