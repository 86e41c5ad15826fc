"""The hypernetwork on two devices: parts of its batches, and a training that is judged by the first process alone."""

import copy
import json

import pytest
import torch
from hyper_toys import changed, seeded
from safetensors.torch import load_file

from loragen.generators.hyper.episodes import episodes
from loragen.generators.hyper.fit import WeightsObjective, weights_batch
from loragen.generators.hyper.model import Hyper, HyperNetwork
from loragen.generators.hyper.task_loss import TaskObjective
from loragen.generators.train import LOSSES, train_generator
from loragen.training.ranks import Rank

RANKS = Rank(0, 2), Rank(1, 2)


@pytest.fixture
def network(data, config) -> HyperNetwork:
    torch.manual_seed(0)
    made = HyperNetwork(data.keys.shape[-1], tuple(data.frame.sizes.values()), config.hyper).eval()
    made.begin(data.offsets, data.start)
    return made


def test_the_losses_of_the_parts_are_those_of_the_whole_on_average(data, base, config, network):
    weights = WeightsObjective(network, data.offsets, data.start), weights_batch(data, config, rng=seeded())
    texts = TaskObjective(base, network, data.frame, contrast_weight=0), episodes(data, config, rng=seeded())[0]
    for objective, batch in (weights, texts):
        parts = [objective(batch.part(rank))["loss"] for rank in RANKS]
        assert not torch.allclose(*parts)
        torch.testing.assert_close(sum(parts) / 2, objective(batch)["loss"])


def test_a_copy_shares_the_base(data, base, network):
    objective = TaskObjective(base, network, data.frame, contrast_weight=0)
    other = copy.deepcopy(objective)
    assert other._frozen is objective._frozen
    assert other.network is not network


def test_two_devices_keep_the_network_that_one_would_keep(config, tmp_path):
    """Trained on weights and on texts, and judged on left-out tasks."""
    values = {"objective": "both", "judged_on": "validation", "contrast_weight": 0, "epochs": 2, "steps_per_epoch": 3}
    one = changed(config, out=tmp_path / "one", weights_steps=3, **values)
    two = changed(one, out=tmp_path / "two", devices=2, strategy="fsdp")
    for run in (one, two):
        train_generator(run)
    rows, expected = (json.loads((run.out / LOSSES).read_text()) for run in (two, one))
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], rel=1e-3)
    assert Hyper.load(two.out).manifest == Hyper.load(one.out).manifest
    tensors, whole = (load_file(run.out / "generator.safetensors") for run in (two, one))
    assert tensors.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(tensors[name], value, rtol=1e-2, atol=1e-2)
