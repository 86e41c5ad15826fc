"""Rows of an update that stay short while it is fitted."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.errors import ConfigError
from loragen.recipes.expert import Start
from loragen.recipes.few_shot import FewShotRecipe, fit_examples, fit_path
from loragen.recipes.row_clip import RowClip, clipped_rows
from loragen.tasks.task_set import TaskSet
from loragen.zoo.zoo import Zoo

RECIPE = FewShotRecipe(steps=8, learning_rate=5e-2, window=3)


@pytest.fixture(scope="module")
def zoo(toys):
    return Zoo.open(toys / "zoo")


@pytest.fixture(scope="module")
def base(zoo):
    return zoo.load_base()


@pytest.fixture(scope="module")
def data(toys, base):
    task = TaskSet.from_yaml(toys / "tasks.yaml")["plates"]
    return base.prepare(task.load_train().few(8, rng=torch.Generator().manual_seed(0)), max_length=32)


def row_norms(adapter):
    return {site: adapter.delta_weight(site).norm(dim=1) for site in adapter.sites}


@given(st.integers(0, 100), st.floats(0.1, 3))
def test_long_rows_end_at_the_limit_and_others_stay(seed, limit):
    rows = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
    made, norms = clipped_rows(rows, limit), rows.norm(dim=1)
    torch.testing.assert_close(made.norm(dim=1), norms.clamp(max=limit))
    torch.testing.assert_close(made / made.norm(dim=1, keepdim=True), rows / norms[:, None])
    assert torch.equal(clipped_rows(torch.zeros(2, 3), limit), torch.zeros(2, 3))


def test_limits_are_multiples_of_the_mean_row_and_sites_at_zero_have_none():
    b = {"one": torch.tensor([[3.0, 4.0], [0.0, 1.0]]), "two": torch.zeros(2, 2)}
    assert RowClip.of(Start({}, b), 2.0).limits == {"one": pytest.approx(6.0)}


def test_no_row_of_the_update_grows_beyond_the_limit(zoo, base, data):
    begun = zoo.adapter("drinks")
    limits = {site: 1.2 * float(norms.mean()) for site, norms in row_norms(begun).items()}
    clipped, free = (
        row_norms(fit_examples(begun, data, base, RECIPE.model_copy(update={"clip_rows": clip})))
        for clip in (1.2, None)
    )
    for site, limit in limits.items():
        assert float(clipped[site].max()) <= 1.01 * limit  # A is orthonormal but for its rounding to bfloat16
    assert any(float(free[site].max()) > 1.2 * limit for site, limit in limits.items())


def test_every_point_of_the_way_is_clipped(zoo, base, data):
    path = fit_path(
        zoo.adapter("drinks"), data, base, RECIPE.model_copy(update={"clip_rows": 1.0, "window": 1}), (1, 4)
    )
    for site, b in path.start.lora_B.items():
        for end in (1, 4):
            assert float(path.means[end][site].norm(dim=1).max()) <= float(b.norm(dim=1).mean()) * 1.0001


def test_a_limit_that_is_never_met_changes_nothing(zoo, base, data):
    begun = zoo.adapter("drinks")
    free, wide = (
        fit_examples(begun, data, base, RECIPE.model_copy(update={"clip_rows": clip})) for clip in (None, 1e6)
    )
    for site in begun.sites:
        torch.testing.assert_close(wide.delta_weight(site), free.delta_weight(site), rtol=0, atol=1e-6)


def test_limits_are_above_zero_and_off_by_default():
    assert FewShotRecipe().clip_rows is None
    for value in (0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match="clip_rows"):
            FewShotRecipe.checked({"clip_rows": value}, source="here")
