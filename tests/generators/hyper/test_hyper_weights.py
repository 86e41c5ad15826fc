"""The training of the hypernetwork on weights: its batches and its loss."""

import copy
import dataclasses

import pytest
import torch
from hyper_toys import (
    KINDS,
    changed,
    everyone,
    moved,
    network_of,
    seeded,
)

from loragen.generators.hyper.fit import (
    WeightsObjective,
    disturbed,
    weights_batch,
)


def test_task_vectors_are_told_with_noise_and_in_some_episodes_not_at_all(config) -> None:
    asked, present = changed(config, condition_dropout=0.3, noise=0.5), torch.tensor([True, True, False, True])
    query = torch.randn(4, 50, generator=seeded(1)) * present[:, None]
    rng = seeded()
    told = [disturbed(query, present, asked, rng=rng) for _ in range(400)]
    for vectors, there in told:
        assert torch.equal(there, present) or not there.any()
        assert not vectors[~there].any()
    heard = torch.stack([vectors for vectors, there in told if there.any()])
    assert len(heard) / 400 == pytest.approx(0.7, abs=0.06)
    noise = (heard - query)[:, present]
    assert float(noise.std()) == pytest.approx(0.5, rel=0.02)
    assert abs(float(noise.mean())) < 0.02
    plain = disturbed(query, present, changed(config, condition_dropout=0, noise=0), rng=rng)
    assert torch.equal(plain[0], query)
    assert torch.equal(plain[1], present)


def test_weights_are_learnt_from_the_evidence_of_their_own_tasks(data, config) -> None:
    asked = changed(config, condition_dropout=0, noise=0, shots=(1,))
    one, again, other = (weights_batch(data, asked, rng=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.query, again.query)
    assert not torch.equal(one.query, other.query)
    assert one.query.shape == (32, 4, 16)
    assert set(torch.cat([one.expert, other.expert]).tolist()) == set(range(7))
    for query, present, expert in zip(one.query, one.present, one.expert.tolist(), strict=True):
        states = data.tasks[expert][0].states
        for i, kind in enumerate(KINDS):
            if present[i]:
                own = states[kind].mean(0, keepdim=True) if kind == "labels" else states[kind]
                encoded = (own - data.conditions.centres[i]) / data.conditions.scales[i]
                assert (encoded - query[i]).norm(dim=1).min() < 1e-4
    vague = weights_batch(data, changed(config, condition_dropout=0.5), rng=seeded())
    assert 4 < int((~vague.present.any(1)).sum()) < 28


@pytest.mark.parametrize("residual", [True, False])
@torch.no_grad()
def test_the_weights_loss_is_relative_to_the_offsets_site_by_site(data, residual: bool) -> None:
    batch, net = everyone(data), network_of(data, residual=residual)
    objective = WeightsObjective(net, data.offsets, data.start)
    if residual:
        assert float(objective.loss(batch)["loss"]) == pytest.approx(1, rel=1e-4), "the start alone"
    moved(net, 0.1)
    made = torch.stack([net.coordinates(q, p, data.start) for q, p in zip(batch.query, batch.present, strict=True)])
    sizes, missed = list(data.frame.sizes.values()), made - data.start - data.offsets
    ratios = [
        float(error.square().sum() / offset.square().sum())
        for error, offset in zip(missed.split(sizes, 1), data.offsets.split(sizes, 1), strict=True)
    ]
    assert float(objective.loss(batch)["loss"]) == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
    flipped = dataclasses.replace(batch, expert=batch.expert.flip(0))
    assert abs(float(objective.loss(flipped)["loss"]) - float(objective.loss(batch)["loss"])) > 1e-4


def test_experts_move_with_the_network_and_are_no_part_of_its_state(data) -> None:
    net = network_of(data)
    objective = WeightsObjective(net, data.offsets, data.start)
    assert set(objective.state_dict()) == {f"network.{name}" for name in net.state_dict()}
    batch = everyone(data).to(torch.device("meta"))  # refuses to mix with what is not there
    assert copy.deepcopy(objective).to("meta").loss(batch)["loss"].device.type == "meta"
