"""ICM-LoRA trained on texts and examples beside descriptions."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from icm_toys import (
    ENOUGH,
    conditioner_of,
    configured,
    distances,
    seeded,
)
from models import word_task
from tiny_experts import make_expert

from loragen.bases.text_encoder import LabelTextEncoder
from loragen.conditions.condition import Evidence
from loragen.errors import ConfigError, TaskError
from loragen.generators.icm.episodes import ICMTrainConfig, read_experts
from loragen.generators.icm.fit import fit_icm
from loragen.generators.icm.model import ICM, ICMConfig
from loragen.recipes.expert import Start
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import TaskSetConfig
from loragen.zoo.card import expert_files
from loragen.zoo.zoo import Zoo

EVIDENCE = ICMConfig().evidence


WORDS = ("soup", "bread", "cold", "warm", "tea")


@pytest.fixture(scope="module")
def supports(zoo, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Examples]]:
    """A task file, the folder of its data, and for each expert labelled examples that no training sees."""
    folder = tmp_path_factory.mktemp("tasks")
    data, file = folder / "data", folder / "tasks.yaml"
    pairs = [(one, other) for at, one in enumerate(WORDS) for other in WORDS[at + 1 :]]
    tasks = [word_task(data, name, words=pair) for name, pair in zip(zoo.ids, pairs, strict=False)]
    fresh = {task.id: task.load_test() for task in tasks}
    relative = [
        task.model_copy(
            update={"source": task.source.model_copy(update={"train": f"{task.id}.train.jsonl", "test": None})}
        )
        for task in tasks
    ]
    file.write_text(TaskSetConfig(tasks=tuple(relative)).to_yaml())
    return file, data, fresh


def reading_all(model: Path, supports: tuple[Path, Path, dict[str, Examples]], **values: object) -> ICMTrainConfig:
    file, data, _ = supports
    return configured(model, icm={"evidence": EVIDENCE}, **{"tasks": file, "tasks_root": data} | values)


@pytest.fixture(scope="module")
def trained_on_all(zoo, model, encoder, supports) -> ICM:
    many = {"pool": 200, "shots": (32, 64), "evidence_dropout": 0.5, "steps_per_epoch": 50}  # for letters are noise
    return fit_icm(reading_all(model, supports, **ENOUGH | many), zoo, encoder)[0]


@pytest.mark.parametrize("kind", EVIDENCE)
def test_fresh_evidence_of_any_kind_tells_a_task(trained_on_all, zoo, encoder, supports, kind: str) -> None:
    conditioner, conditions = conditioner_of(trained_on_all, encoder), []
    for card in zoo:
        asked = conditioner.condition(Evidence(card.description, examples=supports[2][card.id]))
        assert set(asked.task_vectors) == set(EVIDENCE)
        conditions.append(dataclasses.replace(asked, task_vectors={kind: asked.task_vectors[kind]}))
    found = distances(trained_on_all, conditions, zoo)
    assert (found.argmin(1) == torch.arange(7)).sum() >= 6
    assert found.diag().mean() < 0.75
    assert found.roll(1, 0).diag().mean() > 1


def test_the_pool_is_a_seeded_part_of_the_training_examples(zoo, model, encoder, supports) -> None:
    one, same, other = (
        read_experts(reading_all(model, supports, pool=40, seed=seed), zoo, encoder) for seed in (0, 0, 1)
    )
    assert {kind: {tuple(s.shape) for s in found} for kind, found in one.states.items()} == {
        "description": {(2, 16)},
        "texts": {(40, 16)},
        "examples": {(40, 16)},
    }
    assert torch.equal(one.states["texts"][3], same.states["texts"][3])
    assert not torch.equal(one.states["texts"][3], other.states["texts"][3])
    assert not torch.equal(one.states["texts"][3], one.states["examples"][3]), "labels are read in examples alone"
    vectors = one.task_vectors(3, shots=5)
    torch.testing.assert_close(vectors["texts"], one.states["texts"][3][:5].mean(0))
    assert torch.equal(vectors["description"], one.states["description"][3][0])


def test_texts_without_tasks_to_read_them_from_are_refused(zoo, model, encoder, supports) -> None:
    with pytest.raises(ConfigError, match=r"names no 'tasks'; name the file .* or set 'icm\.evidence"):
        read_experts(reading_all(model, supports, tasks=None), zoo, encoder)


def test_an_expert_without_a_task_is_named(zoo, model, encoder, supports, tmp_path) -> None:
    values = yaml.safe_load(supports[0].read_text())
    values["tasks"] = [task for task in values["tasks"] if task["id"] != "mood"]
    (tmp_path / "tasks.yaml").write_text(json.dumps(values))
    with pytest.raises(TaskError, match="no task 'mood'"):
        read_experts(reading_all(model, supports, tasks=tmp_path / "tasks.yaml"), zoo, encoder)


def test_the_papers_task_vectors_are_read_through_each_tasks_own_adapter(tiny_zoo, model, encoder, tmp_path) -> None:
    shutil.copytree(tiny_zoo.root, tmp_path / "zoo")
    backbone = LabelTextEncoder.load(str(model))
    start = Start.random(backbone.sites(("query", "value")), 2, rng=seeded())
    for seed, card in enumerate(tiny_zoo):
        adapter, files = expert_files(make_expert(start, seed=seed), card)
        adapter.save(tmp_path / "zoo" / "experts" / card.id, extra_files=files)
    zoo = Zoo.open(tmp_path / "zoo").select(splits={"experts"})
    own, base = (read_experts(configured(model, through=through), zoo, encoder) for through in ("own_adapter", "base"))
    ids = backbone.tokenize(zoo.card("card").descriptions, max_length=64)
    torch.testing.assert_close(base.states["description"][1], backbone.encode_states(ids))
    with backbone.adapted(zoo.adapter("card")):
        torch.testing.assert_close(own.states["description"][1], backbone.encode_states(ids))
    assert (own.states["description"][1] - base.states["description"][1]).abs().max() > 0.01
    assert own.reading.through == "own_adapter"
