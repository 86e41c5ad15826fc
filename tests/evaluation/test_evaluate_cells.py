from collections import Counter

import pytest
from evaluation_toys import (
    EXPERTS,
    FAR,
    NEAR,
    SHORT,
    UNRELATED,
    Scripted,
    changed,
    direct,
    factors_of,
    first_of,
    of,
    recorded_reads,
    scaled,
    timeless,
    with_generators,
)

from loragen.adapters.adapter import Lora
from loragen.errors import ConfigError
from loragen.evaluation.cells import ALL, CELLS, CellFile
from loragen.evaluation.config import BASE, INSTRUCTED, MULTITASK, ORACLE
from loragen.evaluation.controls import NONSENSE, OTHER, PARAPHRASE, RIGHT, SHUFFLED
from loragen.evaluation.evaluate import evaluate_cells
from loragen.evaluation.run_record import RUN
from loragen.evaluation.statistics import Interval
from loragen.evaluation.summary import summarise
from loragen.zoo.zoo import Zoo

# --- the cells ---


def test_every_cell_is_there_once(whole, config):
    told = (NONSENSE, SHUFFLED, OTHER, f"{PARAPHRASE} 1", f"{PARAPHRASE} 2")
    wanted = []
    for task in (*NEAR, *FAR):
        wanted += [(task, method, RIGHT, 3) for method in (BASE, MULTITASK, INSTRUCTED, ORACLE, "mean", "nearest")]
        wanted += [(task, "topk", RIGHT, 3), (task, "sg", RIGHT, 3), (task, "sg", RIGHT, 5)]
        wanted += [(task, method, control, 3) for method in config.generators for control in told]
    assert Counter(cell.key for cell in whole.cells) == Counter(wanted)


def test_methods_come_with_the_base_first_and_the_oracle_last(whole, config):
    assert tuple(dict.fromkeys(cell.method for cell in whole.cells)) == whole.workspace.methods
    assert whole.workspace.methods == (BASE, MULTITASK, INSTRUCTED, *config.generators, ORACLE)
    assert list(dict.fromkeys(cell.task for cell in whole.cells)) == [*NEAR, *FAR]


def test_cells_are_on_disk_as_they_are_returned(whole, config):
    assert list(CellFile(config.out / CELLS).read()) == whole.cells
    assert {path.name for path in config.out.iterdir()} == {CELLS, RUN}


def test_progress_is_reported_cell_by_cell(whole):
    total = len(whole.cells)
    assert whole.steps == [("adapters", done, total) for done in range(total + 1)]


def test_what_is_not_generated_is_scored_on_the_whole_test_file(whole):
    workspace = whole.workspace
    for task in workspace.tasks:
        for method, adapter in (
            (BASE, None),
            (MULTITASK, workspace.zoo.multitask()),
            (ORACLE, workspace.oracles.adapter(task.id)),
        ):
            cell = whole.cell(task.id, method)
            assert (cell.scores, cell.short) == direct(workspace, task, adapter)
            assert cell.scores.v_measure is not None


@pytest.mark.parametrize("method", ["mean", "nearest", "topk", "sg"])
def test_a_generated_adapter_is_scored_as_it_was_generated(whole, method):
    tasks = {task.id: task for task in whole.workspace.tasks}
    for cell, one in zip(of(whole, method), whole.asked[method], strict=True):
        task = tasks[cell.task]
        assert cell.seed == one.seed
        if cell.control == RIGHT:
            assert (cell.scores, cell.short) == direct(whole.workspace, task, one.adapter)
        else:
            first = first_of(task, whole.workspace.base)
            assert (cell.scores, cell.short) == (None, whole.workspace.base.score(first, one.adapter))


@pytest.mark.parametrize("method", ["mean", "nearest", "topk", "sg"])
def test_a_generator_is_told_what_the_control_says(whole, method):
    tasks = {task.id: task for task in whole.workspace.tasks}
    for cell, one in zip(of(whole, method), whole.asked[method], strict=True):
        task, told = tasks[cell.task], one.description
        match cell.control:
            case "right":
                assert told == task.description
            case "another task's":
                assert told in {tasks[other].description for other in UNRELATED[task.id]}
            case "shuffled words":
                assert sorted(told.split()) == sorted(task.description.split())
            case "nonsense":
                assert not set(told.lower().split()) & set(task.description.lower().split())
            case control:
                assert told == task.paraphrases[int(control.removeprefix(PARAPHRASE)) - 1]


def test_every_generator_is_told_the_same(whole):
    told = [
        [
            (cell.task, cell.control, one.description)
            for cell, one in zip(of(whole, method), asked, strict=True)
            if cell.seed == 3
        ]
        for method, asked in whole.asked.items()
    ]
    assert all(one == told[0] for one in told)


def test_chance_is_drawn_once_a_seed(whole):
    for task in whole.workspace.tasks:
        one, two = (whole.cell(task.id, "sg", seed=seed) for seed in (3, 5))
        assert one.scores != two.scores
        assert one.novelty is not None
        assert (two.novelty, two.forgetting) == (None, None), "measured once"


def test_novelty_is_that_of_generated_adapters(whole):
    for cell in whole.cells:
        assert (cell.novelty is not None) == (
            cell.method in whole.workspace.pipelines and cell.control == RIGHT and cell.seed == 3
        )
    for task in whole.workspace.tasks:
        assert whole.cell(task.id, "mean").novelty.to_mean == pytest.approx(0, abs=1e-3)
        assert whole.cell(task.id, "nearest").novelty.is_replay
        assert not whole.cell(task.id, "topk").novelty.is_replay


