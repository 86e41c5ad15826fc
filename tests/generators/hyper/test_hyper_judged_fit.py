"""The loss through the frozen base, and left-out tasks as judges of the epoch."""

import pytest
import torch
from hyper_toys import KINDS, changed, moved, network_of, seeded, with_folds

from loragen.bases.losses import contrast_loss, label_text_loss
from loragen.errors import ConfigError, TaskError
from loragen.generators.hyper.data import read_experts
from loragen.generators.hyper.episodes import episodes
from loragen.generators.hyper.fit import (
    fit_hyper,
)
from loragen.generators.hyper.judged_fit import Candidates, Judge
from loragen.generators.hyper.task_loss import TaskObjective


@pytest.mark.parametrize("residual", [True, False])
def test_gradients_reach_the_network_and_nothing_else(data, config, base, residual: bool) -> None:
    net = network_of(data, residual=residual)
    objective = TaskObjective(base, net, data.frame, contrast_weight=1.0)
    assert {id(p) for p in objective.parameters()} == {id(p) for p in net.parameters()}
    assert set(objective.state_dict()) == {f"network.{name}" for name in net.state_dict()}
    (batch,) = episodes(data, changed(config, steps_per_epoch=1, evidence_dropout=0), rng=seeded())
    objective.loss(batch)["loss"].backward()
    assert net.coefficients.weight.grad.abs().max() > 0, "at first the last layer moves, and then the others"
    net.zero_grad()
    objective = TaskObjective(base, moved(net, 0.1), data.frame, contrast_weight=1.0)
    objective.loss(batch)["loss"].backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    others = [
        *base.model.parameters(),
        *data.frame.lora_A.values(),
        data.keys,
        data.offsets,
        batch.start,
    ]
    assert all(tensor.grad is None for tensor in others)


@pytest.mark.parametrize("contrast_weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("is_trained", [False, True])
def test_the_loss_is_that_of_the_adapter_that_is_generated(data, config, base, contrast_weight, is_trained) -> None:
    net = moved(network_of(data), 0.1) if is_trained else network_of(data)
    objective = TaskObjective(base, net, data.frame, contrast_weight=contrast_weight)
    for batch in episodes(data, changed(config, steps_per_epoch=4), rng=seeded()):
        found, bare = objective.loss(batch), base.losses(batch.data, contrast_weight=contrast_weight)
        with base.adapted(data.frame.adapter(net(batch).detach(), base=None)):
            texts, labels = base.encode(batch.data.ids), base.encode(batch.data.label_ids)
        label_text = label_text_loss(texts, labels, batch.data.targets)
        contrast = contrast_loss(texts, batch.data.targets)
        torch.testing.assert_close(found["label_text"], label_text)
        if contrast_weight:
            torch.testing.assert_close(found["contrast"], contrast)
        torch.testing.assert_close(found["loss"], label_text + contrast_weight * contrast)
        assert (label_text - bare["label_text"]).abs() > 1e-3, "the adapter is in use, and gone afterwards"


# --- the judge ------------------------------------------------------------------------------------------------------


def test_candidates_outlive_their_process(tmp_path) -> None:
    for folder in (tmp_path / "state", None):
        kept = Candidates(folder)
        for epoch, worth in enumerate((0.1, 0.3, 0.2)):
            kept.add(epoch, worth, {"a": torch.tensor(float(epoch))})
        for candidates in (kept, Candidates(folder)) if folder else (kept,):
            epoch, state = candidates.best()
            assert (epoch, float(state["a"])) == (1, 1.0)
            assert candidates.worth == {0: 0.1, 1: 0.3, 2: 0.2}


def test_of_equals_the_first_candidate_is_best() -> None:
    candidates = Candidates(None)
    for epoch, worth in ((0, 0.1), (1, 0.4), (2, 0.3), (3, 0.4)):
        candidates.add(epoch, worth, {"a": torch.tensor(float(epoch))})
    assert candidates.best()[0] == 1


def test_a_network_is_worth_its_scores_and_what_another_description_costs(config, data, tasks, zoo, base) -> None:
    net, left_out = moved(network_of(data), 0.3), tasks.split("validation")
    present = torch.tensor([kind == "description" for kind in KINDS])
    found = []
    for task, other in zip(left_out, (*left_out[1:], left_out[0]), strict=True):
        texts, scores = base.prepare(task.load_test(), max_length=64), []
        for asked in (task, other):
            with torch.no_grad():
                coordinates = net.coordinates(data.query(asked.description), present, data.start)
            scores.append(base.score(texts, data.frame.adapter(coordinates, base=None)))
        right, wrong = ((score.accuracy + score.knn_accuracy) / 2 for score in scores)
        found.append(2 * right - wrong)
    judge = Judge.of(left_out, config, data, base)
    assert judge.worth(net) == pytest.approx(sum(found) / len(found))


def test_left_out_tasks_are_judged_from_the_start_that_is_generated_from(config, zoo, base, tasks, tmp_path) -> None:
    data = read_experts(config, with_folds(zoo, tmp_path / "zoo"), base, ("description",))
    judge = Judge.of(tasks.split("validation"), config, data, base)
    assert all(torch.equal(batch.start, data.start) for _, *batches in judge.tasks for batch in batches)
    assert data.start.any()
    assert not torch.equal(data.start, data.origin)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"judged_on": "one"}, ConfigError, "'one' holds 1 tasks to judge on; at least two"),
        ({"judged_on": "known"}, ConfigError, "'known' is to be judged on, but experts of .* were trained on cups;"),
        ({"judged_on": "nowhere"}, TaskError, "no split 'nowhere'"),
        ({"hyper": {"evidence": ["texts"]}}, ConfigError, "the evidence is texts; add the description"),
    ],
)
def test_tasks_that_cannot_be_judged_on_are_refused(config, zoo, encoder, values, error, message) -> None:
    with pytest.raises(error, match=message):
        fit_hyper(changed(config, **{"judged_on": "validation"} | values), zoo, encoder)
