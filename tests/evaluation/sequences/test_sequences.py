"""A sequence on the toys: zoos of each moment, rows, metrics, files, and a run that goes on."""

import json

import pytest
import torch

from loragen.config import dump_yaml
from loragen.continual.metrics import ContinualScores
from loragen.errors import ConfigError
from loragen.evaluation.sequences.cells import CELLS
from loragen.evaluation.sequences.config import SequenceConfig
from loragen.evaluation.sequences.moments import asked_with
from loragen.evaluation.sequences.report import ALONE, BASE, MERGED, REPORT, SequenceReport, table
from loragen.evaluation.sequences.run import evaluate_sequence
from loragen.zoo.zoo import Zoo

GROUPS = {"drinks": ("cups", "mugs"), "meals": ("meals", "weather"), "late": ("suppers", "drinks")}


@pytest.fixture(scope="module")
def config(toys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence")
    training = {
        "generator": "sg",
        "zoo": str(toys / "zoo"),
        "encoder": str(toys / "base"),
        "out": str(folder / "unused"),
        "epochs": 2,
        "steps_per_epoch": 5,
        "batch_size": 8,
        "sg": {"top_k": 1, "components": 6, "latent_size": 4, "hidden_size": 16},
    }
    (folder / "sg.yaml").write_text(dump_yaml(training))
    return SequenceConfig(
        zoo=toys / "zoo",
        tasks=toys / "tasks.yaml",
        groups=GROUPS,
        generator=folder / "sg.yaml",
        strategies=("joint", "naive", "replay"),
        merged={"name": "lora_both", "r": 2, "steps": 4, "batch_size": 8},
        texts=20,
        out=folder / "out",
    )


@pytest.fixture(scope="module")
def report(config):
    return evaluate_sequence(config)


def test_a_sequence_has_a_cell_for_each_row_moment_and_task(config, report):
    met = {cell.key for cell in report.cells}
    moments, ids = range(3), config.ids
    rows = ("joint", "naive", "replay", MERGED, ALONE)
    assert met == {(row, at, task) for row in rows for at in moments for task in ids} | {
        (BASE, 0, task) for task in ids
    }
    assert [row.name for row in report.rows] == [BASE, "joint", "naive", "replay", MERGED]


def test_metrics_are_those_of_the_cells(config, report):
    score = {cell.key: cell.score for cell in report.cells}
    naive = next(row for row in report.rows if row.name == "naive")
    ids = config.ids
    wanted = ContinualScores.of(
        [[score["naive", at, task] for task in ids] for at in range(3)],
        [[0, 1], [2, 3], [4, 5]],
        alone=[score[ALONE, at, task] for task, at in zip(ids, (0, 0, 1, 1, 2, 2), strict=True)],
        joint=[score["joint", 2, task] for task in ids],
        base=[score[BASE, 0, task] for task in ids],
    )
    assert naive.scores == wanted
    errors = [cell.error for cell in report.cells if cell.row == "naive" and cell.moment == 2]
    assert naive.errors[-1] == pytest.approx(sum(errors) / len(errors), abs=1e-4)


def test_generators_see_what_has_arrived_and_not_the_wording_they_are_asked_with(config, report, toys):
    whole = Zoo.open(toys / "zoo")
    for moment, name in enumerate(GROUPS):
        zoo = Zoo.open(config.out / "zoos" / f"until-{name}")
        assert set(zoo.ids) == set(config.until(moment))
        for card in zoo:
            assert asked_with(whole, card.id) not in card.descriptions
            assert torch.equal(
                zoo.adapter(card.id).lora_B[zoo.adapter(card.id).sites[0]],
                whole.adapter(card.id).lora_B[zoo.adapter(card.id).sites[0]],
            )


def test_costs_are_told_and_old_experts_count_where_they_are_read(report):
    rows = {row.name: row for row in report.rows}
    assert rows["naive"].seconds > 0
    assert rows[BASE].seconds is None
    assert rows["joint"].kept_bytes > rows["naive"].kept_bytes
    assert rows["replay"].kept_bytes > rows["naive"].kept_bytes


def test_a_second_run_computes_nothing_anew(config, report):
    before = (config.out / CELLS).read_bytes()
    times = {path: path.stat().st_mtime_ns for path in config.out.rglob("*.safetensors")}
    again = evaluate_sequence(config)
    assert (config.out / CELLS).read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*.safetensors")} == times
    assert again.rows == report.rows


def test_a_cell_that_is_missing_is_computed(config, report):
    lines = (config.out / CELLS).read_text().splitlines(keepends=True)
    kept = [line for line in lines if not (json.loads(line)["row"] == "naive" and json.loads(line)["task"] == "cups")]
    assert len(kept) == len(lines) - 3
    (config.out / CELLS).write_text("".join(kept))
    again = evaluate_sequence(config)
    assert sorted((c.key, c.score) for c in again.cells) == sorted((c.key, c.score) for c in report.cells)


def test_the_report_is_read_back_and_shown(config, report):
    found = SequenceReport.model_validate_json((config.out / REPORT).read_text())
    assert found.rows == report.rows
    shown = table(report.rows)
    assert all(f"| {row.name.replace('_', chr(92) + '_')} |" in shown or row.name in shown for row in report.rows)
    best = max(report.rows, key=lambda row: row.scores.aa)
    assert shown.splitlines()[2].startswith(f"| {best.name}") or best.scores.aa == report.rows[1].scores.aa
    assert {path.suffix for path in report.files} == {".json", ".md", ".png", ".svg"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": {"one": ("cups",)}}, "groups"),
        ({"groups": {"one": ("cups",), "two": ("cups",)}}, "more than once"),
        ({"groups": {"one": ("cups",), "two": ("mugs",)}}, "fewer than two experts"),
        ({"strategies": ("osmosis",)}, "is no strategy"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(config, changes, message):
    values = config.model_dump(mode="json") | {k: v for k, v in changes.items()}
    with pytest.raises(ConfigError, match=message):
        SequenceConfig.checked(values, source="sequence.yaml")
