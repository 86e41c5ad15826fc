"""Conditions and episodes of the training of ICM-LoRA."""

import pytest
import torch
from icm_toys import seeded
from torch import Tensor

from loragen.conditions.condition import ConditionCodec
from loragen.conditions.task_vectors import Reading
from loragen.generators.icm.episodes import ICMData, ICMTrainConfig, episodes
from loragen.generators.icm.model import ICMBatch, ICMConfig

EVIDENCE = ICMConfig().evidence
ROWS = 12  # of each task's support in `marked_data`

# --- the condition --------------------------------------------------------------------------------------------------


def states(*shapes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    rng = seeded(seed)
    return [torch.randn(shape, generator=rng) * 3 + 2 for shape in shapes]


def test_each_kind_of_evidence_is_centred_and_scaled_by_its_tasks() -> None:
    kinds = [states((2, 4), (5, 4), (1, 4)), states((9, 4), (9, 4), (9, 4), seed=1)]
    codec = ConditionCodec.fit(kinds)
    assert codec.size == 8
    means = torch.stack([torch.stack([task.mean(0) for task in kind]) for kind in kinds], 1)  # (tasks, kinds, h)
    encoded = codec.encode(means, torch.ones(3, 2, dtype=torch.bool)).unflatten(-1, (2, 4))
    torch.testing.assert_close(encoded.mean(0), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.square().mean((0, 2)), torch.ones(2))
    torch.testing.assert_close(codec.centres, means.mean(0))


def test_a_kind_that_says_the_same_of_all_tasks_is_left_unscaled() -> None:
    same = torch.ones(2, 4)
    codec = ConditionCodec.fit([[same, same, same]])
    assert torch.equal(codec.scales, torch.ones(1))
    assert torch.equal(codec.encode(torch.full((1, 4), 3.0), torch.tensor([True])), torch.full((4,), 2.0))


def test_absent_evidence_is_zero_and_touches_nothing_else() -> None:
    codec = ConditionCodec(torch.randn(3, 4, generator=seeded()), torch.tensor([1.0, 2.0, 3.0]))
    vectors = torch.randn(6, 3, 4, generator=seeded(1))
    whole = codec.encode(vectors, torch.ones(6, 3, dtype=torch.bool)).unflatten(-1, (3, 4))
    present = torch.rand(6, 3, generator=seeded(2)) < 0.5
    partial = codec.encode(vectors, present).unflatten(-1, (3, 4))
    assert torch.equal(partial[~present], torch.zeros_like(partial[~present]))
    assert torch.equal(partial[present], whole[present])
    assert whole.abs().min() > 0


@pytest.mark.parametrize("given_kinds", [("description",), ("texts", "examples"), ("examples", "texts", "description")])
def test_a_condition_of_named_vectors_is_the_encoding_of_their_stack(given_kinds: tuple[str, ...]) -> None:
    codec = ConditionCodec(torch.randn(3, 4, generator=seeded()), torch.tensor([1.0, 2.0, 3.0]))
    stacked = torch.randn(3, 4, generator=seeded(1))
    vectors = {kind: stacked[EVIDENCE.index(kind)] for kind in given_kinds}
    present = torch.tensor([kind in given_kinds for kind in EVIDENCE])
    assert torch.equal(codec.of(vectors, EVIDENCE), codec.encode(stacked, present))


# --- episodes -------------------------------------------------------------------------------------------------------


def marked_data(tasks: int = 5, rows: int = ROWS, descriptions: int = 3) -> ICMData:
    """Every prompt has a place of its own in its state, so that a mean tells which prompts are in it."""
    place = torch.eye(tasks * 20).reshape(tasks, 20, -1)
    kinds = {"description": descriptions, "texts": rows, "examples": rows}
    return ICMData(
        samples=torch.eye(tasks)[:, None].expand(tasks, 2, tasks),
        space=None,  # type: ignore[arg-type]
        states={kind: tuple(place[task, :number] for task in range(tasks)) for kind, number in kinds.items()},
        reading=Reading(model="unused"),
        embeddings=torch.eye(tasks),
    )


def drawn(data: ICMData, *, seed: int = 0, codes: Tensor | None = None, **values: object) -> list[ICMBatch]:
    settings = {"steps_per_epoch": 4, "batch_size": 32, "shots": (1, 4, 100), "evidence_dropout": 0.5} | values
    config = ICMTrainConfig(generator="icm", zoo="zoo", encoder="e", out="out", **settings)
    size = next(iter(data.states.values()))[0].shape[1]
    plain = ConditionCodec(torch.zeros(3, size), torch.ones(3))
    experts = range(len(data.samples))
    return episodes(data, experts, data.samples if codes is None else codes, plain, config, rng=seeded(seed))


def parts(batches: list[ICMBatch]) -> tuple[Tensor, Tensor]:
    """Drawn tasks (b,), and which prompts of that task are in each kind of evidence, (b, 3, 20)."""
    condition = torch.cat([batch.condition for batch in batches])
    kinds = condition.reshape(len(condition), 3, -1, 20)
    tasks = kinds.sum((1, 3)).argmax(1)
    of_task = kinds[torch.arange(len(tasks)), :, tasks]
    assert torch.equal((of_task > 0).sum((1, 2)), (kinds > 0).sum((1, 2, 3))), "evidence of one task alone"
    return tasks, of_task


def test_the_adapter_belongs_to_the_task_of_its_condition() -> None:
    batches = drawn(marked_data())
    tasks, _ = parts(batches)
    assert torch.equal(torch.cat([batch.x for batch in batches]).argmax(1), tasks)
    assert all(len(batch.x.argmax(1).unique()) == 5 for batch in batches), "tasks are mixed in a batch"
    assert [len(batch.x) for batch in batches] == [32] * 4


def test_every_point_of_an_experts_training_is_drawn() -> None:
    codes = torch.arange(10.0).reshape(5, 2, 1)
    values = torch.cat([batch.x for batch in drawn(marked_data(), codes=codes)])
    assert set(values.flatten().tolist()) == set(range(10))


@pytest.mark.parametrize("dropout", [0.0, 0.5, 0.95])
def test_there_is_always_some_evidence(dropout: float) -> None:
    _, prompts = parts(drawn(marked_data(), evidence_dropout=dropout))
    present = prompts.sum(2) > 0
    assert present.any(1).all()
    assert float(present.float().mean()) == pytest.approx(max(1 - dropout, 1 / 3), abs=0.1)
    assert (present.float().mean(0) > 0.2).all(), "none of the kinds is preferred"


def test_supports_are_fresh_and_of_the_sizes_asked_for() -> None:
    tasks, prompts = parts(drawn(marked_data(), evidence_dropout=0.0))
    rows = prompts[:, 1] > 0
    assert set(rows.sum(1).tolist()) == {1, 4, ROWS}, "at most as many as there are"
    for task in range(5):
        fours = rows[(tasks == task) & (rows.sum(1) == 4)]
        assert len(fours.unique(dim=0)) > len(fours) // 2 > 1
    torch.testing.assert_close(prompts[:, 1].sum(1), torch.ones(len(tasks)))


def test_texts_and_examples_come_from_the_same_rows() -> None:
    _, prompts = parts(drawn(marked_data(), evidence_dropout=0.0))
    assert torch.equal(prompts[:, 1], prompts[:, 2])


def test_one_description_is_drawn_and_all_are() -> None:
    _, prompts = parts(drawn(marked_data(), evidence_dropout=0.0))
    assert torch.equal(prompts[:, 0].amax(1), torch.ones(len(prompts)))
    assert set(prompts[:, 0].argmax(1).tolist()) == {0, 1, 2}


def test_a_task_may_have_fewer_examples_than_descriptions() -> None:
    _, prompts = parts(drawn(marked_data(rows=2, descriptions=9), evidence_dropout=0.0))
    assert set((prompts[:, 1] > 0).sum(1).tolist()) == {1, 2}
    assert prompts[:, 0].argmax(1).max() == 8


def test_episodes_follow_from_the_random_source() -> None:
    one, same, other = (drawn(marked_data(), seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a.x, b.x) and torch.equal(a.condition, b.condition) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0].condition, other[0].condition)
    assert not torch.equal(one[0].condition, one[1].condition)
