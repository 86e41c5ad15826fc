"""The hypernetwork in training: on weights, through the base, or on the one and then the other."""

import copy
import json

import pytest
import torch
from hyper_toys import (
    assert_near,
    changed,
    distance,
    everyone,
    moved,
    network_of,
    seeded,
    states,
    with_more,
)
from torch import Tensor

from loragen.errors import ConfigError, GeneratorError
from loragen.evaluation.workspace import refuse_learnt
from loragen.generation import Pipeline
from loragen.generators.hyper import fit as hyper_fit
from loragen.generators.hyper.episodes import episodes
from loragen.generators.hyper.fit import (
    WeightsObjective,
    disturbed,
    fit_hyper,
)
from loragen.generators.hyper.judged_fit import Judge
from loragen.generators.hyper.model import Hyper, HyperConfig, HyperNetwork
from loragen.generators.hyper.task_loss import TaskBatch, TaskObjective
from loragen.generators.registry import open_generator
from loragen.generators.train import LOSSES, read_config, train_generator

# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [True, False])
def test_on_weights_alone_it_learns_to_give_every_expert_back(
    config, zoo, encoder, data, monkeypatch, residual
) -> None:
    monkeypatch.setattr(TaskObjective, "loss", lambda *_: pytest.fail("a forward pass through the base"))
    asked = changed(config, objective="weights", weights_steps=150, steps_per_epoch=50, noise=0.05)
    asked = changed(asked, hyper=asked.hyper.model_copy(update={"residual": residual}))
    generator, history = fit_hyper(asked, zoo, encoder)
    assert len(history) == 150
    assert (generator.manifest.epochs, generator.manifest.worth) == (3, ())
    net, batch = generator.network, everyone(data)
    objective = WeightsObjective(net, data.offsets, data.start)
    before = WeightsObjective(network_of(data, residual=residual), data.offsets, data.start)
    with torch.no_grad():
        assert objective.loss(batch)["loss"] < 0.5 * before.loss(batch)["loss"]
        made = net.coordinates(batch.query, batch.present, data.start) - data.start
    nearest = torch.cdist(made, data.offsets).argmin(1).tolist()
    labels = [data.tasks[expert][0].data.label_ids for expert in range(7)]
    assert [labels[expert] for expert in nearest] == labels, "told apart, but for tasks of the same words"
    assert distance(states(generator), network_of(data, residual=residual).state_dict()) > 0.01


@pytest.fixture(scope="module")
def fitted(config, zoo, encoder) -> dict[tuple[str, bool], tuple[Hyper, list[dict[str, float]]]]:
    """By what it was trained on, and whether left-out tasks chose the epoch."""
    return {
        (objective, is_judged): fit_hyper(
            changed(config, objective=objective, judged_on="validation" if is_judged else None), zoo, encoder
        )
        for objective, is_judged in (("task", False), ("both", True), ("weights", True))
    }


def test_training_lowers_the_loss_of_tasks(fitted, config, data, base) -> None:
    generator, history = fitted["task", False]
    assert len(history) == 30
    assert history[0].keys() == {"loss", "label_text", "contrast"}
    assert (generator.manifest.epochs, generator.manifest.worth) == (3, ())
    fresh = episodes(data, changed(config, steps_per_epoch=100), rng=seeded(99))
    means = []
    for net in (network_of(data), generator.network):
        objective = TaskObjective(base, net, data.frame, contrast_weight=1.0)
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


def test_every_epoch_of_every_seed_has_its_own_episodes(config, zoo, encoder, monkeypatch) -> None:
    drawn = []

    def watched(*args: object, **options: object) -> list[TaskBatch]:
        batches = episodes(*args, **options)
        drawn.append(tuple(map(tuple, batches[0].data.ids)))
        return batches

    monkeypatch.setattr(hyper_fit, "episodes", watched)
    for seed in (0, 1):
        fit_hyper(changed(config, steps_per_epoch=1, seed=seed), zoo, encoder)
    assert len(set(drawn)) == 2 * 3


def test_task_vectors_are_read_in_float32_whatever_the_loss_is_computed_in(config, zoo, encoder, data) -> None:
    short = changed(config, epochs=1, steps_per_epoch=1)
    rough, plain = (fit_hyper(changed(short, dtype=dtype), zoo, encoder) for dtype in ("bfloat16", "float32"))
    torch.testing.assert_close(rough[0].conditions.centres, data.conditions.centres)
    assert rough[1][0]["loss"] == pytest.approx(plain[1][0]["loss"], rel=0.05)
    assert rough[1][0]["loss"] != plain[1][0]["loss"]


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

    def worth(_judge: Judge, network: HyperNetwork) -> float:
        seen.append(copy.deepcopy(network.state_dict()))
        return values[len(seen) - 1]

    monkeypatch.setattr(Judge, "worth", worth)
    return seen


@pytest.mark.parametrize(
    ("objective", "values", "best"),
    [("task", (0.5, 0.4), 0), ("task", (0.1, 0.4), 1), ("both", (0.5, 0.4), 0), ("weights", (0.3, 0.2, 0.4), 2)],
)
def test_the_last_training_is_judged_and_its_best_epoch_kept(
    config, zoo, encoder, data, monkeypatch, objective: str, values: tuple[float, ...], best: int
) -> None:
    seen = valued(monkeypatch, *values)
    asked = changed(config, objective=objective, epochs=1, steps_per_epoch=2, weights_steps=4, judged_on="validation")
    generator, _ = fit_hyper(asked, zoo, encoder)
    assert len(seen) == len(values)
    at_first = distance(seen[0], network_of(data).state_dict())
    assert at_first > 1e-3 if objective == "both" else at_first == 0, "after the training on weights"
    assert distance(seen[0], seen[-1]) > 1e-3
    kept = {name: value.bfloat16().float() if value.ndim > 1 else value for name, value in seen[best].items()}
    assert distance(states(generator), kept) == 0
    assert (generator.manifest.epochs, generator.manifest.worth) == (best, values)


@pytest.mark.parametrize(("objective", "learnt"), [("task", ("canteen",)), ("weights", ())])
def test_what_it_has_learnt_from_without_an_expert_is_not_evaluated(
    toys, config, zoo, encoder, tmp_path, objective: str, learnt: tuple[str, ...]
) -> None:
    asked = changed(with_more(config, toys, tmp_path, canteen="menus"), objective=objective, epochs=1, weights_steps=1)
    generator, _ = fit_hyper(changed(asked, steps_per_epoch=1), zoo, encoder)
    assert generator.manifest.more_tasks == learnt
    pipelines = {"hyper": Pipeline("hyper", zoo, encoder, generator)}
    refuse_learnt(pipelines, ["menus"])
    if learnt:
        with pytest.raises(GeneratorError, match=r"hyper was trained on the texts of canteen \('more_tasks'\)"):
            refuse_learnt(pipelines, ["menus", "canteen"])
    else:
        refuse_learnt(pipelines, ["menus", "canteen"])


def test_it_is_judged_as_it_generates(config, data, base, tasks) -> None:
    net = moved(network_of(data, dropout=0.9), 0.1)
    judge = Judge.of(tasks.split("validation"), config, data, base)
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
