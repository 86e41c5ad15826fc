import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from toys import TESTS

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.bases.base import Base
from loragen.conditions.condition import Condition, Conditioner
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, GeneratorError
from loragen.files import atomic_write
from loragen.generators.hyper import fit as hyper_fit
from loragen.generators.hyper.episodes import Material, episodes, prepare
from loragen.generators.hyper.fit import (
    HyperTrainConfig,
    WeightsBatch,
    WeightsObjective,
    disturbed,
    fit_hyper,
    weights_batch,
)
from loragen.generators.hyper.judged_fit import Judge
from loragen.generators.hyper.model import Hyper, HyperConfig, HyperNetwork
from loragen.generators.hyper.task_loss import TaskObjective
from loragen.generators.registry import open_generator
from loragen.generators.train import LOSSES, read_config, train_generator
from loragen.generators.trained import compact, network_tensors
from loragen.tasks.examples import Support
from loragen.tasks.task_set import TaskSet
from loragen.zoo.card import MULTITASK
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import Zoo

KINDS = HyperConfig().evidence


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the network ----------------------------------------------------------------------------------------------------

WIDTH, SIZES, N, M = 6, (4, 7), 5, 3
QUERY = torch.randn(4, WIDTH, generator=seeded(1))
OFFSETS = torch.randn(N, sum(SIZES), generator=seeded(3)) * torch.tensor([1.0] * 4 + [20.0] * 7)
START = torch.randn(sum(SIZES), generator=seeded(4))
EVERY = torch.ones(4, dtype=torch.bool)


def network(**values: object) -> HyperNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = HyperNetwork(WIDTH, SIZES, HyperConfig(**{"basis_size": M, "hidden_size": 8} | values))
    net.begin(OFFSETS, START)
    return net.eval()


def moved(net: HyperNetwork, scale: float = 0.3) -> HyperNetwork:
    """With other values than those it begins with, as after a training."""
    rng = seeded(7)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=rng))
    return net


def rows_of(net: HyperNetwork) -> list[Tensor]:
    """V of each site."""
    scales = net.scales.reshape(len(SIZES), -1)
    return [s[:, None] * part for s, part in zip(scales, net.basis.detach().split(SIZES, 1), strict=True)]


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("present", [EVERY, ~EVERY])
@torch.no_grad()
def test_before_training_every_task_gets_the_start(present: Tensor, gated: bool) -> None:
    for start in (START, 2 * START):
        torch.testing.assert_close(network(gated=gated).coordinates(QUERY, present, start), start)


