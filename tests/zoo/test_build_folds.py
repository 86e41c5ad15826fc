"""Folds of a zoo that is built: trained on what they may see, kept, taken up, and where experts can begin."""

import json
import shutil

import pytest
import torch
from builds import POOL, Step, changed, four_families, recorded, state

from loragen.bases.text_encoder import LabelTextEncoder
from loragen.errors import ConfigError, ZooError
from loragen.recipes.expert import Start
from loragen.recipes.multitask import train_multitask
from loragen.tasks.task_set import TaskSet
from loragen.zoo import build_jobs, executors
from loragen.zoo.build import build_zoo
from loragen.zoo.card import ZOO_MANIFEST
from loragen.zoo.folds import FOLD_PLAN, FOLDS
from loragen.zoo.start import START, read_start, write_start
from loragen.zoo.zoo import Zoo

pytest_plugins = ("build_fixtures",)


def test_folds_are_added_to_a_zoo_that_has_none(folding):
    before, reports, named = state(folding.out), [], Zoo.open(folding.out).fingerprint
    build_zoo(folding, progress=recorded(reports))
    after, zoo = state(folding.out), Zoo.open(folding.out)
    assert [name for name in before if after[name] != before[name]] == [ZOO_MANIFEST]
    assert zoo.manifest.folds == folding.folds
    assert zoo.fingerprint == named
    assert reports == [("experts", 3, 3), *(("folds", done, 3) for done in range(4))]
    assert dict(zoo.check()) == dict.fromkeys((*zoo.ids, "folds/0", "folds/1", "folds/2"))
    assert sorted(task for fold in zoo.folds() for task in fold.plan.far) == sorted(POOL)
    assert sorted(task for fold in zoo.folds() for task in fold.plan.near) == ["drinks", "meals"]
    assert {path.name for path in folding.out.rglob(".*")} <= {".loragen.json"}, "nothing unfinished is left"


def test_a_folds_adapter_is_trained_on_the_other_tasks_over_the_zoos_frame(folding):
    start = read_start(folding.out)
    write_start(folding.out, Start(start.lora_A, {site: torch.ones_like(b) for site, b in start.lora_B.items()}))
    build_zoo(folding)
    pool = TaskSet.from_yaml(folding.tasks).split("pool")
    base = LabelTextEncoder.load(folding.base, dtype=torch.float32)
    for number, fold in enumerate(Zoo.open(folding.out).folds()):
        others = [task for task in pool if task.id not in fold.held_out]
        assert 0 < len(others) == 4 - len(fold.held_out) < 4
        wanted, history = train_multitask(others, base, start, folding.recipe, folding.folds, train_a=False)
        assert fold.adapter.settings.base_model_name_or_path == folding.base
        for site in fold.adapter.sites:
            assert torch.equal(fold.adapter.lora_A[site], start.lora_A[site])
            torch.testing.assert_close(fold.adapter.lora_B[site], wanted.lora_B[site], rtol=0, atol=1e-5)
        assert json.loads((folding.out / FOLDS / str(number) / "losses.json").read_text()) == [
            pytest.approx(row, abs=1e-5) for row in history
        ]


def test_held_out_tasks_are_not_even_read(folding, monkeypatch):
    read = []

    def watched(tasks, *args, **options):
        read.append({task.id for task in tasks})
        return train_multitask(tasks, *args, **options)

    monkeypatch.setattr(build_jobs, "train_multitask", watched)
    build_zoo(folding)
    assert read == [set(POOL) - set(fold.held_out) for fold in Zoo.open(folding.out).folds()]


def test_a_missing_fold_alone_is_trained_again(folding, monkeypatch):
    build_zoo(folding)
    whole = Zoo.open(folding.out).folds()
    shutil.rmtree(folding.out / FOLDS / "1")
    before, reports = state(folding.out), []
    build_zoo(folding, progress=recorded(reports))
    after = state(folding.out)
    assert {name: after[name] for name in before} == before
    assert [(p[1], p[2]) for p in reports if p[0] == "folds"] == [(2, 3), (3, 3)]
    for fold, wanted in zip(Zoo.open(folding.out).folds(), whole, strict=True):
        assert fold.plan == wanted.plan
        torch.testing.assert_close(dict(fold.adapter.lora_B), dict(wanted.adapter.lora_B), rtol=0, atol=1e-5)
    monkeypatch.setattr(build_jobs, "train_multitask", None)
    build_zoo(folding)
    build_zoo(changed(folding, folds=None))
    assert state(folding.out) == after, "a config that asks for no folds leaves them"


def interrupt_at(monkeypatch, last: int) -> list[int]:
    """Let folds train until this step and no further; returns the steps that are done."""
    steps = []

    def interrupted(*args, on_step, **options):
        def count(step):
            steps.append(step)
            if step == last:
                executors._worker.stop.set()
            on_step(step)

        return train_multitask(*args, on_step=count, **options)

    monkeypatch.setattr(build_jobs, "train_multitask", interrupted)
    return steps


