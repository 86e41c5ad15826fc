import shutil
from pathlib import Path

import pytest
from evaluation_toys import (
    EXPERTS,
    FAMILY,
    FAR,
    NEAR,
    RECIPE,
    SHORT,
    Evaluation,
    Recorded,
    changed,
    interrupt,
    reopened,
)
from models import word_task, write_tiny_encoder
from report_toys import KINDS, SPLITS, make_cells

from loragen.bases.text_encoder import LabelTextEncoder
from loragen.conditions.text_encoder import TextEncoder
from loragen.config import dump_yaml
from loragen.evaluation.config import EvaluateConfig
from loragen.evaluation.evaluate import evaluate_cells
from loragen.evaluation.report import make_report
from loragen.evaluation.report_model import Report
from loragen.evaluation.workspace import Workspace
from loragen.files import atomic_write
from loragen.generators.registry import open_generator
from loragen.generators.sg.fit import SGTrainConfig, fit_sg
from loragen.generators.sg.model import SGConfig
from loragen.recipes.multitask import MultitaskRecipe
from loragen.zoo.build import build_zoo
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.zoo import Zoo


@pytest.fixture(scope="session")
def workshop(tmp_path_factory) -> Path:
    """A base, a task file, a zoo with a tiny SG-LoRA, and oracles."""
    root = tmp_path_factory.mktemp("evaluation")
    base = write_tiny_encoder(root / "base", seed=1)
    splits = {"experts": EXPERTS, "near": NEAR, "far": FAR}
    tasks = [
        word_task(root / "data", name, words=words).model_copy(
            update={"family": FAMILY.get(name, ""), "paraphrases": (f"{words[1]}, or {words[0]}?", f"Find {words[0]}.")}
        )
        for split in splits.values()
        for name, words in split.items()
    ]
    listed = {"tasks": [task.model_dump(mode="json") for task in tasks], "splits": {s: [*t] for s, t in splits.items()}}
    (root / "tasks.yaml").write_text(dump_yaml(listed))
    zoo = ZooConfig(
        name="tiny",
        out=root / "zoo",
        base=str(base),
        tasks=root / "tasks.yaml",
        splits=("experts",),
        frame="multitask",
        start="zero",
        recipe=RECIPE,
        multitask=MultitaskRecipe(steps=12, steps_per_checkpoint=12, learning_rate=3e-2),
        score=False,
        dtype="float32",
        workers=1,
    )
    longer = RECIPE.model_copy(update={"steps": 40, "learning_rate": 5e-2})  # so that there is something to recover
    places = {"out": root / "oracles", "splits": ("near", "far"), "start_of": root / "zoo"}
    oracles = zoo.model_copy(update=places | {"recipe": longer})
    for settings in (zoo, oracles):
        build_zoo(settings)
    settings = SGTrainConfig(
        generator="sg",
        zoo=root / "zoo",
        encoder=str(base),
        out=root / "sg",
        sg=SGConfig(top_k=2, components=4, latent_size=4, hidden_size=16),
        epochs=1,
        steps_per_epoch=5,
    )
    generator, _ = fit_sg(settings, Zoo.open(root / "zoo"), TextEncoder.load(str(base)))
    for name, content in generator.files().items():
        atomic_write(root / "zoo" / "generators" / "sg" / name, content)
    # One adapter under both names, so that it is the texts that make the difference.
    shutil.copytree(root / "zoo" / "multitask", root / "instructed")
    return root


@pytest.fixture(scope="session")
def config(workshop) -> EvaluateConfig:
    return EvaluateConfig(
        zoo=workshop / "zoo",
        tasks=workshop / "tasks.yaml",
        splits=("near", "far"),
        unseen_families=("far",),
        generators=("mean", "nearest", "topk", "sg"),
        instructed=workshop / "instructed",
        oracles=workshop / "oracles",
        encoder=str(workshop / "base"),
        out=workshop / "whole",
        seeds=(3, 5),
        short=SHORT,
        unrelated_texts=SHORT + 4,
        dtype="float32",
    )


@pytest.fixture(scope="session")
def whole(config) -> Evaluation:
    """An evaluation that nothing interrupted."""
    steps = []
    with pytest.MonkeyPatch.context() as own:
        own.setattr("loragen.generation.pipeline.open_generator", lambda *a, **k: Recorded(open_generator(*a, **k)))
        workspace, cells = evaluate_cells(config, lambda *step: steps.append(step))
    asked = {name: list(pipeline.generator.asked) for name, pipeline in workspace.pipelines.items()}
    return Evaluation(workspace, cells, asked, steps)


@pytest.fixture
def here(whole, config, tmp_path, monkeypatch) -> EvaluateConfig:
    """The same config with a folder of its own; base, zoo and generators are opened already."""
    monkeypatch.setattr(Workspace, "open", lambda config: reopened(whole.workspace, config))
    return changed(config, out=tmp_path / "here")


@pytest.fixture
def copied(config, whole, tmp_path) -> EvaluateConfig:
    """A config over copies of all that it names, and an evaluation of it that was just begun."""
    for name in ("zoo", "oracles", "instructed", "base"):
        shutil.copytree(config.zoo.parent / name, tmp_path / name)
    shutil.copytree(config.zoo.parent / "data", tmp_path / "data")
    tasks = config.tasks.read_text()
    (tmp_path / "tasks.yaml").write_text(tasks.replace(str(config.zoo.parent / "data"), str(tmp_path / "data")))
    shutil.copytree(config.zoo / "generators" / "sg", tmp_path / "sg")
    places = {name: tmp_path / name for name in ("zoo", "oracles", "instructed")}
    own = changed(
        config,
        **places,
        tasks=tmp_path / "tasks.yaml",
        encoder=str(tmp_path / "base"),
        generators=("mean", str(tmp_path / "sg")),
        out=tmp_path / "out",
    )

    with pytest.raises(KeyboardInterrupt):
        evaluate_cells(own, interrupt)
    return own


@pytest.fixture(scope="session")
def report_workspace(tiny_zoo, tmp_path_factory) -> Workspace:
    """What a report is made from: a zoo whose descriptions are known, and tasks; there is nothing to generate with."""
    root = tmp_path_factory.mktemp("workspace")
    folder = str(write_tiny_encoder(root / "base"))
    split_of = {task: split for split, tasks in SPLITS.items() for task in tasks}
    tasks = [
        word_task(root, name, words=words).model_copy(update={"kind": KINDS[name], "family": f"{name}-family"})
        for split in SPLITS.values()
        for name, words in split.items()
    ]
    config = EvaluateConfig(
        zoo=tiny_zoo.root,
        tasks=root / "tasks.yaml",
        splits=tuple(SPLITS),
        generators=("topk", "sg"),
        oracles=tiny_zoo.root,
        out=root / "out",
        seeds=(0, 1),
    )
    encoder = TextEncoder.load(folder)
    return Workspace(
        config,
        tiny_zoo,
        tiny_zoo,
        tuple(tasks),
        split_of,
        LabelTextEncoder.load(folder),
        encoder,
        {},
        reference=None,
    )


@pytest.fixture(scope="session")
def report(report_workspace) -> Report:
    return make_report(report_workspace, tuple(make_cells()))