@torch.no_grad()
def test_the_basis_begins_where_the_experts_differ_most_from_the_start() -> None:
    for rows, part in zip(rows_of(network()), OFFSETS.split(SIZES, 1), strict=True):
        codes = part @ torch.linalg.pinv(rows)
        torch.testing.assert_close(codes.square().mean(0), torch.ones(M), rtol=1e-4, atol=0)
        most = torch.linalg.svdvals(part)[:M].square().sum()
        torch.testing.assert_close((codes @ rows).square().sum(), most, rtol=1e-4, atol=0)
        torch.testing.assert_close(rows @ rows.T, torch.diag(rows.square().sum(1)), rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_without_a_start_it_begins_at_the_mean_of_the_experts() -> None:
    net, mean = network(residual=False), START + OFFSETS.mean(0)
    for start in (START, 0 * START):
        torch.testing.assert_close(net.coordinates(QUERY, EVERY, start), mean)
    for rows, part, middle in zip(rows_of(net), OFFSETS.split(SIZES, 1), mean.split(SIZES), strict=True):
        torch.testing.assert_close(rows[0], middle)
        codes = (part - part.mean(0)) @ torch.linalg.pinv(rows[1:])
        torch.testing.assert_close(codes.square().mean(0), torch.ones(M - 1), rtol=1e-4, atol=0)
    assert net.gates is None


@torch.no_grad()
def test_without_a_start_none_is_added_to() -> None:
    net = moved(network(residual=False))
    one, other = (net.coordinates(QUERY, EVERY, start) for start in (START, 9 * START))
    assert torch.equal(one, other)


@pytest.mark.parametrize("gated", [True, False])
@torch.no_grad()
def test_one_gate_a_site_scales_the_start_alone(gated: bool) -> None:
    net = moved(network(gated=gated))
    ungated = network(gated=False)
    ungated.load_state_dict(net.state_dict(), strict=not gated)
    gates = []
    for query in (QUERY, -QUERY):
        with_none = net.coordinates(query, EVERY, 0 * START)
        assert with_none.abs().max() > 0.1
        torch.testing.assert_close(with_none, ungated.coordinates(query, EVERY, 0 * START))
        added = (net.coordinates(query, EVERY, START) - with_none) / START
        for part in added.split(SIZES):
            torch.testing.assert_close(part, part[0].expand_as(part), rtol=1e-3, atol=1e-3)
            gates.append(part[0])
    if gated:
        assert all(0 < gate < 2 for gate in gates)
        assert torch.pdist(torch.stack(gates)[:, None]).min() > 1e-3, "a gate a site and a query"
    else:
        torch.testing.assert_close(torch.stack(gates), torch.ones(4), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_what_is_made_lies_in_the_span_of_the_basis_and_a_site_has_coefficients_of_its_own() -> None:
    net = moved(network())
    codes = []
    for query in (QUERY, -QUERY):
        made = net.coordinates(query, EVERY, 0 * START).split(SIZES)
        found = [part @ torch.linalg.pinv(rows) for part, rows in zip(made, rows_of(net), strict=True)]
        for part, code, rows in zip(made, found, rows_of(net), strict=True):
            torch.testing.assert_close(code @ rows, part, rtol=1e-3, atol=1e-3)
        codes += found
    assert torch.pdist(torch.stack(codes)).min() > 0.01


@torch.no_grad()
def test_what_is_absent_does_not_matter_but_that_it_is_absent_does() -> None:
    net, present = moved(network()), torch.tensor([True, False, True, False])
    query = QUERY.clone()
    query[~present] *= 100
    one, other = (net.coordinates(q, present, START) for q in (QUERY, query))
    torch.testing.assert_close(one, other)
    query[~present] = 0
    assert (one - net.coordinates(query, EVERY, START)).abs().max() > 0.01


@torch.no_grad()
def test_many_are_made_as_one_is() -> None:
    net = moved(network())
    queries = torch.randn(3, 4, WIDTH, generator=seeded(5))
    present = torch.rand(3, 4, generator=seeded(6)) > 0.4
    singly = torch.stack([net.coordinates(q, p, START) for q, p in zip(queries, present, strict=True)])
    torch.testing.assert_close(net.coordinates(queries, present, START), singly)


@pytest.mark.parametrize(("size", "most"), [(6, 4), (5, 4)])
def test_a_basis_of_more_directions_than_there_are_is_refused(size: int, most: int) -> None:
    with pytest.raises(ConfigError, match=f"basis of {size} .* 5 experts of 4 coordinates .* at most {most}; set"):
        network(basis_size=size)
    with pytest.raises(ConfigError, match=r"2 experts .* at most 2; set"):
        HyperNetwork(WIDTH, SIZES, HyperConfig(basis_size=3)).begin(OFFSETS[:2], START)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("present", [EVERY, ~EVERY])
def test_gradients_are_finite_where_experts_are_alike(present: Tensor, residual: bool) -> None:
    net = HyperNetwork(WIDTH, SIZES, HyperConfig(basis_size=M, residual=residual))
    net.begin(0 * OFFSETS, 0 * START)
    made = net.coordinates(QUERY, present, START)
    made.square().sum().backward()
    assert made.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_its_folder_is_small_at_the_size_of_the_shipped_zoo() -> None:
    net = HyperNetwork(384, (1536,) * 12, HyperConfig())
    assert sum(t.nbytes for t in compact(network_tensors(net)).values()) < 2_000_000


# --- a zoo of toys --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo(toys, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """The toys' zoo with an adapter for all tasks: somewhat less than the mean of the experts."""
    zoo = Zoo.open(shutil.copytree(toys / "zoo", tmp_path_factory.mktemp("hyper") / "zoo"))
    adapters = [zoo.adapter(expert) for expert in zoo.ids]
    frame = Frame.fit(adapters)
    mean = torch.stack([frame.coordinates(adapter) for adapter in adapters]).mean(0)
    frame.adapter(0.7 * mean, base=zoo.manifest.base, task_type="FEATURE_EXTRACTION").save(zoo.root / MULTITASK)
    return zoo


@pytest.fixture(scope="module")
def encoder(toys) -> TextEncoder:
    return TextEncoder.load(str(toys / "base"))


@pytest.fixture(scope="module")
def base(zoo) -> Base:
    return zoo.load_base()


@pytest.fixture(scope="module")
def config(toys, zoo) -> HyperTrainConfig:
    return HyperTrainConfig(
        generator="hyper",
        zoo=zoo.root,
        encoder=str(toys / "base"),
        tasks=toys / "tasks.yaml",
        out=toys / "out",
        hyper=HyperConfig(basis_size=7, hidden_size=32),
        judged_on=None,
        judged_texts=TESTS,
        weights_steps=20,
        pool=30,
        shots=(1, 4, 100),
        epochs=3,
        steps_per_epoch=10,
        batch_size=16,
        learning_rate=0.01,
        dtype="float32",
    )


def changed(config: HyperTrainConfig, **values: object) -> HyperTrainConfig:
    return HyperTrainConfig.model_validate(config.model_dump() | values)


@pytest.fixture(scope="module")
def material(config, zoo, base) -> Material:
    return prepare(config, zoo, base, KINDS)


@pytest.fixture(scope="module")
def tasks(toys) -> TaskSet:
    return TaskSet.from_yaml(toys / "tasks.yaml")


def network_of(material: Material, **values: object) -> HyperNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = tuple(material.frame.sizes.values())
        net = HyperNetwork(material.keys.shape[-1], sizes, HyperConfig(**{"basis_size": 7, "hidden_size": 32} | values))
    net.begin(material.offsets, material.start)
    return net.eval()


# --- what it is told in training ------------------------------------------------------------------------------------


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


def test_weights_are_learnt_from_the_evidence_of_their_own_tasks(material, config) -> None:
    asked = changed(config, condition_dropout=0, noise=0, shots=(1,))
    one, again, other = (weights_batch(material, asked, rng=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.query, again.query)
    assert not torch.equal(one.query, other.query)
    assert one.query.shape == (32, 4, 16)
    assert set(torch.cat([one.expert, other.expert]).tolist()) == set(range(7))
    for query, present, expert in zip(one.query, one.present, one.expert.tolist(), strict=True):
        states = material.tasks[expert][0].states
        for i, kind in enumerate(KINDS):
            if present[i]:
                own = states[kind].mean(0, keepdim=True) if kind == "labels" else states[kind]
                encoded = (own - material.conditions.centres[i]) / material.conditions.scales[i]
                assert (encoded - query[i]).norm(dim=1).min() < 1e-4
    vague = weights_batch(material, changed(config, condition_dropout=0.5), rng=seeded())
    assert 4 < int((~vague.present.any(1)).sum()) < 28


def everyone(material: Material) -> WeightsBatch:
    """All experts, each with all that is known of its task."""
    n = len(material.keys)
    return WeightsBatch(material.keys, torch.ones(n, 4, dtype=torch.bool), torch.arange(n))


@pytest.mark.parametrize("residual", [True, False])
@torch.no_grad()
def test_the_weights_loss_is_relative_to_the_offsets_site_by_site(material, residual: bool) -> None:
    batch, net = everyone(material), network_of(material, residual=residual)
    objective = WeightsObjective(net, material.offsets, material.start)
    if residual:
        assert float(objective.loss(batch)["loss"]) == pytest.approx(1, rel=1e-4), "the start alone"
    moved(net, 0.1)
    made = torch.stack([net.coordinates(q, p, material.start) for q, p in zip(batch.query, batch.present, strict=True)])
    sizes, missed = list(material.frame.sizes.values()), made - material.start - material.offsets
    ratios = [
        float(error.square().sum() / offset.square().sum())
        for error, offset in zip(missed.split(sizes, 1), material.offsets.split(sizes, 1), strict=True)
    ]
    assert float(objective.loss(batch)["loss"]) == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
    flipped = dataclasses.replace(batch, expert=batch.expert.flip(0))
    assert abs(float(objective.loss(flipped)["loss"]) - float(objective.loss(batch)["loss"])) > 1e-4


def test_experts_move_with_the_network_and_are_no_part_of_its_state(material) -> None:
    net = network_of(material)
    objective = WeightsObjective(net, material.offsets, material.start)
    assert set(objective.state_dict()) == {f"network.{name}" for name in net.state_dict()}
    batch = everyone(material).to(torch.device("meta"))  # refuses to mix with what is not there
    assert copy.deepcopy(objective).to("meta").loss(batch)["loss"].device.type == "meta"


# --- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [True, False])
def test_gradients_reach_the_network_and_nothing_else(material, config, base, residual: bool) -> None:
    net = network_of(material, residual=residual)
    objective = TaskObjective(base, net, material.frame, contrast_weight=1.0)
    assert {id(p) for p in objective.parameters()} == {id(p) for p in net.parameters()}
    assert set(objective.state_dict()) == {f"maker.{name}" for name in net.state_dict()}
    (batch,) = episodes(material, changed(config, steps_per_epoch=1, evidence_dropout=0), rng=seeded())
    objective.loss(batch)["loss"].backward()
    assert net.coefficients.weight.grad.abs().max() > 0, "at first the last layer moves, and then the others"
    net.zero_grad()
    objective = TaskObjective(base, moved(net, 0.1), material.frame, contrast_weight=1.0)
    objective.loss(batch)["loss"].backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    others = [
        *base.model.parameters(),
        *material.frame.lora_A.values(),
        material.keys,
        material.offsets,
        batch.start,
    ]
    assert all(tensor.grad is None for tensor in others)


# --- training -------------------------------------------------------------------------------------------------------


def states(generator: Hyper) -> dict[str, Tensor]:
    return generator.network.state_dict()


def assert_near(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-5, rtol=1e-5)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


@pytest.mark.parametrize("residual", [True, False])
def test_on_weights_alone_it_learns_to_give_every_expert_back(
    config, zoo, encoder, material, monkeypatch, residual
) -> None:
    monkeypatch.setattr(TaskObjective, "loss", lambda *_: pytest.fail("a forward pass through the base"))
    asked = changed(config, objective="weights", weights_steps=150, steps_per_epoch=50, noise=0.05)
    asked = changed(asked, hyper=asked.hyper.model_copy(update={"residual": residual}))
    generator, history = fit_hyper(asked, zoo, encoder)
    assert len(history) == 150
    assert (generator.manifest.epochs, generator.manifest.worth) == (3, ())
    net, batch = generator.network, everyone(material)
    objective = WeightsObjective(net, material.offsets, material.start)
    before = WeightsObjective(network_of(material, residual=residual), material.offsets, material.start)
    with torch.no_grad():
        assert objective.loss(batch)["loss"] < 0.5 * before.loss(batch)["loss"]
        made = net.coordinates(batch.query, batch.present, material.start) - material.start
    nearest = torch.cdist(made, material.offsets).argmin(1).tolist()
    labels = [material.tasks[expert][0].data.label_ids for expert in range(7)]
    assert [labels[expert] for expert in nearest] == labels, "told apart, but for tasks of the same words"
    assert distance(states(generator), network_of(material, residual=residual).state_dict()) > 0.01


@pytest.fixture(scope="module")
def fitted(config, zoo, encoder) -> dict[tuple[str, bool], tuple[Hyper, list[dict[str, float]]]]:
    """By what it was trained on, and whether left-out tasks chose the epoch."""
    return {
        (objective, is_judged): fit_hyper(
            changed(config, objective=objective, judged_on="validation" if is_judged else None), zoo, encoder
        )
        for objective, is_judged in (("task", False), ("both", True), ("weights", True))
    }


@pytest.fixture(scope="module")
def generator(fitted) -> Hyper:
    return fitted["task", False][0]


def test_training_lowers_the_loss_of_tasks(fitted, config, material, base) -> None:
    generator, history = fitted["task", False]
    assert len(history) == 30
    assert history[0].keys() == {"loss", "label_text", "contrast"}
    assert (generator.manifest.epochs, generator.manifest.worth) == (3, ())
    fresh = episodes(material, changed(config, steps_per_epoch=100), rng=seeded(99))
    means = []
    for net in (network_of(material), generator.network):
        objective = TaskObjective(base, net, material.frame, contrast_weight=1.0)
        with torch.no_grad():
            means.append(sum(float(objective.loss(batch)["loss"]) for batch in fresh) / len(fresh))
    assert means[1] < 0.9 * means[0]


def test_training_is_seeded_and_leaves_the_random_state_alone(config, zoo, encoder) -> None:
    short = changed(config, epochs=1, steps_per_epoch=3, weights_steps=3, objective="both")
    found = []
    for around, seed in ((7, 0), (8, 0), (8, 1)):
        torch.manual_seed(around)
        before = torch.get_rng_state()
        found.append(fit_hyper(changed(short, seed=seed), zoo, encoder))
        assert torch.equal(torch.get_rng_state(), before)
    one, again, other = found
    assert_near(states(one[0]), states(again[0]))
    assert distance(states(one[0]), states(other[0])) > 0.01


def test_the_noise_of_every_epoch_is_its_own(config, zoo, encoder, monkeypatch) -> None:
    told = []

    def watched(*args: object, **options: object) -> tuple[Tensor, Tensor]:
        query, present = disturbed(*args, **options)
        told.append((args[0], query, present))
        return query, present

    monkeypatch.setattr(hyper_fit, "disturbed", watched)
    asked = changed(config, objective="both", weights_steps=2, steps_per_epoch=2, epochs=2, evidence_dropout=0)
    fit_hyper(changed(asked, condition_dropout=0), zoo, encoder)
    assert len(told) == 2 * 32 + 2 * 2
    noises = torch.stack([(query - plain).flatten() for plain, query, _ in told])
    assert float(noises.std()) == pytest.approx(0.1, rel=0.1)
    assert torch.pdist(noises).min() > 0.1


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    ("objective", "is_judged", "at"),
    [("task", False, 15), ("both", True, 5), ("both", True, 41), ("weights", True, 15)],
)
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    fitted, config, zoo, encoder, tmp_path, objective: str, is_judged: bool, at: int
) -> None:
    def stop(step: int) -> None:
        if step == at:
            raise Interrupted

    asked = changed(config, objective=objective, judged_on="validation" if is_judged else None)
    with pytest.raises(Interrupted):
        fit_hyper(asked, zoo, encoder, checkpoints=tmp_path, on_step=stop)
    steps: list[int] = []
    resumed, history = fit_hyper(asked, zoo, encoder, checkpoints=tmp_path, on_step=steps.append)
    assert steps == list(range(1 + (at - 1) // 10 * 10, asked.steps + 1)), "from the last whole epoch on"
    assert {path.name for path in tmp_path.iterdir()} == ({"weights", "task"} if objective == "both" else {objective})
    whole, whole_history = fitted[objective, is_judged]
    assert_near(states(resumed), states(whole))
    assert len(whole.manifest.worth) == {"task": 0, "both": 4, "weights": 3}[objective]
    assert (resumed.manifest.worth, resumed.manifest.epochs) == (whole.manifest.worth, whole.manifest.epochs)
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in whole_history], abs=1e-5)


def valued(monkeypatch, *values: float) -> list[dict[str, Tensor]]:
    """Let the judge say these values, in turn; returns the networks it saw."""
    seen: list[dict[str, Tensor]] = []

    def worth(_judge: Judge, maker: HyperNetwork) -> float:
        seen.append(copy.deepcopy(maker.state_dict()))
        return values[len(seen) - 1]

    monkeypatch.setattr(Judge, "worth", worth)
    return seen


@pytest.mark.parametrize(
    ("objective", "values", "best"),
    [("task", (0.5, 0.4), 0), ("task", (0.1, 0.4), 1), ("both", (0.5, 0.4), 0), ("weights", (0.3, 0.2, 0.4), 2)],
)
def test_the_last_training_is_judged_and_its_best_epoch_kept(
    config, zoo, encoder, material, monkeypatch, objective: str, values: tuple[float, ...], best: int
) -> None:
    seen = valued(monkeypatch, *values)
    asked = changed(config, objective=objective, epochs=1, steps_per_epoch=2, weights_steps=4, judged_on="validation")
    generator, _ = fit_hyper(asked, zoo, encoder)
    assert len(seen) == len(values)
    at_first = distance(seen[0], network_of(material).state_dict())
    assert at_first > 1e-3 if objective == "both" else at_first == 0, "after the training on weights"
    assert distance(seen[0], seen[-1]) > 1e-3
    kept = {name: value.bfloat16().float() if value.ndim > 1 else value for name, value in seen[best].items()}
    assert distance(states(generator), kept) == 0
    assert (generator.manifest.epochs, generator.manifest.worth) == (best, values)


def test_it_is_judged_as_it_generates(config, material, base, tasks) -> None:
    net = moved(network_of(material, dropout=0.9), 0.1)
    judge = Judge.of(tasks.split("validation"), config, material, base)
    seen = []
    made = net.register_forward_hook(lambda _net, _args, coordinates: seen.append(coordinates))
    judge.worth(net.train())
    assert net.training
    assert all(module.training for module in net.modules())
    made.remove()
    with torch.no_grad():
        wanted = [net.eval()(batch) for _, *told in judge.tasks for batch in told]
    torch.testing.assert_close(seen, wanted)


def test_a_basis_larger_than_the_zoo_is_refused(config, zoo, encoder) -> None:
    with pytest.raises(ConfigError, match=r"basis of 16 directions .* 7 experts .* 'hyper.basis_size' to 7 or less"):
        fit_hyper(changed(config, hyper=HyperConfig()), zoo, encoder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "both", "weights_steps": 0}, "weights_steps"),
        ({"objective": "adapters"}, "objective"),
        ({"condition_dropout": 1.0}, "condition_dropout"),
        ({"noise": -0.1}, "noise"),
        ({"hyper": {"basis_size": 0}}, "basis_size"),
        ({"hyper": {"dropout": 1.0}}, "dropout"),
        ({"hyper": {"evidence": []}}, "evidence"),
    ],
)
def test_configs_that_cannot_be_trained_are_refused(config, tmp_path, values: dict, message: str) -> None:
    path = tmp_path / "hyper.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json") | values))
    with pytest.raises(ConfigError, match=message):
        read_config(path)


