import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from models import word_task, write_tiny_encoder
from safetensors.torch import load_file

from loragen.bases.hub import weights_hash
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.config import dump_yaml
from loragen.errors import ConfigError, TaskError, ZooError
from loragen.recipes.expert import ExpertRecipe, Start
from loragen.recipes.multitask import MultitaskRecipe, train_multitask
from loragen.tasks.task_set import TaskSet
from loragen.zoo import build as foundry
from loragen.zoo.build import START, Progress, ZooConfig, build, read_start, write_start
from loragen.zoo.card import MANIFEST, MULTITASK
from loragen.zoo.folds import FOLDS, PLAN
from loragen.zoo.zoo import Zoo

WEIGHTS = "adapter_model.safetensors"
TASKS = {"drinks": ("soup", "tea"), "meals": ("bread", "soup"), "weather": ("cold", "warm")}
POOL = ("drinks", "meals", "weather", "stove")  # of three families, for folds


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    """A tiny base and a task file: two tasks for experts, one for validation; these and one more for folds."""
    root = tmp_path_factory.mktemp("workshop")
    write_tiny_encoder(root / "base", seed=1)
    tasks = [
        word_task(root / "data", name, words=words, train=60).model_copy(update={"family": family})
        for (name, words), family in zip(
            {**TASKS, "stove": ("tea", "warm")}.items(), ("table", "table", "sky", ""), strict=True
        )
    ]
    splits = {"experts": ["drinks", "meals"], "validation": ["weather"], "pool": list(POOL)}
    (root / "tasks.yaml").write_text(dump_yaml({"tasks": [t.model_dump(mode="json") for t in tasks], "splits": splits}))
    return root


@pytest.fixture(scope="module")
def config(workshop) -> ZooConfig:
    return ZooConfig(
        name="tiny",
        out=workshop / "zoo",
        base=str(workshop / "base"),
        tasks=workshop / "tasks.yaml",
        splits=("experts", "validation"),
        frame="random",
        start="zero",
        recipe=ExpertRecipe(r=2, steps=12, batch_size=8, learning_rate=3e-2, choices=2, window=4, snapshots=3),
        multitask=MultitaskRecipe(steps=4, steps_per_checkpoint=2, learning_rate=3e-2),
        score=False,
        dtype="float32",
        workers=2,
    )


@pytest.fixture(scope="module")
def built(config) -> list[Progress]:
    """The zoo of `config`, built once by worker processes; what was reported meanwhile."""
    reports: list[Progress] = []
    build(config, reports.append)
    return reports


@pytest.fixture
def again(built, config, tmp_path, monkeypatch) -> Iterator[ZooConfig]:
    """A copy of the built zoo to build on, with workers in this process."""
    shutil.copytree(config.out, tmp_path / "zoo")
    yield from in_this_process(config.model_copy(update={"out": tmp_path / "zoo"}), monkeypatch)


@pytest.fixture
def fresh(config, tmp_path, monkeypatch) -> Iterator[ZooConfig]:
    """A config for a zoo that is not there yet, with workers in this process."""
    yield from in_this_process(config.model_copy(update={"out": tmp_path / "fresh"}), monkeypatch)


def in_this_process(config: ZooConfig, monkeypatch) -> Iterator[ZooConfig]:
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(foundry, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(foundry, "_bench", None)
    yield config
    signal.signal(signal.SIGINT, handler)
    torch.set_num_threads(threads)


class InThisProcess:
    """Stands in for a pool of processes, each of which would import torch and Lightning anew."""

    def __init__(self, _workers, *, mp_context, initializer, initargs) -> None:
        initializer(*initargs)

    def submit(self, function, *arguments) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_options) -> None:
        pass


def changed(config: ZooConfig, **values) -> ZooConfig:
    return ZooConfig.model_validate(config.model_dump() | values)