def test_an_interrupted_fold_is_taken_up_where_it_was(folding, monkeypatch, tmp_path):
    shutil.copytree(folding.out, tmp_path / "whole")
    build_zoo(changed(folding, out=tmp_path / "whole"))
    interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        build_zoo(folding)
    assert not (folding.out / FOLDS / "0").exists()
    steps = interrupt_at(monkeypatch, 0)
    build_zoo(folding)
    assert steps[:4] == [3, 4, 5, 6]
    assert len(steps) == 4 + 2 * 6
    for fold, wanted in zip(Zoo.open(folding.out).folds(), Zoo.open(tmp_path / "whole").folds(), strict=True):
        assert fold.plan == wanted.plan
        torch.testing.assert_close(dict(fold.adapter.lora_B), dict(wanted.adapter.lora_B), rtol=0, atol=1e-5)
    assert {path.name for path in folding.out.rglob(".*")} <= {".loragen.json"}


def test_a_state_that_has_seen_tasks_it_must_not_see_is_thrown_away(folding, monkeypatch):
    interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        build_zoo(folding)
    plan = folding.out / FOLDS / ".0.partial" / FOLD_PLAN
    plan.write_text("far: [somewhere]\nnear: []\n")
    steps = interrupt_at(monkeypatch, 0)
    build_zoo(folding)
    assert steps[:6] == [1, 2, 3, 4, 5, 6]


def test_folds_made_otherwise_are_refused_and_left_alone(folding, word_tasks, tmp_path):
    build_zoo(folding)
    before, recipe, other = state(folding.out), folding.folds.model_dump(), four_families(word_tasks, tmp_path)
    for named, values in (
        (r"folds\.steps \(6 there, 7 asked for\)", {"folds": recipe | {"steps": 7}}),
        (r"folds\.number \(3 there, 4 asked for\)", {"folds": recipe | {"number": 4}, "tasks": other}),
        (r"folds/\d holds out other tasks.*remove .*folds to train all", {"tasks": other}),
    ):
        with pytest.raises(ZooError, match=named):
            build_zoo(changed(folding, **values))
    assert state(folding.out) == before


def test_folds_that_cannot_be_assigned_are_refused_before_anything_is_written(fresh):
    with pytest.raises(ConfigError, match=r"3 folds were asked for.*2 tasks are of 1 families"):
        build_zoo(changed(fresh, folds={"number": 3}))
    assert not fresh.out.exists()


def test_an_expert_can_begin_at_the_fold_that_has_not_seen_its_family(folding, fresh, word_tasks, tmp_path):
    tasks = four_families(word_tasks, tmp_path)
    assert tasks.read_text().count("- weather\n") == 2
    tasks.write_text("".join(tasks.read_text().rsplit("  - weather\n", 1)))  # of no fold any more
    still = folding.recipe.model_copy(update={"learning_rate": 1e-12})  # so an expert shows where it began
    settings = changed(folding, out=fresh.out, tasks=tasks, start="folds", recipe=still.model_dump())
    reports: list[Step] = []
    build_zoo(settings, progress=recorded(reports))
    assert list(dict.fromkeys(p[0] for p in reports)) == ["folds", "experts"]
    zoo = Zoo.open(fresh.out)
    unseen_by = {task: fold.adapter for fold in zoo.folds() for task in fold.plan.far}
    assert sorted(unseen_by) == ["drinks", "meals", "stove"]
    begun = {task: unseen_by[task].lora_B for task in ("drinks", "meals")}
    sites = read_start(zoo.root).lora_B
    begun["weather"] = {site: torch.stack([a.lora_B[site] for a in unseen_by.values()]).mean(0) for site in sites}
    assert set(begun) == set(zoo.ids)
    for expert, lora_b in begun.items():
        for site, b in zoo.adapter(expert).lora_B.items():
            torch.testing.assert_close(b.float(), lora_b[site], rtol=0, atol=0.01 * float(lora_b[site].abs().max()))

    second = tmp_path / "second"
    build_zoo(changed(settings, out=second, folds=None, start_of=zoo.root, only=("drinks",)))
    assert not (second / FOLDS).exists()
    first, again = (Zoo.open(root).adapter("drinks").lora_B for root in (zoo.root, second))
    assert first.keys() == again.keys()
    for site, b in first.items():
        torch.testing.assert_close(again[site], b)


def test_folds_to_begin_at_must_be_asked_for_or_be_there(built, zoo_config, fresh):
    with pytest.raises(ValueError, match="'start: folds' wants 'folds'"):
        changed(zoo_config, start="folds")
    with pytest.raises(ZooError, match=r"start_of.*has no folds to begin at"):
        build_zoo(changed(fresh, start="folds", start_of=zoo_config.out))
    assert not (fresh.out / START).exists()


def test_a_new_zoo_can_have_folds_at_once(fresh, folding):
    build_zoo(changed(folding, out=fresh.out, only=("weather",)))
    assert len(Zoo.open(fresh.out).folds()) == 3