@pytest.mark.parametrize(
    ("objective", "weights_steps", "steps"),
    [("task", 25, 30), ("weights", 25, 30), ("weights", 7, 7), ("both", 25, 60)],
)
def test_steps_are_those_of_all_trainings(config, objective: str, weights_steps: int, steps: int) -> None:
    assert changed(config, objective=objective, weights_steps=weights_steps).steps == steps


# --- generating -----------------------------------------------------------------------------------------------------


def made_by(generator: Hyper, condition: Condition) -> Lora:
    (generation,) = generator.generate(condition, rng=seeded())
    return generation.adapter


def deltas(adapter: Lora) -> Tensor:
    return torch.cat([adapter.delta_weight(site).flatten() for site in sorted(adapter.sites)])


@pytest.fixture(scope="module")
def asked(generator, encoder) -> Condition:
    return Conditioner.of(generator, encoder).condition("Is it bread or cold soup?")


@pytest.fixture(scope="module")
def folder(generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(generator, tmp_path_factory.mktemp("generators") / "hyper")


def saved(generator: Hyper, folder: Path) -> Path:
    for name, content in generator.files().items():
        atomic_write(folder / name, content)
    return folder


def test_untrained_it_makes_the_adapter_for_all_tasks(generator, asked, material, zoo) -> None:
    untrained = dataclasses.replace(generator, network=network_of(material))
    torch.testing.assert_close(deltas(made_by(untrained, asked)), deltas(zoo.multitask()))
    assert (deltas(made_by(generator, asked)) - deltas(zoo.multitask())).abs().max() > 1e-3


def test_all_experts_have_equal_shares_nearest_first(generator, asked, zoo, encoder) -> None:
    (generation,) = generator.generate(asked, rng=seeded())
    index = ExpertIndex.of(zoo, encoder).index
    wanted = [(hit.id, hit.similarity, 1 / 7) for hit in index.search(asked.embedding, 7)]
    assert [(n.id, n.similarity, n.weight) for n in generation.neighbours] == wanted
    assert generation.adapter.settings.base_model_name_or_path == zoo.manifest.base
    assert generation.adapter.settings.task_type == "FEATURE_EXTRACTION"
    assert generation.adapter.spec == zoo.adapter("meals").spec


def test_nothing_is_drawn_at_random(generator, asked) -> None:
    assert not generator.is_stochastic
    one, other = (generator.generate(asked, rng=seeded(seed), num_samples=2) for seed in (0, 1))
    assert len(one) == 2
    assert all(torch.equal(deltas(one[0].adapter), deltas(made.adapter)) for made in (*one, *other))


def test_every_kind_of_evidence_is_heard(generator, encoder, tasks) -> None:
    conditioner = Conditioner.of(generator, encoder)
    labelled = Support.of(tasks["ovens"], tasks["ovens"].load_test().subset(range(8)))
    told = [{}, {"labels": ("bread", "warm")}, {"support": Support(labelled.texts)}, {"support": labelled}]
    made = [deltas(made_by(generator, conditioner.condition("Which is it?", **values))) for values in told]
    assert torch.pdist(torch.stack(made)).min() > 1e-3


def test_without_evidence_it_reads_it_refuses(generator, encoder) -> None:
    embedding = encoder.encode(["soup"])[0]
    with pytest.raises(GeneratorError, match=r"reads description or labels or texts or examples, .* no task vector"):
        generator.generate(Condition("soup", embedding), rng=seeded())
    deaf = generator.manifest.model_copy(update={"config": HyperConfig(evidence=("texts",))})
    with pytest.raises(GeneratorError, match="reads texts, but the condition holds description; give a few"):
        dataclasses.replace(generator, manifest=deaf).generate(
            Condition("soup", embedding, {"description": torch.zeros(16)}), rng=seeded()
        )


@pytest.mark.parametrize("values", [{}, {"gated": False}, {"residual": False}])
def test_saved_and_loaded_it_makes_the_same_adapter(config, zoo, encoder, asked, tmp_path, values: dict) -> None:
    short = changed(config, epochs=1, steps_per_epoch=2, hyper=config.hyper.model_copy(update=values))
    trained, _ = fit_hyper(short, zoo, encoder)
    loaded = Hyper.load(saved(trained, tmp_path / "hyper"))
    assert loaded.manifest == trained.manifest
    assert {p.name for p in (tmp_path / "hyper").iterdir()} == {
        "generator.yaml",
        "generator.safetensors",
        "frame.safetensors",
    }
    (one,), (other,) = (g.generate(asked, rng=seeded()) for g in (trained, loaded))
    assert one.adapter.spec == other.adapter.spec
    assert torch.equal(deltas(one.adapter), deltas(other.adapter))
    assert one.neighbours == other.neighbours
    assert load_file(tmp_path / "hyper" / "generator.safetensors")["network.basis"].dtype == torch.bfloat16


@pytest.mark.parametrize("damage", ["none there", "truncated", "part", "other", "kind", "frame"])
def test_a_damaged_generator_is_refused(folder, tmp_path, damage: str) -> None:
    broken = shutil.copytree(folder, tmp_path / "hyper")
    tensors, manifest = broken / "generator.safetensors", broken / "generator.yaml"
    match damage:
        case "none there":
            shutil.rmtree(broken)
        case "truncated":
            tensors.write_bytes(tensors.read_bytes()[:-10])
        case "part":
            save_file({n: t for n, t in load_file(tensors).items() if n != "start"}, tensors)
        case "other":
            manifest.write_text(manifest.read_text().replace("basis_size: 7", "basis_size: 3"))
        case "kind":
            manifest.write_text(manifest.read_text().replace("kind: hyper", "kind: sg"))
        case "frame":
            (broken / "frame.safetensors").unlink()
    with pytest.raises(GeneratorError, match=r"(?s)does not hold a whole hyper generator .*train it again"):
        Hyper.load(broken)


def test_it_cannot_leave_experts_out(folder, zoo, encoder) -> None:
    with pytest.raises(GeneratorError, match=r"--licence does not apply .* learnt from all experts"):
        open_generator(str(folder), zoo, encoder, licences=["mit"])
    with pytest.raises(GeneratorError, match="--top-k does not apply"):
        open_generator(str(folder), zoo, encoder, top_k=2)


# --- as a command ---------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_generator_that_opens(fitted, config, zoo, encoder, tmp_path) -> None:
    path, out = tmp_path / "hyper.yaml", tmp_path / "out"
    path.write_text(changed(config, objective="both", judged_on="validation").to_yaml())
    asked = read_config(path, [f"out={out}"])

    def stop(step: int) -> None:
        if step == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_generator(asked, on_step=stop)
    with pytest.raises(GeneratorError, match="unfinished run with other settings"):
        train_generator(changed(asked, noise=0.2))
    trained = train_generator(asked)
    assert trained.experts == zoo.ids
    assert trained.final.keys() == {"loss", "label_text", "contrast"}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [], "no state is left"
    assert len(json.loads((out / LOSSES).read_text())) == 30
    generator = open_generator(str(out), zoo, encoder)
    assert isinstance(generator, Hyper)
    assert_near(states(generator), states(fitted["both", True][0]))
    assert generator.manifest.worth == fitted["both", True][0].manifest.worth
