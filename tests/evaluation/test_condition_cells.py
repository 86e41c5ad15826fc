"""Rows and cells that show whether the description matters, on the tiny evaluation."""

from collections import Counter
from itertools import permutations

import pytest
import torch
from evaluation_toys import Evaluation, changed, direct, first_of, interrupt_after, reopened, state, timeless

from loragen.adapters.combine import weighted_sum
from loragen.conditions.condition import Evidence
from loragen.confidence.expected import ExpectedGain
from loragen.errors import ConfigError
from loragen.evaluation.cells import CELLS, CellFile
from loragen.evaluation.config import BASE, ORACLE, RANDOM, EvaluateConfig, mean_output
from loragen.evaluation.controls import MADE_FOR, RIGHT
from loragen.evaluation.evaluate import evaluate_cells, evaluate_generators
from loragen.evaluation.methods import adapter_of
from loragen.evaluation.run_record import RUN, RunRecord
from loragen.evaluation.workspace import Workspace

MEAN = mean_output("sg")
SOME = {"generators": ("topk", "sg"), "instructed": None, "with_controls": False, "unrelated": 0}


def dense(adapter):
    return torch.cat([adapter.delta_weight(site).flatten() for site in adapter.sites]).double()


@pytest.fixture(scope="module")
def checked(whole, config, tmp_path_factory) -> Evaluation:
    """An evaluation with all that is asked about the condition, after one without."""
    out = tmp_path_factory.mktemp("checked") / "out"
    with pytest.MonkeyPatch.context() as own:
        own.setattr(Workspace, "open", lambda config: reopened(whole.workspace, config))
        _, before = evaluate_cells(changed(config, out=out, **SOME))
        kept, steps = (out / CELLS).read_bytes(), []
        condition = {"means": ("sg",), "others": 2}
        workspace, cells = evaluate_cells(
            changed(config, out=out, condition=condition, **SOME), lambda *step: steps.append(step)
        )
    assert (out / CELLS).read_bytes().startswith(kept), "cells that were there are as they were"
    assert [cell for cell in cells if cell in before] == before, "seconds and all"
    assert steps[0] == ("adapters", len(before), len(cells))
    assert steps[-1] == ("adapters", len(cells), len(cells))
    return Evaluation(workspace, cells, {}, steps)


# --- which cells ---


def test_every_new_cell_is_there_once(checked):
    by_kind = Counter(
        (cell.method, cell.control.startswith(MADE_FOR)) for cell in checked.cells if cell.method not in (BASE, ORACLE)
    )
    tasks = len(checked.workspace.tasks)
    assert by_kind["sg", True] == by_kind["topk", True] == 2 * tasks
    assert by_kind["sg", False] == by_kind[RANDOM, False] == 2 * tasks, "drawn anew by seed"
    assert by_kind["topk", False] == by_kind[MEAN, False] == tasks
    assert len({cell.key for cell in checked.cells}) == len(checked.cells)
    assert checked.workspace.methods[-3:] == (MEAN, RANDOM, ORACLE)


def test_a_task_is_never_among_the_others_and_more_others_hold_the_fewer(checked, whole, config, tmp_path, monkeypatch):
    drawn = {task.id: [] for task in checked.workspace.tasks}
    for cell in checked.cells:
        if cell.method == "sg" and cell.control.startswith(MADE_FOR):
            drawn[cell.task].append(cell.control.removeprefix(MADE_FOR))
    assert all(task not in others and len(set(others)) == 2 for task, others in drawn.items())
    monkeypatch.setattr(Workspace, "open", lambda config: reopened(whole.workspace, config))
    condition = {"means": (), "random_experts": False, "others": 10}
    _, cells = evaluate_cells(changed(config, out=tmp_path / "more", condition=condition, **SOME))
    for task, others in drawn.items():
        more = [c.control.removeprefix(MADE_FOR) for c in cells if (c.task, c.method) == (task, "sg")][2:]
        assert more[:2] == others
        assert {*more} == drawn.keys() - {task}


