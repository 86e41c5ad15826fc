import json
import math
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError, ConfigError, ZooError
from loragen.files import atomic_write
from loragen.zoo.card import ZOO_MANIFEST
from loragen.zoo.folds import FOLD_PLAN, FOLDS, Fold, FoldPlan, FoldRecipe, plan_folds, read_folds, write_fold
from loragen.zoo.zoo import Zoo

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Named:
    id: str
    family: str


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of_sizes(sizes) -> list[Named]:
    """Tasks of families of these sizes; a family of one goes without a name."""
    return [Named(f"{f}-{i}", f"family {f}" if size > 1 else "") for f, size in enumerate(sizes) for i in range(size)]


@st.composite
def assigned(draw):
    """Tasks with their families, a number of folds, and the plans."""
    number = draw(st.integers(3, 8))
    tasks = of_sizes(draw(st.lists(st.integers(1, 12), min_size=number, max_size=20)))
    return tasks, number, plan_folds(tasks, number, rng=seeded(draw(st.integers(0, 2**31))))


def family_of(task: Named) -> str:
    return task.family or task.id


# --- the assignment -------------------------------------------------------------------------------------------------


@given(assigned())
def test_every_task_is_far_in_one_fold_with_its_whole_family(drawn):
    tasks, number, plans = drawn
    assert len(plans) == number
    home = {task: k for k, plan in enumerate(plans) for task in plan.far}
    assert sorted(task for plan in plans for task in plan.far) == sorted(task.id for task in tasks)
    for family in {family_of(task) for task in tasks}:
        assert len({home[task.id] for task in tasks if family_of(task) == family}) == 1


@given(assigned())
def test_every_task_of_a_larger_family_is_near_in_one_other_fold(drawn):
    tasks, _, plans = drawn
    sizes = Counter(family_of(task) for task in tasks)
    wanted = [task.id for task in tasks if sizes[family_of(task)] > 1]
    assert sorted(task for plan in plans for task in plan.near) == sorted(wanted)
    assert all(not set(plan.far) & set(plan.near) for plan in plans)


@given(assigned())
def test_some_of_a_family_stay_where_others_of_it_are_near(drawn):
    tasks, number, plans = drawn
    for plan in plans:
        for family in {family_of(task) for task in tasks if task.id in plan.near}:
            members = {task.id for task in tasks if family_of(task) == family}
            held_out = members & set(plan.held_out)
            assert held_out < members
            assert held_out <= set(plan.near)
            if number > 3:
                assert len(held_out) <= math.ceil(len(members) / 3), "most of them stay"


@given(assigned())
def test_far_parts_are_balanced(drawn):
    tasks, _, plans = drawn
    sizes = [len(plan.far) for plan in plans]
    assert max(sizes) - min(sizes) <= max(Counter(family_of(task) for task in tasks).values())
    assert min(sizes) > 0


@pytest.mark.parametrize("seed", range(20))
def test_large_families_are_placed_first_and_near_tasks_spread(seed):
    plans = plan_folds(of_sizes([1, 1, 2, 1, 4, 2, 1]), 3, rng=seeded(seed))
    assert [len(plan.far) for plan in plans] == [4, 4, 4]
    near = [len(plan.near) for plan in plan_folds(of_sizes([2] * 12), 6, rng=seeded(seed))]
    assert max(near) - min(near) <= 2