def test_without_controls_there_are_none_and_the_rest_is_the_same(whole, here):
    _, cells = evaluate_cells(changed(here, generators=("sg",), with_controls=False))
    wanted = [cell for cell in whole.cells if cell.control == RIGHT and cell.method not in ("mean", "nearest", "topk")]
    assert timeless(cells) == timeless(wanted)


# --- the yardstick ---


def test_the_oracles_own_adapter_recovers_all_and_the_base_nothing(config, tmp_path, monkeypatch):
    oracles = Zoo.open(config.oracles)
    own = {card.description: oracles.adapter(card.id) for card in oracles}
    zero = {text: scaled(adapter, 0.0) for text, adapter in own.items()}
    generators = with_generators(monkeypatch, perfect=Scripted(own.__getitem__), nothing=Scripted(zero.__getitem__))
    workspace, cells = evaluate_cells(changed(config, out=tmp_path / "out", with_controls=False, **generators))
    groups = {ALL: [task.id for task in workspace.tasks], "plates": ["plates"]}
    summary = summarise(cells, groups, base=BASE, oracle=ORACLE, rivals=(ORACLE,))
    for group in groups:
        for score in ("accuracy", "knn_accuracy", "macro_f1"):
            rows = {method: summary.row(group, method, score) for method in workspace.methods}
            assert rows[ORACLE].mean.mean > rows[BASE].mean.mean, "there is something to recover"
            assert rows["perfect"].gain == rows[ORACLE].gain == Interval(1, 1, 1)
            assert rows["nothing"].gain == rows[BASE].gain == Interval(0, 0, 0)
            assert (rows["perfect"].above[ORACLE], rows["perfect"].wins[ORACLE]) == (Interval(0, 0, 0), 0.5)


# --- what is computed ---


def test_one_adapter_is_scored_once_however_often_it_is_made(whole, here, monkeypatch):
    calls = recorded_reads(monkeypatch)
    _, cells = evaluate_cells(changed(here, unrelated=0))
    assert len(calls) == len(set(calls))
    for name in EXPERTS:  # which nearest gives back, for one wording or for several
        factors = factors_of(whole.workspace.zoo.adapter(name))
        told = [
            cell
            for cell, one in zip(of(whole, "nearest"), whole.asked["nearest"], strict=True)
            if factors_of(one.adapter) == factors
        ]
        right = {cell.task for cell in told if cell.control == RIGHT}  # whose first texts are scored along
        sizes = Counter(len(ids) for met, ids in calls if met == factors)
        assert sizes == Counter({SHORT: len({cell.task for cell in told} - right), 40: len(right)}) - Counter()
    assert timeless(cells) == timeless(cell.model_copy(update={"forgetting": None}) for cell in whole.cells)


# --- the instructed LoRA ---


def test_the_instructed_lora_sees_the_description_before_every_text(whole):
    workspace = whole.workspace
    adapter = Lora.load(workspace.config.instructed)
    for task in workspace.tasks:
        cell = whole.cell(task.id, INSTRUCTED)
        assert (cell.scores, cell.short) == direct(workspace, task, adapter, instruction=task.description)
        plain = whole.cell(task.id, MULTITASK)
        assert (plain.scores, plain.short) == direct(workspace, task, adapter), "the same adapter without it"
        assert cell.scores.cross_entropy != plain.scores.cross_entropy


def test_the_instructed_lora_is_told_its_own_task_on_unrelated_ones(whole):
    workspace, tasks = whole.workspace, {task.id: task for task in whole.workspace.tasks}
    adapter = Lora.load(workspace.config.instructed)

    def right(other, adapter, **options):
        data = first_of(tasks[other], workspace.base, workspace.config.unrelated_texts, **options)
        return workspace.base.score(data, adapter).accuracy

    for task, others in UNRELATED.items():
        told = tasks[task].description
        changes = [right(name, adapter, instruction=told) - right(name, None) for name in sorted(others)]
        assert whole.cell(task, INSTRUCTED).forgetting == pytest.approx(sum(changes) / len(changes), abs=1e-5)
    plain = [whole.cell(task, MULTITASK).forgetting for task in UNRELATED]
    assert plain != [whole.cell(task, INSTRUCTED).forgetting for task in UNRELATED], "the same adapter without it"


def test_another_multitask_lora_can_take_the_place_of_the_zoos(whole, here, tmp_path):
    other = scaled(whole.workspace.zoo.multitask(), 2.0)
    other.save(tmp_path / "tuned")
    workspace, cells = evaluate_cells(
        changed(here, multitask=tmp_path / "tuned", instructed=None, generators=("nearest",))
    )
    rows = [cell for cell in cells if cell.method == MULTITASK]
    for task, cell in zip(workspace.tasks, rows, strict=True):
        assert (cell.scores, cell.short) == direct(workspace, task, Lora.load(tmp_path / "tuned"))
    assert rows != of(whole, MULTITASK)
    with pytest.raises(ConfigError, match=r"adapters \(multi-task LoRA\)"):
        evaluate_cells(changed(here, instructed=None, generators=("nearest",)))


def test_there_need_be_no_instructed_lora(whole, here):
    workspace, cells = evaluate_cells(changed(here, instructed=None, generators=("nearest",)))
    assert workspace.methods == (BASE, MULTITASK, "nearest", ORACLE)
    assert timeless(cells) == timeless(cell for cell in whole.cells if cell.method in workspace.methods)
