"""An expert is added to a zoo that is there as a build with its task would have made it; adapters are brought in."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builds import changed, four_families, tensors_of
from external_helpers import Q_ALONE, adapter_of, external

from loragen.adapters.adapter import Lora
from loragen.adapters.folders import WEIGHTS_NAME
from loragen.errors import AdapterError, ConfigError, TaskError, ZooError
from loragen.zoo.add import add_expert
from loragen.zoo.build import build_zoo
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.card import CARD, EXPERTS
from loragen.zoo.changes import read_changes
from loragen.zoo.import_adapters import plan_import, write_import
from loragen.zoo.pack import pack_zoo
from loragen.zoo.start import START
from loragen.zoo.zoo import Zoo

pytest_plugins = ("build_fixtures",)


@pytest.fixture(scope="module")
def one_process(zoo_config, tmp_path_factory) -> ZooConfig:
    return changed(zoo_config, out=tmp_path_factory.mktemp("whole") / "zoo", workers=1)


@pytest.fixture(scope="module")
def wanted(one_process) -> Zoo:
    """The zoo with all its tasks."""
    build_zoo(one_process)
    return Zoo.open(one_process.out)


@pytest.fixture
def some(wanted, one_process, tmp_path) -> Zoo:
    """What a build of fewer tasks leaves."""
    build_zoo(changed(one_process, out=tmp_path / "some", only=("drinks", "weather")))
    return Zoo.open(tmp_path / "some")


def without_seconds(card: str) -> str:
    return "\n".join(line for line in card.splitlines() if "seconds: " not in line)


# --- an expert for a task ---


def test_it_is_the_expert_that_a_build_with_the_task_trains(some, wanted, word_tasks) -> None:
    packed = pack_zoo(some, some.root.with_name("packed"))
    steps: list[tuple[str, int, int]] = []
    added = add_expert(
        "meals", some, tasks=word_tasks / "tasks.yaml", score=False, progress=lambda *step: steps.append(step)
    )
    now = Zoo.open(some.root)
    assert tensors_of(now.folder("meals")) == tensors_of(wanted.folder("meals")), "also variance and snapshots"
    assert without_seconds(now.card("meals").to_yaml()) == without_seconds(wanted.card("meals").to_yaml())
    assert {path.name for path in now.folder("meals").iterdir()} == {
        path.name for path in wanted.folder("meals").iterdir()
    }
    assert (now.ids, now.fingerprint) == (wanted.ids, wanted.fingerprint)
    assert (added.experts, added.fingerprint, added.is_drawn_on) == (3, now.fingerprint, True)
    assert steps[0] == ("training the expert", 0, 1)
    add_expert("meals", packed, tasks=word_tasks / "tasks.yaml", score=False)
    grown = Zoo.open(packed.root)
    assert grown.fingerprint == wanted.fingerprint
    assert grown.adapter("meals").files()[WEIGHTS_NAME] == tensors_of(wanted.folder("meals"))[WEIGHTS_NAME]
    for zoo in (now, grown):
        assert [fault for _, fault in zoo.check()] == [None] * 3
        assert [(change.what, change.id, change.after) for change in read_changes(zoo.root)] == [
            ("added", "meals", wanted.fingerprint)
        ]


def test_it_begins_at_the_fold_that_has_not_seen_it(one_process, word_tasks, tmp_path) -> None:
    tasks = four_families(word_tasks, tmp_path)
    recipe = {"number": 3, "steps": 4, "steps_per_checkpoint": 2, "learning_rate": 3e-2}
    config = changed(
        one_process, tasks=tasks, pooled="pool", folds=recipe, start="folds", splits=("experts",), score=True
    )
    some = changed(config, out=tmp_path / "some", only=("drinks",))
    build_zoo(some)
    packed = pack_zoo(some.out, tmp_path / "packed")
    for zoo in (some.out, packed.root):
        add_expert("meals", zoo, tasks=tasks)
    whole = changed(config, out=tmp_path / "whole")
    build_zoo(whole)
    wanted = Zoo.open(whole.out)
    for zoo in (some.out, packed.root):
        assert Zoo.open(zoo).fingerprint == wanted.fingerprint
        card = Zoo.open(zoo).card("meals")
        assert (card.before, card.after) == (wanted.card("meals").before, wanted.card("meals").after)
        assert card.after is not None, "it is scored as others are"
    shutil.rmtree(packed.root / "folds" / "1")
    with pytest.raises(ZooError, match=r"lacks folds/1, at which its experts begin"):
        add_expert("weather", packed.root, tasks=tasks)


def test_the_split_is_that_of_the_task_so_that_tests_stay_tests(wanted, word_tasks, tmp_path) -> None:
    zoo, tasks = shutil.copytree(wanted.root, tmp_path / "zoo"), word_tasks / "tasks.yaml"
    assert not add_expert("stove", zoo, tasks=tasks, score=False).is_drawn_on
    assert Zoo.open(zoo).card("stove").split == "pool"
    with pytest.raises(ZooError, match="has an expert stove already; remove it first"):
        add_expert("stove", zoo, tasks=tasks, split="experts")
    with pytest.raises(TaskError, match=r"no task 'stoves' among these 4\. Did you mean 'stove'"):
        add_expert("stoves", zoo, tasks=tasks)


def test_a_zoo_that_cannot_train_says_what_it_lacks(wanted, word_tasks, tmp_path) -> None:
    zoo, tasks = shutil.copytree(wanted.root, tmp_path / "zoo"), word_tasks / "tasks.yaml"
    (zoo / START).unlink()
    with pytest.raises(ZooError, match=rf"has no {START}, at which its experts begin"):
        add_expert("stove", zoo, tasks=tasks)
    write_import(plan_import([external("one", adapter_of(0, 2))], tmp_path / "other", name="other"), tmp_path / "other")
    with pytest.raises(ZooError, match="trained elsewhere, so it has no recipe"):
        add_expert("stove", tmp_path / "other", tasks=tasks)


# --- an adapter from elsewhere ---


@pytest.fixture
def imported(tmp_path) -> Zoo:
    """A zoo of two adapters that were trained elsewhere."""
    plan = plan_import([external(str(seed), adapter_of(seed, 2)) for seed in (0, 1)], tmp_path / "zoo", name="zoo")
    write_import(plan, tmp_path / "zoo")
    return Zoo.open(tmp_path / "zoo")


def blend(folder: Path, **changes: object) -> Path:
    """An adapter within the rows of the first expert, of another scaling and without a task type."""
    adapter = adapter_of(0, 2, alpha=3, rslora=True)
    lora_b = {site: b.flip(1) for site, b in adapter.lora_B.items()}
    settings = replace(adapter.settings, **{"task_type": None, **changes})
    Lora(settings, adapter.lora_A, lora_b).save(folder)
    return folder


def test_an_adapter_is_brought_into_the_frame_in_folders_and_packed_alike(imported, tmp_path) -> None:
    packed = pack_zoo(imported, tmp_path / "packed")
    source = blend(tmp_path / "letters")
    for zoo in (imported, packed):
        added = add_expert(source, zoo, description="Sort letters.", name="mine", licence="CC0")
        card = Zoo.open(zoo.root).card("mine")
        assert (card.description, card.licence, card.split) == ("Sort letters.", "CC0", "experts")
        assert card == added.card
        assert card.provenance.energy_kept > 0.999
    folders, rows = Zoo.open(imported.root), Zoo.open(packed.root)
    assert folders.fingerprint == rows.fingerprint
    assert [fault for zoo in (folders, rows) for _, fault in zoo.check()] == [None] * 6
    given, held = Lora.load(source), folders.adapter("mine")
    for site in held.sites:
        torch.testing.assert_close(held.delta_weight(site), given.delta_weight(site), rtol=0, atol=0.02 * given.norm())


@pytest.mark.parametrize("is_packed", [False, True])
def test_an_adapter_that_does_not_fit_changes_nothing(imported, tmp_path, is_packed) -> None:
    zoo = pack_zoo(imported, tmp_path / "packed") if is_packed else imported
    before = {path: path.read_bytes() for path in zoo.root.rglob("*") if path.is_file()}
    good = blend(tmp_path / "good")
    adapter_of(9, 8, sites=Q_ALONE).save(tmp_path / "strange")
    adapter_of(9, 2, base="other").save(tmp_path / "other")
    with pytest.raises(TaskError, match="comes without a description"):
        add_expert(good, zoo)
    for name, error, message, options in (
        ("good", ZooError, "has an expert 1 already; give another name", {"name": "1"}),
        ("strange", AdapterError, "loses more than 5.0 %", {}),
        ("other", ZooError, "is of the base tiny, the adapters of other", {}),
        ("good", ConfigError, "share that may be lost is 2", {"max_loss": 2}),
        ("good", ConfigError, "'split' is for a task", {"split": "experts"}),
        ("good", ConfigError, "'description' is for an adapter", {"tasks": tmp_path / "tasks.yaml"}),
    ):
        with pytest.raises(error, match=message):
            add_expert(tmp_path / name, zoo, **{"description": "Sort.", **options})
    blend(tmp_path / "turned", task_type="SEQ_2_SEQ_LM")
    with pytest.raises(AdapterError, match="has task_type SEQ_2_SEQ_LM"):
        add_expert(tmp_path / "turned", zoo, description="Sort.")
    assert {path: path.read_bytes() for path in zoo.root.rglob("*") if path.is_file()} == before


def test_a_name_of_the_folder_is_taken_where_none_is_given(imported, tmp_path) -> None:
    assert add_expert(blend(tmp_path / "bills"), imported, description="Sort bills.").card.id == "bills"
    assert (imported.root / EXPERTS / "bills" / CARD).is_file()


def test_imports_into_a_zoo_are_in_its_log_too(imported) -> None:
    write_import(plan_import([external("2", adapter_of(0, 2))], imported.root, name="zoo"), imported.root)
    (line,) = read_changes(imported.root)
    now = Zoo.open(imported.root)
    assert (line.what, line.id, line.sha256) == ("added", "2", now.hashes["2"])
    assert (line.before, line.after) == (imported.fingerprint, now.fingerprint)
