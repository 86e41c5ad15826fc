import shutil

import pytest
import torch
from evaluation_toys import changed, double, interrupt, interrupt_after, reopened, replace_all, replace_in, state

from loragen.errors import ConfigError
from loragen.evaluation.cells import CELLS, CellFile
from loragen.evaluation.evaluate import evaluate_cells
from loragen.evaluation.run_record import RUN
from loragen.evaluation.workspace import Workspace
from loragen.locks import lock


@pytest.mark.parametrize(
    "values",
    [
        {"seeds": (3,)},
        {"short": 21},
        {"splits": ("near",)},
        {"with_controls": False},
        {"unrelated": 1},
        {"unrelated_texts": 21},
    ],
    ids=lambda values: next(iter(values)),
)
def test_cells_of_other_settings_are_refused_and_left_alone(whole, config, values, monkeypatch):
    monkeypatch.setattr(Workspace, "open", lambda config: reopened(whole.workspace, config))
    before = state(config.out)
    with pytest.raises(ConfigError, match=r"other settings.*give another 'out'"):
        evaluate_cells(changed(config, **values))
    assert state(config.out) == before


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("oracles/experts/menus", double, "oracle"),
        ("zoo/multitask", double, "multi-task LoRA"),
        ("instructed", double, "instructed LoRA"),
        ("sg/generator.yaml", lambda file: replace_in(file, "prior_scale: 1.0", "prior_scale: 0.5"), ".*/sg"),
        ("tasks.yaml", lambda file: replace_in(file, "Is it cold or soup?", "Is it soup, or is it cold?"), "tasks"),
        ("data/menus.test.jsonl", lambda file: replace_in(file, '"label": "cold"', '"label": "soup"'), "test files"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_cells_of_other_adapters_or_tasks_are_refused_and_left_alone(copied, name, change, named):
    before = state(copied.out)
    change(copied.out.parent / name)
    with pytest.raises(ConfigError, match=rf"other settings, tasks or adapters \({named}\)"):
        evaluate_cells(copied)
    assert state(copied.out) == before


def test_cells_of_another_precision_are_refused(copied):
    with pytest.raises(ConfigError, match=r"adapters \(dtype\)"):
        evaluate_cells(changed(copied, dtype="bfloat16"))


def test_the_precision_is_the_one_asked_for(config):
    workspace = Workspace.open(changed(config, dtype="bfloat16"))
    assert {parameter.dtype for parameter in workspace.base.model.parameters()} == {torch.bfloat16}


def test_cells_stay_valid_where_the_tasks_files_have_moved(copied):
    root = copied.out.parent
    met = (copied.out / RUN).read_bytes()
    shutil.move(root / "data", root / "elsewhere")
    replace_all(root / "tasks.yaml", str(root / "data"), str(root / "elsewhere"))
    with pytest.raises(KeyboardInterrupt):  # raised after the next cell: the run goes on
        evaluate_cells(copied, interrupt_after(1))
    assert (copied.out / RUN).read_bytes() == met
    assert len(list(CellFile(copied.out / CELLS).read())) == 2


def test_no_split_goes_by_the_name_of_all_tasks(config):
    with pytest.raises(ValueError, match="cannot be called 'all'"):
        changed(config, splits=("all", "near"))


def test_cells_of_other_experts_are_refused_and_left_alone(copied):
    merges = changed(copied, generators=("mean",), out=copied.out.parent / "merges")
    with pytest.raises(KeyboardInterrupt):
        evaluate_cells(merges, interrupt)
    before = state(merges.out)
    double(merges.zoo / "experts" / "drinks")
    with pytest.raises(ConfigError, match="other settings"):
        evaluate_cells(merges)
    assert state(merges.out) == before


def test_cells_without_their_settings_are_refused(copied):
    (copied.out / RUN).unlink()
    before = state(copied.out)
    with pytest.raises(ConfigError, match="other settings"):
        evaluate_cells(copied)
    assert state(copied.out) == before


def test_reports_of_others_are_not_written_over(copied):
    out = copied.out.parent / "other"
    out.mkdir()
    for name in ("report.md", RUN):
        (out / name).write_text("mine: alone\n")
        with pytest.raises(ConfigError, match=name):
            evaluate_cells(changed(copied, out=out))
        assert (out / name).read_text() == "mine: alone\n"
        (out / name).unlink()


def test_one_evaluation_at_a_time_writes_to_a_folder(copied):
    with lock(copied.out), pytest.raises(ConfigError, match="is being written by another process"):
        evaluate_cells(copied)