def state(out: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path.relative_to(out)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def tensors_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


# --- a build --------------------------------------------------------------------------------------------------------


def test_every_task_gets_an_expert(built, config):
    zoo = Zoo.open(config.out)
    assert dict(zoo.check()) == dict.fromkeys(("drinks", "meals", "weather"))
    assert zoo.select(splits={"experts"}).ids == ("drinks", "meals")
    assert zoo.select(splits={"validation"}).ids == ("weather",)
    assert not list(config.out.rglob(".*")), "nothing unfinished is left"


def test_experts_are_stored_in_bfloat16_over_the_zoos_frame(built, config):
    zoo, start = Zoo.open(config.out), read_start(config.out)
    for expert in zoo.ids:
        adapter = zoo.adapter(expert)
        assert len(adapter.sites) == 4, "query and value of both layers"
        for site in adapter.sites:
            assert adapter.lora_A[site].dtype == adapter.lora_B[site].dtype == torch.bfloat16
            assert torch.equal(adapter.lora_A[site].float(), start.lora_A[site])
            assert zoo.snapshots(expert)[site].shape == (3, *adapter.lora_B[site].shape)
    assert zoo.adapter("drinks").settings.base_model_name_or_path == config.base


def test_cards_tell_what_was_trained_on_what(built, config, workshop):
    card = Zoo.open(config.out).card("drinks")
    assert (card.description, card.labels, card.licence) == ("Is it soup or tea?", ("soup", "tea"), "CC0")
    assert (card.base, card.base_hash) == (config.base, weights_hash(workshop / "base"))
    assert (card.recipe, card.dtype) == (config.recipe, "float32")
    assert card.steps in card.held_out_losses
    assert list(card.held_out_losses) == [6, 12]
    assert card.versions.keys() == {"loragen", "torch", "transformers"}
    assert (card.before, card.after) == (None, None), "scores were not asked for"


def test_progress_is_reported_expert_by_expert(built, config):
    assert [(p.stage, p.done, p.total) for p in built] == [("experts", done, 3) for done in range(4)]
    assert built[0].card is None
    assert {p.card.id: p.card for p in built[1:]} == Zoo.open(config.out).cards


# --- building again -------------------------------------------------------------------------------------------------


def test_a_second_build_touches_nothing(again):
    before, reports = state(again.out), []
    build(again, reports.append)
    assert state(again.out) == before
    assert [(p.done, p.total) for p in reports] == [(3, 3)]


def test_a_missing_expert_alone_is_trained_again_bit_for_bit(again, config):
    shutil.rmtree(again.out / "experts" / "meals")
    before, reports = state(again.out), []
    build(again, reports.append)
    after = state(again.out)
    assert {name: after[name] for name in before} == before
    assert [p.card.id for p in reports if p.card] == ["meals"]
    again_meals, meals = (tensors_of(out / "experts" / "meals") for out in (again.out, config.out))
    assert len(meals) == 3
    assert again_meals == meals, "in another process, and after other tasks"


def test_scores_are_filled_in_without_training(again, monkeypatch):
    before = state(again.out)
    monkeypatch.setattr(foundry, "train_expert", None)
    reports = []
    build(changed(again, score=True), reports.append)
    after = state(again.out)
    assert {name for name in after if after[name] != before[name]} == {
        f"experts/{expert}/card.yaml" for expert in TASKS
    }
    for card in Zoo.open(again.out):
        assert card.after.cross_entropy < card.before.cross_entropy, "trained on what it is scored on"
    assert sorted(p.card.id for p in reports if p.card and p.card.after) == sorted(TASKS)
    build(changed(again, score=True))
    assert state(again.out) == after, "once"


def test_scores_of_a_fresh_build_are_those_filled_in_later(again, fresh):
    build(changed(again, score=True))
    build(changed(fresh, score=True))
    for one, two in zip(Zoo.open(again.out), Zoo.open(fresh.out), strict=True):
        assert (one.before, one.after) == (two.before, two.after)
        assert tensors_of(again.out / "experts" / one.id) == tensors_of(fresh.out / "experts" / two.id)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"recipe": {"r": 2, "steps": 13}}, r"recipe\.steps \(12 there, 13 asked for\)"),
        ({"frame": "multitask"}, r"frame \(random there, multitask asked for\)"),
        ({"name": "other"}, "name"),
    ],
)
def test_a_zoo_made_otherwise_is_refused_and_left_alone(again, values, named):
    before = state(again.out)
    with pytest.raises(ZooError, match=rf"{named}.*give another `out`"):
        build(changed(again, **values))
    assert state(again.out) == before