# --- which adapters ---


@pytest.mark.parametrize("method", ["topk", "sg"])
def test_adapters_made_for_others_are_scored_on_the_first_texts_of_the_task(checked, method):
    workspace, tasks = checked.workspace, {task.id: task for task in checked.workspace.tasks}
    for cell in checked.cells:
        if cell.method == method and cell.control.startswith(MADE_FOR):
            other = tasks[cell.control.removeprefix(MADE_FOR)]
            adapter = workspace.pipelines[method].generate(Evidence(other.description), seed=3)[0].adapter
            assert cell.short == workspace.base.score(first_of(tasks[cell.task], workspace.base), adapter)
            assert (cell.scores, cell.seed) == (None, 3)


def test_the_mean_output_is_that_of_the_experts_descriptions(checked):
    workspace = checked.workspace
    pipeline, experts = workspace.pipelines["sg"], list(workspace.zoo.select(splits={"experts"}))
    made = [pipeline.generate(Evidence(card.description), seed=i)[0].adapter for i, card in enumerate(experts)]
    adapter = workspace.mean_outputs[MEAN]
    assert torch.allclose(dense(adapter), torch.stack([dense(one) for one in made]).mean(0), atol=1e-6)
    cells = [cell for cell in checked.cells if cell.method == MEAN]
    assert len({cell.adapter for cell in cells}) == 1, "one adapter for all tasks"
    for task, cell in zip(workspace.tasks, cells, strict=True):
        assert (cell.scores, cell.short) == direct(workspace, task, adapter)


def test_random_experts_have_the_weights_and_the_norm_of_topk(checked):
    workspace = checked.workspace
    ids = workspace.zoo.select(splits={"experts"}).ids
    adapters = {expert: workspace.zoo.adapter(expert) for expert in ids}
    for task in workspace.tasks:
        like = workspace.pipelines["topk"].generate(Evidence(task.description))[0]
        weights = [neighbour.weight for neighbour in like.neighbours]
        mixtures = [
            dense(weighted_sum([adapters[expert] for expert in drawn], weights))
            for drawn in permutations(ids, len(weights))
        ]
        for seed in (3, 5):
            met = adapter_of(workspace, task, RANDOM, task.description, seed)
            assert met.norm() == pytest.approx(like.adapter.norm(), rel=1e-5)
            cosines = [float(torch.cosine_similarity(dense(met), mixture, dim=0)) for mixture in mixtures]
            assert max(cosines) == pytest.approx(1, abs=1e-5), "different experts with those weights"
            cell = checked.cell(task.id, RANDOM, seed=seed)
            assert (cell.scores, cell.short) == direct(workspace, task, met)


def test_chance_does_not_always_draw_the_same(checked):
    assert len({cell.adapter for cell in checked.cells if cell.method == RANDOM}) > len(checked.workspace.tasks)


# --- settings ---


@pytest.mark.parametrize(
    ("values", "lacking"),
    [
        ({"generators": ("sg", "nearest")}, "topk"),
        ({"generators": ("topk",)}, "sg"),
        ({"generators": ("nearest",)}, "sg, topk"),
    ],
)
def test_what_is_asked_about_must_be_evaluated(config, values, lacking):
    with pytest.raises(ValueError, match=f"'condition' needs {lacking}, not among 'generators'"):
        changed(config, condition={}, **values)


def test_what_is_not_asked_for_needs_no_generator(config):
    condition = {"means": (), "random_experts": False}
    assert changed(config, condition=condition, generators=("nearest",)).condition.others == 10


def test_the_records_of_before_are_accepted_and_hold_the_new_rows(checked):
    record = RunRecord.from_yaml(checked.workspace.config.out / RUN)
    assert {MEAN, RANDOM} < record.rows.keys()
    assert "condition" not in record.settings


