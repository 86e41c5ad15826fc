import pytest
from evaluation_toys import (
    SHORT,
    UNRELATED,
    Scripted,
    changed,
    factors_of,
    first_of,
    recorded_reads,
    scaled,
    with_generators,
)

from loragen.evaluation.config import BASE, MULTITASK, ORACLE
from loragen.evaluation.evaluate import evaluate_cells
from loragen.evaluation.scoring import Scorer
from loragen.zoo.zoo import Zoo

# --- forgetting ---


def test_an_adapter_that_does_nothing_forgets_nothing(config, tmp_path, monkeypatch):
    oracles = Zoo.open(config.oracles)
    own = {card.description: oracles.adapter(card.id) for card in oracles}
    generators = with_generators(monkeypatch, nothing=Scripted(lambda text: scaled(own[text], 0.0)))
    _, cells = evaluate_cells(changed(config, out=tmp_path / "out", with_controls=False, **generators))
    met = {(cell.task, cell.method): cell.forgetting for cell in cells}
    assert {met[task, "nothing"] for task in UNRELATED} == {0}
    assert {met[task, BASE] for task in UNRELATED} == {None}, "the base has nothing to forget"
    assert any(met[task, ORACLE] for task in UNRELATED)


def test_forgetting_is_the_mean_change_on_tasks_of_other_families(whole):
    workspace, tasks = whole.workspace, {task.id: task for task in whole.workspace.tasks}

    def right(task, adapter):
        first = first_of(tasks[task], workspace.base, workspace.config.unrelated_texts)
        return workspace.base.score(first, adapter).accuracy

    for task, others in UNRELATED.items():
        for method, adapter in ((ORACLE, workspace.oracles.adapter(task)), (MULTITASK, workspace.zoo.multitask())):
            changes = [right(other, adapter) - right(other, None) for other in sorted(others)]
            assert whole.cell(task, method).forgetting == pytest.approx(sum(changes) / len(changes), abs=1e-5)


def test_forgetting_is_measured_on_so_many_tasks_of_other_families(here, monkeypatch):
    calls = recorded_reads(monkeypatch)
    workspace, cells = evaluate_cells(changed(here, generators=("nearest",), unrelated=1, with_controls=False))
    scorer = Scorer(workspace)
    texts = {tuple(map(tuple, scorer.data(task).first(SHORT + 4).ids)): task.id for task in workspace.tasks}
    for task in workspace.tasks:
        oracle = factors_of(workspace.oracles.adapter(task.id))
        (met,) = {texts[ids] for factors, ids in calls if factors == oracle and ids in texts}
        assert met in UNRELATED[task.id]
    assert {cell.method for cell in cells if cell.forgetting is None} == {BASE}


def test_forgetting_need_not_be_measured(whole, here):
    _, cells = evaluate_cells(changed(here, generators=("nearest",), unrelated=0, with_controls=False))
    assert {cell.forgetting for cell in cells} == {None}