def test_a_zoo_of_another_base_is_refused(again, tmp_path):
    base = write_tiny_encoder(tmp_path / "base", seed=2)
    shutil.rmtree(tmp_path / "base" / "1_Pooling")
    with pytest.raises(ZooError, match="base_hash"):
        build(changed(again, base=str(base)))


# --- what is asked for ----------------------------------------------------------------------------------------------


def test_some_tasks_alone(fresh, config):
    reports = []
    build(changed(fresh, only=("weather",)), reports.append)
    assert Zoo.open(fresh.out).ids == ("weather",)
    assert [(p.done, p.total) for p in reports] == [(0, 1), (1, 1)]


def test_tasks_outside_the_splits_are_named_before_anything_is_written(fresh):
    with pytest.raises(ConfigError, match=r"`only`.*\['experts'\].*sports, weather"):
        build(changed(fresh, splits=("experts",), only=("weather", "drinks", "sports")))
    assert not fresh.out.exists()


def test_an_unknown_split_is_named(fresh):
    with pytest.raises(TaskError, match="no split 'test'"):
        build(changed(fresh, splits=("test",)))


def test_one_bad_task_does_not_cost_the_others(fresh, workshop, tmp_path):
    values = workshop / "tasks.yaml"
    (tmp_path / "tasks.yaml").write_text(values.read_text().replace("meals.train.jsonl", "lost.train.jsonl"))
    with pytest.raises(TaskError, match=r"lost\.train\.jsonl"):
        build(changed(fresh, tasks=tmp_path / "tasks.yaml"))
    assert Zoo.open(fresh.out).ids == ("drinks", "weather")
    build(fresh)
    assert Zoo.open(fresh.out).ids == ("drinks", "meals", "weather")


def test_a_worker_that_dies_is_reported_with_a_way_out(again, monkeypatch):
    shutil.rmtree(again.out / "experts" / "meals")

    def die(*_):
        raise BrokenProcessPool

    monkeypatch.setattr(foundry, "train_expert", die)
    with pytest.raises(ZooError, match="Build again"):
        build(again)


# --- the start ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frame", "start"), [("random", "multitask"), ("multitask", "zero"), ("multitask",) * 2])
def test_experts_begin_at_the_multitask_adapter_where_it_is_asked_for(fresh, config, built, frame, start):
    still = fresh.recipe.model_copy(update={"learning_rate": 1e-12})  # so an expert shows where it began
    reports = []
    settings = changed(fresh, frame=frame, start=start, recipe=still.model_dump(), only=("weather",))
    build(settings, reports.append)
    assert [(p.done, p.total) for p in reports if p.stage == "multitask"] == [(step, 4) for step in (1, 2, 3, 4)]
    zoo = Zoo.open(fresh.out)
    multitask, expert = zoo.multitask(), zoo.adapter("weather")
    losses = json.loads((fresh.out / MULTITASK / "losses.json").read_text())
    assert len(losses) == 4
    assert multitask.norm() > 0
    random = read_start(config.out)
    for site in expert.sites:
        assert torch.equal(multitask.lora_A[site], random.lora_A[site]) is (frame == "random")
        assert torch.equal(expert.lora_A[site].float(), random.lora_A[site]) is (frame == "random")
        wanted = multitask.delta_weight(site) * (start == "multitask")
        torch.testing.assert_close(expert.delta_weight(site), wanted, rtol=0, atol=0.02 * multitask.norm())
    assert not list(fresh.out.rglob(".*"))


