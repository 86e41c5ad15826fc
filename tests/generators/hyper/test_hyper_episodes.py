"""Episodes of the training through the base: tasks, their texts, and the evidence and the start of each."""

import pytest
import torch
from hyper_toys import FAR, KINDS, NEAR, changed, config_of, seeded, source_of, with_folds, with_more

from loragen.generators.hyper.data import read_experts
from loragen.generators.hyper.episodes import episodes
from loragen.generators.hyper.fit import HyperTrainConfig
from loragen.generators.hyper.task_loss import TaskBatch
from loragen.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(toys) -> Zoo:
    return Zoo.open(toys / "zoo")


@pytest.fixture(scope="module")
def folded(zoo, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return with_folds(zoo, tmp_path_factory.mktemp("folded") / "zoo")


@pytest.fixture(scope="module")
def config(toys) -> HyperTrainConfig:
    return config_of(toys)


def same(one: list[TaskBatch], other: list[TaskBatch]) -> bool:
    return all(
        a.data.ids == b.data.ids
        and all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("query", "present", "start"))
        for a, b in zip(one, other, strict=True)
    )


def test_episodes_follow_from_the_random_source(data, config) -> None:
    one, again, other = (episodes(data, config, rng=seeded(seed)) for seed in (3, 3, 4))
    assert [len(batch.data.ids) for batch in one] == [16] * 10
    assert same(one, again)
    assert not same(one, other)
    assert not same(one[:1], one[1:2])


def test_the_evidence_is_of_the_texts_task(data, config) -> None:
    batches = episodes(data, changed(config, steps_per_epoch=150, shots=(1,)), rng=seeded())
    met = set()
    for batch in batches:
        expert, task = source_of(batch, data)
        met.add((expert, tuple(map(tuple, task.data.label_ids))))
        rows = {}
        for i, kind in enumerate(KINDS):
            assert bool(batch.query[i].any()) == bool(batch.present[i])
            if batch.present[i]:
                states = task.states[kind].mean(0, keepdim=True) if kind == "labels" else task.states[kind]
                encoded = (states - data.conditions.centres[i]) / data.conditions.scales[i]
                distances = (encoded - batch.query[i]).norm(dim=1)
                assert distances.min() < 1e-4
                rows[kind] = int(distances.argmin())
        if {"texts", "examples"} <= rows.keys():
            assert rows["texts"] == rows["examples"], "one support"
    assert len(met) == 6 + len({tuple(map(tuple, task.data.label_ids)) for task in data.tasks[6]})


@pytest.mark.parametrize("near_share", [0.0, 0.5, 1.0])
def test_an_episode_starts_from_a_fold_that_has_not_seen_its_task(config, folded, base, near_share: float) -> None:
    asked = changed(config, near_share=near_share, steps_per_epoch=120)
    data = read_experts(asked, folded, base, ("labels",))
    starts = torch.stack([data.frame.coordinates(fold.adapter) for fold in folded.folds()])
    met = set()
    for batch in episodes(data, asked, rng=seeded()):
        expert, _ = source_of(batch, data)
        (fold,) = (starts == batch.start).all(1).nonzero().flatten().tolist()
        met.add((folded.ids[expert], fold))
    far, near = set(FAR.items()), set(NEAR.items())
    wanted = {0.0: far, 0.5: far | near, 1.0: near | {(name, at) for name, at in far if name not in NEAR}}
    assert met == wanted[near_share]


@pytest.mark.parametrize("dropout", [0.0, 0.9])
def test_there_is_always_some_evidence(data, config, dropout: float) -> None:
    batches = episodes(data, changed(config, evidence_dropout=dropout, steps_per_epoch=100), rng=seeded())
    present = torch.stack([batch.present for batch in batches])
    assert present.any(1).all()
    assert float(present.float().mean()) == pytest.approx(1.0 if dropout == 0 else 0.27, abs=0.08)
    assert present.any(0).all()


def test_a_batch_moves_with_all_that_it_holds(data, config) -> None:
    (batch,) = (b.to(torch.device("meta")) for b in episodes(data, changed(config, steps_per_epoch=1), rng=seeded()))
    tensors = (batch.data.targets, batch.query, batch.present, batch.start)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_further_tasks_are_drawn_as_often_and_start_where_a_generation_does(toys, config, folded, base, tmp_path):
    asked = changed(with_more(config, toys, tmp_path, canteen="menus"), steps_per_epoch=200, variants=0)
    data = read_experts(asked, folded, base, ("labels",))
    own = data.more["canteen"][0].data.ids
    drawn = [batch for batch in episodes(data, asked, rng=seeded()) if all(text in own for text in batch.data.ids)]
    assert 10 <= len(drawn) <= 45, "one in eight of 200"
    assert all(torch.equal(batch.start, data.start) for batch in drawn)
    rows = episodes(data, asked, rng=seeded(), rows=range(len(data.tasks)))
    assert not [batch for batch in rows if all(text in own for text in batch.data.ids)]