def test_the_mean_of_another_generator_is_refused(checked, monkeypatch):
    out, record = checked.workspace.config.out, RunRecord.from_yaml(checked.workspace.config.out / RUN)
    before = state(out)
    other = record.model_copy(update={"rows": record.rows | {MEAN: "of another"}})
    monkeypatch.setattr("loragen.evaluation.run_record.record_of", lambda _workspace: other)
    monkeypatch.setattr(Workspace, "open", lambda config: reopened(checked.workspace, config))
    with pytest.raises(ConfigError, match=rf"adapters \({MEAN}\)"):
        evaluate_cells(checked.workspace.config)
    assert state(out) == before


# --- what is expected ---


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, str]]:
    """Expectations of sg alone, and of which adapters they were asked."""
    calls = []

    def expect(_workspace, method, task, _adapter):
        calls.append((method, task.id))
        return ExpectedGain(gain=0.1, low=0.0, high=0.3, knows="labels")

    monkeypatch.setattr(Workspace, "expects", lambda _workspace, method: method == "sg")
    monkeypatch.setattr(Workspace, "expect", expect)
    return calls


@pytest.fixture
def plain(here) -> EvaluateConfig:
    return changed(here, **(SOME | {"with_controls": True}))


def test_nothing_is_expected_as_long_as_nobody_says_what(whole):
    assert all(cell.expected is None for cell in whole.cells)
    task = whole.workspace.tasks[0]
    assert not whole.workspace.expects("sg")
    assert whole.workspace.expect("sg", task, whole.workspace.multitask) is None


def test_something_is_expected_of_generators_under_the_right_description(plain, asked):
    _, cells = evaluate_cells(plain)
    for cell in cells:
        assert (cell.expected is not None) == (cell.method == "sg" and cell.control == RIGHT)
    assert Counter(asked) == {("sg", task): 2 for task in dict.fromkeys(cell.task for cell in cells)}
    assert list(CellFile(plain.out / CELLS).read()) == cells


def test_cells_of_before_get_what_is_expected_and_are_not_scored_again(plain, asked, monkeypatch):
    monkeypatch.setattr(Workspace, "expects", lambda *_: False)
    _, before = evaluate_cells(plain)
    kept = (plain.out / CELLS).read_bytes()
    monkeypatch.setattr(Workspace, "expects", lambda _workspace, method: method == "sg")
    monkeypatch.setattr("loragen.bases.text_encoder.LabelTextEncoder.read", None)
    with pytest.raises(KeyboardInterrupt):
        evaluate_cells(plain, interrupt_after(len(before) - 1))
    _, cells = evaluate_cells(plain)
    assert (plain.out / CELLS).read_bytes().startswith(kept)
    assert [cell.model_copy(update={"expected": None}) for cell in cells] == before
    assert sum(cell.expected is not None for cell in cells) == 8
    after = (plain.out / CELLS).read_bytes()
    _, again = evaluate_cells(plain)
    assert (again, (plain.out / CELLS).read_bytes()) == (cells, after)


# --- the report ---


def test_the_report_holds_the_section(checked, monkeypatch):
    monkeypatch.setattr(Workspace, "open", lambda config: reopened(checked.workspace, config))
    monkeypatch.setattr("loragen.evaluation.report._figures", lambda *_: [])
    steps = []
    report = evaluate_generators(checked.workspace.config, lambda *step: steps.append(step))
    assert timeless(report.cells) == timeless(checked.cells)
    condition = report.summary.condition
    assert [one.method for one in condition.likenesses] == ["topk", "sg", ORACLE]
    assert {row.method for row in condition.rows if row.rank} == {"topk", "sg"}
    assert {(row.method, *row.above) for row in condition.rows} == {("topk", RANDOM), ("sg", MEAN, RANDOM)}
    assert ("cosines", 12, 12) in steps
    text = (checked.workspace.config.out / "report.md").read_text()
    assert "## Does the condition matter?" in text
    assert f"| {MEAN} |" in text