def test_an_interrupted_multitask_adapter_is_taken_up_where_it_was(fresh, tmp_path):
    asked = changed(fresh, frame="multitask", start="multitask", only=("weather",))
    build(changed(asked, out=tmp_path / "whole"))

    def stop(progress: Progress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(asked, stop)
    assert not (fresh.out / MULTITASK).exists()
    reports = []
    build(asked, reports.append)
    assert [p.done for p in reports if p.stage == "multitask"] == [3, 4]
    # Not to the byte: on some processors two runs of one training already differ in their last digit.
    for name in (START, f"{MULTITASK}/{WEIGHTS}", f"experts/weather/{WEIGHTS}"):
        torch.testing.assert_close(load_file(fresh.out / name), load_file(tmp_path / "whole" / name), rtol=0, atol=1e-5)
    taken_up, whole = (
        json.loads((out / MULTITASK / "losses.json").read_text()) for out in (fresh.out, tmp_path / "whole")
    )
    assert taken_up == [pytest.approx(row, abs=1e-5) for row in whole]


def test_frame_and_start_can_be_another_zoos(built, config, fresh, tmp_path):
    build(changed(fresh, start_of=config.out, only=("drinks",), recipe=config.recipe.model_dump() | {"seed": 7}))
    assert (fresh.out / START).read_bytes() == (config.out / START).read_bytes()
    with pytest.raises(ZooError, match=r"start_of.*nowhere.*start\.safetensors"):
        build(changed(fresh, out=tmp_path / "third", start_of=tmp_path / "nowhere"))


# --- folds ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folding(again) -> ZooConfig:
    """A config that adds three folds to the built zoo."""
    recipe = {"number": 3, "steps": 6, "steps_per_checkpoint": 2, "learning_rate": 3e-2}
    return changed(again, pooled="pool", folds=recipe)


def test_folds_are_added_to_a_zoo_that_has_none(folding):
    before, reports, named = state(folding.out), [], Zoo.open(folding.out).fingerprint
    build(folding, reports.append)
    after, zoo = state(folding.out), Zoo.open(folding.out)
    assert [name for name in before if after[name] != before[name]] == [MANIFEST]
    assert zoo.manifest.folds == folding.folds
    assert zoo.fingerprint == named
    assert [(p.stage, p.done, p.total) for p in reports] == [
        ("experts", 3, 3),
        *(("folds", done, 3) for done in range(4)),
    ]
    assert dict(zoo.check()) == dict.fromkeys((*zoo.ids, "folds/0", "folds/1", "folds/2"))
    assert sorted(task for fold in zoo.folds() for task in fold.plan.far) == sorted(POOL)
    assert sorted(task for fold in zoo.folds() for task in fold.plan.near) == ["drinks", "meals"]
    assert not list(folding.out.rglob(".*")), "nothing unfinished is left"


def test_a_folds_adapter_is_trained_on_the_other_tasks_over_the_zoos_frame(folding):
    start = read_start(folding.out)
    write_start(folding.out, Start(start.lora_A, {site: torch.ones_like(b) for site, b in start.lora_B.items()}))
    build(folding)
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

    monkeypatch.setattr(foundry, "train_multitask", watched)
    build(folding)
    assert read == [set(POOL) - set(fold.held_out) for fold in Zoo.open(folding.out).folds()]


def test_a_missing_fold_alone_is_trained_again(folding, monkeypatch):
    build(folding)
    whole = Zoo.open(folding.out).folds()
    shutil.rmtree(folding.out / FOLDS / "1")
    before, reports = state(folding.out), []
    build(folding, reports.append)
    after = state(folding.out)
    assert {name: after[name] for name in before} == before
    assert [(p.done, p.total) for p in reports if p.stage == "folds"] == [(2, 3), (3, 3)]
    for fold, wanted in zip(Zoo.open(folding.out).folds(), whole, strict=True):
        assert fold.plan == wanted.plan
        torch.testing.assert_close(dict(fold.adapter.lora_B), dict(wanted.adapter.lora_B), rtol=0, atol=1e-5)
    monkeypatch.setattr(foundry, "train_multitask", None)
    build(folding)
    build(changed(folding, folds=None))
    assert state(folding.out) == after, "a config that asks for no folds leaves them"


def interrupt_at(monkeypatch, last: int) -> list[int]:
    """Let folds train until this step and no further; returns the steps that are done."""
    steps = []

    def interrupted(*args, on_step, **options):
        def count(step):
            steps.append(step)
            if step == last:
                foundry._bench.stop.set()
            on_step(step)

        return train_multitask(*args, on_step=count, **options)

    monkeypatch.setattr(foundry, "train_multitask", interrupted)
    return steps


def test_an_interrupted_fold_is_taken_up_where_it_was(folding, monkeypatch, tmp_path):
    shutil.copytree(folding.out, tmp_path / "whole")
    build(changed(folding, out=tmp_path / "whole"))
    interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        build(folding)
    assert not (folding.out / FOLDS / "0").exists()
    steps = interrupt_at(monkeypatch, 0)
    build(folding)
    assert steps[:4] == [3, 4, 5, 6]
    assert len(steps) == 4 + 2 * 6
    for fold, wanted in zip(Zoo.open(folding.out).folds(), Zoo.open(tmp_path / "whole").folds(), strict=True):
        assert fold.plan == wanted.plan
        torch.testing.assert_close(dict(fold.adapter.lora_B), dict(wanted.adapter.lora_B), rtol=0, atol=1e-5)
    assert not list(folding.out.rglob(".*"))


def test_a_state_that_has_seen_tasks_it_must_not_see_is_thrown_away(folding, monkeypatch):
    interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        build(folding)
    plan = folding.out / FOLDS / ".0.partial" / PLAN
    plan.write_text("far: [somewhere]\nnear: []\n")
    steps = interrupt_at(monkeypatch, 0)
    build(folding)
    assert steps[:6] == [1, 2, 3, 4, 5, 6]


def test_folds_made_otherwise_are_refused_and_left_alone(folding, workshop, tmp_path):
    build(folding)
    before, recipe, other = state(folding.out), folding.folds.model_dump(), four_families(workshop, tmp_path)
    for named, values in (
        (r"folds\.steps \(6 there, 7 asked for\)", {"folds": recipe | {"steps": 7}}),
        (r"folds\.number \(3 there, 4 asked for\)", {"folds": recipe | {"number": 4}, "tasks": other}),
        (r"folds/\d holds out other tasks.*remove .*folds to train all", {"tasks": other}),
    ):
        with pytest.raises(ZooError, match=named):
            build(changed(folding, **values))
    assert state(folding.out) == before


def four_families(workshop: Path, folder: Path) -> Path:
    text = (workshop / "tasks.yaml").read_text()
    assert text.count("family: table") == 2
    (folder / "tasks.yaml").write_text(text.replace("family: table", "family: ''"))
    return folder / "tasks.yaml"


def test_folds_that_cannot_be_assigned_are_refused_before_anything_is_written(fresh):
    with pytest.raises(ConfigError, match=r"3 folds were asked for.*2 tasks are of 1 families"):
        build(changed(fresh, folds={"number": 3}))
    assert not fresh.out.exists()


def test_an_expert_can_begin_at_the_fold_that_has_not_seen_its_family(folding, fresh, workshop, tmp_path):
    tasks = four_families(workshop, tmp_path)
    assert tasks.read_text().count("- weather\n") == 2
    tasks.write_text("".join(tasks.read_text().rsplit("  - weather\n", 1)))  # of no fold any more
    still = folding.recipe.model_copy(update={"learning_rate": 1e-12})  # so an expert shows where it began
    settings = changed(folding, out=fresh.out, tasks=tasks, start="folds", recipe=still.model_dump())
    reports: list[Progress] = []
    build(settings, reports.append)
    assert list(dict.fromkeys(p.stage for p in reports)) == ["folds", "experts"]
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
    build(changed(settings, out=second, folds=None, start_of=zoo.root, only=("drinks",)))
    assert not (second / FOLDS).exists()
    first, again = (Zoo.open(root).adapter("drinks").lora_B for root in (zoo.root, second))
    assert first.keys() == again.keys()
    for site, b in first.items():
        torch.testing.assert_close(again[site], b)


def test_folds_to_begin_at_must_be_asked_for_or_be_there(built, config, fresh):
    with pytest.raises(ValueError, match="'start: folds' wants 'folds'"):
        changed(config, start="folds")
    with pytest.raises(ZooError, match=r"start_of.*has no folds to begin at"):
        build(changed(fresh, start="folds", start_of=config.out))
    assert not (fresh.out / START).exists()


def test_a_new_zoo_can_have_folds_at_once(fresh, folding):
    build(changed(folding, out=fresh.out, only=("weather",)))
    assert len(Zoo.open(fresh.out).folds()) == 3


def test_one_worker_is_this_process(fresh, monkeypatch):
    monkeypatch.setattr(foundry, "ProcessPoolExecutor", None)
    reports: list[Progress] = []
    build(changed(fresh, workers=1), reports.append)
    assert [(p.done, p.total) for p in reports if p.stage == "experts"] == [(done, 3) for done in range(4)]
    assert dict(Zoo.open(fresh.out).check()) == dict.fromkeys(TASKS)
    assert foundry._bench is None, "the base is given back"


# --- the plug is pulled ---------------------------------------------------------------------------------------------

SCRIPT = """
import signal
import sys
from pathlib import Path
from loragen.foundry import ZooConfig, build
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background begins without
    build(ZooConfig.from_yaml(Path(sys.argv[1])))
"""


def test_a_build_that_is_killed_leaves_whole_experts_and_no_process(fresh, tmp_path):
    (tmp_path / "build.py").write_text(SCRIPT)
    asked = changed(fresh, workers=2)
    (tmp_path / "zoo.yaml").write_text(asked.to_yaml())
    experts, deadline = fresh.out / "experts", time.monotonic() + 120
    process = subprocess.Popen(
        [sys.executable, tmp_path / "build.py", tmp_path / "zoo.yaml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        while not list(experts.glob("[!.]*")):
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        # The pipe ends when its last holder is gone: the worker as well as its parent.
        process.communicate(timeout=30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    left = state(fresh.out)
    finished = Zoo.open(fresh.out).ids
    assert finished
    assert set(dict(Zoo.open(fresh.out).check()).values()) == {None}
    build(asked)
    assert dict(Zoo.open(fresh.out).check()) == dict.fromkeys(TASKS)
    for expert in finished:
        assert all(state(fresh.out)[name] == left[name] for name in left if name.startswith(f"experts/{expert}/"))


def test_ctrl_c_does_not_wait_for_a_folds_end(folding, tmp_path):
    (tmp_path / "build.py").write_text(SCRIPT)
    asked = changed(folding, workers=2, folds={"number": 3, "steps": 1_000_000, "steps_per_checkpoint": 2})
    (tmp_path / "zoo.yaml").write_text(asked.to_yaml())
    process = subprocess.Popen(
        [sys.executable, tmp_path / "build.py", tmp_path / "zoo.yaml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    try:
        while not list((asked.out / FOLDS).glob(".0.partial/*.ckpt")):
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        shown = process.communicate(timeout=60)[0].decode()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "KeyboardInterrupt" in shown
    assert list((asked.out / FOLDS).glob(".0.partial/*.ckpt")), "to go on from"
