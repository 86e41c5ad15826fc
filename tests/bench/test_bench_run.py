"""Whole comparisons over a tiny encoder: what is kept, shared among processes, interrupted, and written."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loragen.bases.open import open_base
from loragen.bench import figure, run, work
from loragen.bench.cells import BenchCell, known_cells
from loragen.bench.config import RecipeBenchConfig
from loragen.bench.run import bench_recipes
from loragen.bench.work import Workbench
from loragen.errors import ConfigError, TaskError
from loragen.evaluation.model_lines import read_lines
from loragen.recipes import registry
from loragen.recipes.expert import ExpertRecipe

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def config(bench_inputs, tmp_path) -> RecipeBenchConfig:
    return RecipeBenchConfig.checked({**bench_inputs, "out": str(tmp_path / "out")}, source="here")


@pytest.fixture(scope="module")
def whole(bench_inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    stages = []
    values = {**bench_inputs, "out": str(folder)}
    report = bench_recipes(RecipeBenchConfig.checked(values, source="here"), lambda *step: stages.append(step))
    return report, stages


def timeless(cells) -> list[BenchCell]:
    return [cell.model_copy(update={"seconds": 0.0}) for cell in cells]


def changed(config, **changes) -> RecipeBenchConfig:
    return config.model_copy(update=changes)


@pytest.fixture(scope="module")
def opened(bench_inputs):
    return open_base(bench_inputs["base"])


@pytest.fixture
def made_up(monkeypatch, opened):
    """Cells without training and no figures; a list of the cells that were computed."""
    computed = []
    monkeypatch.setattr(work, "open_base", lambda *_, **__: opened)
    monkeypatch.setattr(figure, "write_curves", lambda *_: [])

    def compute(_bench, planned):
        computed.append(planned.key)
        return cell_of(planned)

    monkeypatch.setattr(Workbench, "compute", compute)
    return computed


def cell_of(planned, **changes) -> BenchCell:
    scores = {"accuracy": 0.5, "macro_f1": 0.5, "cross_entropy": 1.0, "knn_accuracy": 0.5}
    recipe = planned.recipe
    values = {"recipe": recipe.name, "conditions": planned.conditions, "task": planned.task.id, "seconds": 1.0}
    values |= {"learning_rate": recipe.learning_rate, "seed": recipe.seed, "scores": scores, "held_out_loss": 1.0}
    return BenchCell.model_validate(values | changes)


def test_every_recipe_is_trained_at_every_rate_on_every_task(whole):
    report, stages = whole
    grid = {(cell.recipe, cell.learning_rate, cell.task) for cell in report.cells}
    assert len(grid) == len(report.cells) == 2 * 3 * 2
    assert stages == [("cells", done, 12) for done in range(13)]
    assert all(cell.rank == 2 and cell.parameters == 2 * 2 * 2 * (16 + 16) for cell in report.cells)
    assert all(cell.seconds > 0 and cell.steps in (4, 8) for cell in report.cells)


def test_cells_are_what_training_and_scoring_by_hand_give(whole):
    from loragen.evaluation.workspace import shuffled
    from loragen.recipes.expert import Start
    from loragen.recipes.train import train_expert
    from loragen.tasks.task_set import TaskSet

    report, _ = whole
    cell = next(cell for cell in report.cells if (cell.recipe, cell.learning_rate) == ("lora_both", 1e-1))
    config, base = report.config, open_base(report.config.base)
    recipe = config.recipes[1].model_copy(update={"learning_rate": 1e-1})
    task = TaskSet.from_yaml(config.tasks)[cell.task]
    start = Start.random(base.sites(recipe.target_modules), 2, rng=torch.Generator().manual_seed(0))
    expert = train_expert(task, base, start, recipe)
    assert cell.held_out_loss == pytest.approx(expert.held_out_losses[expert.steps], rel=1e-6)
    data = base.prepare(shuffled(task), max_length=recipe.score_length)
    assert len(data) == 40
    with base.using({site: (expert.lora_A[site], b) for site, b in expert.mean.items()}):
        assert base.score(data.first(30)) == cell.scores


def test_the_report_is_written_and_can_be_read_again(whole):
    report, _ = whole
    names = [path.name for path in report.files]
    assert names == ["report.json", "report.md", "learning-rates.png", "learning-rates.svg"]
    values = json.loads((report.config.out / "report.json").read_text())
    assert type(report).model_validate(values) == report
    text = (report.config.out / "report.md").read_text()
    assert "Test scores do not take part in the choice" in text
    assert text.count("| lora_both |") >= 3
    assert "## All at one rate" in text


def test_nothing_is_computed_twice_and_a_cut_line_is_redone(config, made_up):
    bench_recipes(config)
    file = config.out / "cells.jsonl"
    content = file.read_bytes()
    assert len(made_up) == 12
    file.write_bytes(content[:-30])
    bench_recipes(config)
    assert made_up[12:] == made_up[11:12]
    assert file.read_bytes() == content


def test_an_interrupted_run_goes_on(config, made_up):
    def stop(_stage, done, _total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench_recipes(config, stop)
    assert len(list(read_lines(config.out / "cells.jsonl", BenchCell))) == 5
    assert not (config.out / "report.md").exists()
    assert bench_recipes(config) is not None
    assert len(made_up) == len(set(made_up)) == 12


def test_parts_share_the_cells_and_the_last_one_makes_the_report(config, made_up, whole):
    assert bench_recipes(config, part="2/2") is None
    assert len(made_up) == 6
    report = bench_recipes(config, part="1/2")
    assert len(made_up) == len(set(made_up)) == 12
    assert [cell.key for cell in report.cells] == [cell.key for cell in whole[0].cells]
    assert sorted(path.name for path in config.out.glob("cells*")) == ["cells-1-of-2.jsonl", "cells-2-of-2.jsonl"]
    assert bench_recipes(config) is not None
    assert len(made_up) == 12


def test_a_part_leaves_the_half_line_of_another_alone(config, made_up):
    bench_recipes(config, part="2/2")
    other = config.out / "cells-2-of-2.jsonl"
    other.write_bytes(other.read_bytes()[:-20])
    before = other.read_bytes()
    assert bench_recipes(config, part="1/2") is None
    assert other.read_bytes() == before


def test_other_settings_keep_the_cells_that_are_still_the_same(config, made_up, bench_inputs):
    bench_recipes(config)
    more = {**bench_inputs, "out": str(config.out), "learning_rates": [1e-4, 1e-3, 1e-2, 1e-1]}
    bench_recipes(RecipeBenchConfig.checked(more, source="here"))
    assert len(made_up) == 12 + 4
    longer = {**bench_inputs, "out": str(config.out), "recipes": ["lora", {"name": "lora_both", "steps": 9}]}
    bench_recipes(RecipeBenchConfig.checked(longer, source="here"))
    assert len(made_up) == 16 + 6, "those of the recipe that has changed"
    bench_recipes(changed(config, test_texts=25))
    assert len(made_up) == 22 + 12


def test_a_registered_recipe_takes_part_without_a_change_elsewhere(config, monkeypatch, bench_inputs, made_up):
    class Dummy(ExpertRecipe):
        name: str = "dummy"
        strength: float = 0.5

    row = replace(registry.rows()["lora"], name="dummy", axis="rank", settings=Dummy)
    monkeypatch.setattr(registry, "ROWS", (*registry.ROWS, row))
    values = {**bench_inputs, "out": str(config.out), "recipes": ["lora_both", {"name": "dummy", "strength": 0.7}]}
    report = bench_recipes(RecipeBenchConfig.checked(values, source="here"))
    assert [(one.label, one.axis) for one in report.summary.recipes] == [
        ("lora_both", "optimisation"),
        ("dummy", "rank"),
    ]
    assert "| dummy |" in (config.out / "report.md").read_text()


def test_a_training_that_diverges_is_kept_and_told(config, monkeypatch):
    trained = work.train_expert

    def diverging(task, base, start, recipe):
        expert = trained(task, base, start, recipe)
        if recipe.learning_rate < 0.05:
            return expert
        if recipe.name == "lora":
            raise torch.linalg.LinAlgError("not finite")
        return replace(expert, mean={site: b * math.nan for site, b in expert.mean.items()})

    monkeypatch.setattr(work, "train_expert", diverging)
    few = changed(config, ids=config.ids[:1])
    report = bench_recipes(few)
    gone = [cell for cell in report.cells if cell.has_diverged]
    assert [(cell.recipe, cell.learning_rate, cell.held_out_loss) for cell in gone] == [
        ("lora", 0.1, None),
        ("lora_both", 0.1, None),
    ]
    assert report.notes[0] == "lora: trainings diverged, 1 at 0.1."
    assert all(one.best_rate != 0.1 for one in report.summary.recipes)
    assert timeless(known_cells(few.out).values()) == timeless(report.cells)


def test_where_every_training_diverges_there_is_no_report(config, monkeypatch):
    monkeypatch.setattr(Workbench, "compute", lambda _bench, planned: cell_of(planned, scores=None, held_out_loss=None))
    with pytest.raises(ConfigError, match="Every one of the 12 trainings diverged; give lower 'learning_rates'"):
        bench_recipes(config)


def test_refusals(config, made_up, tmp_path, bench_inputs):
    with pytest.raises(TaskError, match=r"no task 'drink' among these 2. Did you mean 'drinks'"):
        bench_recipes(changed(config, ids=("drink",)))
    config.out.mkdir()
    (config.out / "report.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"report.md is there without the cells of it \(cells.jsonl\); give another"):
        bench_recipes(config)
    assert (config.out / "report.md").read_text() == "mine"
    (config.out / "cells.jsonl").write_text('{"task": "of an evaluation"}\n')
    with pytest.raises(ConfigError, match="does not fit BenchCell"):
        bench_recipes(config)


def test_two_processes_cannot_do_the_same_part(config, made_up):
    with run.lock(config.out / "cells-1-of-2.jsonl"):
        with pytest.raises(ConfigError, match="is being written by another process"):
            bench_recipes(config, part="1/2")
        assert bench_recipes(config, part="2/2") is None


def test_without_matplotlib_there_is_no_figure(config, made_up, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("loragen.plotting", "loragen.bench.figure"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    report = bench_recipes(config)
    assert [Path(path).name for path in report.files] == ["report.json", "report.md"]