@given(st.lists(st.integers(1, 6), min_size=4, max_size=12), st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_the_plans_follow_from_the_set_of_tasks_and_the_rng(sizes, seed, random):
    tasks = of_sizes(sizes)
    before = torch.get_rng_state()
    plans = plan_folds(tasks, 4, rng=seeded(seed))
    random.shuffle(tasks)
    assert plan_folds(tasks, 4, rng=seeded(seed)) == plans
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_gives_other_plans():
    tasks = of_sizes([3] * 8)
    assert len({plan_folds(tasks, 4, rng=seeded(seed)) for seed in range(5)}) == 5


def test_cards_can_be_assigned_as_well(tiny_zoo):
    plans = plan_folds(tuple(tiny_zoo), 4, rng=seeded())
    assert sorted(task for plan in plans for task in plan.far) == sorted(tiny_zoo.ids)
    assert all(plan.near == () for plan in plans), "each is its own family"


@pytest.mark.parametrize(
    ("sizes", "number", "named"),
    [
        ([2] * 5, 2, "at least 3"),
        ([9, 2, 1], 4, "12 tasks are of 3 families.*fewer folds"),
        ([], 3, "0 families"),
    ],
)
def test_what_cannot_be_assigned_is_refused_with_a_way_out(sizes, number, named):
    with pytest.raises(ConfigError, match=rf"{number} folds were asked for.*{named}"):
        plan_folds(of_sizes(sizes), number, rng=seeded())


def test_a_recipe_wants_three_folds():
    assert (FoldRecipe().number, FoldRecipe().steps, FoldRecipe().learning_rate) == (6, 1000, 0.005)
    with pytest.raises(ValidationError, match="number"):
        FoldRecipe(number=2)


# --- on disk --------------------------------------------------------------------------------------------------------


def fold(zoo: Zoo, k: int) -> Fold:
    return Fold(FoldPlan(far=(zoo.ids[k % 8],), near=("somewhere",)), zoo.adapter(zoo.ids[k % 8]))


def test_folds_read_back_by_number(tiny_zoo, tmp_path):
    for k in (10, 0, 9):
        write_fold(tmp_path / str(k), fold(tiny_zoo, k), [{"loss": 0.5}])
    (tmp_path / ".1.partial").mkdir()
    met = read_folds(tmp_path)
    assert [f.plan.far for f in met] == [("bank",), ("card",), ("cook",)]
    assert met[1].held_out == ("card", "somewhere")
    for f in met:
        wanted = tiny_zoo.adapter(f.plan.far[0])
        assert f.adapter.spec == wanted.spec
        assert all(torch.equal(f.adapter.delta_weight(site), wanted.delta_weight(site)) for site in wanted.sites)
    assert {path.name for path in (tmp_path / "9").iterdir()} == {
        "adapter_config.json",
        WEIGHTS,
        FOLD_PLAN,
        "losses.json",
        ".loragen.json",
    }
    assert json.loads((tmp_path / "9" / "losses.json").read_text()) == [{"loss": 0.5}]


def test_where_no_folds_are_none_are_read(tmp_path):
    assert read_folds(tmp_path / "nowhere") == read_folds(tmp_path) == ()


@pytest.mark.parametrize("damage", ["far: [a", "far: [a]", "far: [a]\nnear: []\nmid: []\n"])
def test_a_damaged_plan_is_named_with_a_way_out(tiny_zoo, tmp_path, damage):
    write_fold(tmp_path / "0", fold(tiny_zoo, 0))
    (tmp_path / "0" / FOLD_PLAN).write_text(damage)
    with pytest.raises(ZooError, match=r"(?s)/0, or remove it and build again.*fold\.yaml"):
        read_folds(tmp_path)


# --- in a zoo -------------------------------------------------------------------------------------------------------


@pytest.fixture
def zoo(tiny_zoo, tmp_path) -> Zoo:
    """The tiny zoo with three folds."""
    root = Path(shutil.copytree(tiny_zoo.root, tmp_path / "zoo"))
    manifest = tiny_zoo.manifest.model_copy(update={"folds": FoldRecipe(number=3)})
    atomic_write(root / ZOO_MANIFEST, manifest.to_yaml())
    for k in range(3):
        write_fold(root / FOLDS / str(k), fold(tiny_zoo, k))
    return Zoo.open(root)


def test_a_zoo_hands_out_its_folds(zoo, tiny_zoo):
    assert [f.plan.far for f in zoo.folds()] == [("bank",), ("card",), ("cook",)]
    assert dict(zoo.check()) == dict.fromkeys((*tiny_zoo.ids, "folds/0", "folds/1", "folds/2"))


def test_folds_do_not_change_what_a_zoo_is(zoo, tiny_zoo):
    assert zoo.fingerprint == tiny_zoo.fingerprint
    assert zoo.ids == tiny_zoo.ids


def test_a_manifest_from_before_folds_is_read(tiny_zoo, tmp_path):
    root = Path(shutil.copytree(tiny_zoo.root, tmp_path / "zoo"))
    text = (root / ZOO_MANIFEST).read_text()
    assert "folds: null\n" in text
    (root / ZOO_MANIFEST).write_text(text.replace("folds: null\n", ""))
    assert Zoo.open(root).manifest == tiny_zoo.manifest
    assert Zoo.open(root).folds() == ()
    assert dict(Zoo.open(root).check()) == dict.fromkeys(tiny_zoo.ids)


def test_missing_folds_are_named_and_never_left_out_in_silence(zoo):
    shutil.rmtree(zoo.root / FOLDS / "1")
    with pytest.raises(ZooError, match=r"no folds/1; build it again"):
        zoo.folds()
    assert {name: fault for name, fault in zoo.check() if fault} == {
        "folds/1": "missing; build the zoo again to train it"
    }


def truncate(folder: Path, _adapter: Lora) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7])


def rewrite(folder: Path, adapter: Lora, *, sites: slice = slice(None), scale: float = 1.0, base="tiny-base"):
    kept = adapter.sites[sites]
    changed = Lora.from_factors(
        {site: adapter.lora_A[site] for site in kept},
        {site: adapter.lora_B[site] * scale for site in kept},
        base_model_name_or_path=base,
    )
    write_fold(folder, Fold(FoldPlan(far=("card",), near=()), changed))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncate, "adapter_model.safetensors is damaged"),
        (lambda folder, _: (folder / FOLD_PLAN).unlink(), "or remove it and build again"),
        (lambda folder, adapter: rewrite(folder, adapter, sites=slice(1, None)), "layer.0.query is adapted there"),
        (lambda folder, adapter: rewrite(folder, adapter, scale=0.0), "all delta weights are zero"),
        (lambda folder, adapter: rewrite(folder, adapter, base="other"), "base other, the zoo's is tiny-base"),
    ],
)
def test_a_damaged_fold_is_found_beside_whole_ones(zoo, damage, named):
    damage(zoo.root / FOLDS / "1", zoo.adapter("card"))
    met = dict(zoo.check())
    assert named in met.pop("folds/1")
    assert set(met.values()) == {None}
    assert len(met) == 10


def test_a_fold_that_is_not_finite_is_found(zoo):
    from safetensors.torch import load_file, save_file

    path = zoo.root / FOLDS / "2" / WEIGHTS
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] = math.nan
    save_file(tensors, path)
    assert "not finite" in dict(zoo.check())["folds/2"]
    with pytest.raises(AdapterError, match="not finite"):
        zoo.folds()
