"""The hypernetwork over a decoder that chats: tasks with labels and open ones, descriptions read by a text encoder."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from families import write_base, write_task

from loragen import generate, open_adapter
from loragen.adapters.adapter import Lora
from loragen.bases.language_model import LanguageModel
from loragen.bases.wording import Chat
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError
from loragen.generators.hyper.fit import HyperTrainConfig
from loragen.generators.hyper.go_on import go_on_hyper
from loragen.generators.hyper.judged_fit import Judge, OpenedZoo
from loragen.generators.hyper.model import Hyper
from loragen.generators.train import train
from loragen.zoo.build import build_zoo
from loragen.zoo.zoo import Zoo

WORDS = {"drinks": ("soup", "tea"), "meals": ("bread", "soup"), "menus": ("cold", "soup")}
OPEN = ("first", "last", "ovens")
SPLITS = {"experts": ["drinks", "meals", "first", "last"], "validation": ["menus", "ovens"]}


def open_task(folder: Path, name: str) -> dict[str, object]:
    """Copy one of the words of a text."""
    rows = [
        {"text": f"{a} {b}", "completion": a} for a in ("soup", "tea", "cold", "warm") for b in ("bread", "tea")
    ] * 4
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = str(folder / f"{name}.jsonl")
    return {
        "id": name,
        "description": f"Copy the {name} word.",
        "family": name,
        "source": {"train": path, "test": path, "completion": "completion"},
    }


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> tuple[Path, Path]:
    """A zoo over a tiny Llama, and its tasks."""
    folder = tmp_path_factory.mktemp("language")
    base = write_base(folder / "base", "llama", seed=1)
    closed = [write_task(folder / "data", "llama", name=name, words=words) for name, words in WORDS.items()]
    tasks = [task.model_dump(mode="json") for task in closed] + [open_task(folder / "data", name) for name in OPEN]
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"tasks": tasks, "splits": SPLITS}))
    recipe = {"objective": "causal_lm", "chat": {}, "r": 2, "target_modules": ["q_proj"], "steps": 4, "batch_size": 8}
    settings = {"name": "tiny", "out": str(folder / "zoo"), "base": str(base), "tasks": str(folder / "tasks.yaml")}
    settings |= {"splits": ["experts"], "recipe": recipe, "multitask": {"steps": 2}, "workers": 1, "dtype": "float32"}
    (folder / "zoo.yaml").write_text(yaml.safe_dump(settings))
    build_zoo(folder / "zoo.yaml")
    return folder / "zoo", folder / "tasks.yaml"


@pytest.fixture(scope="module")
def config(opened) -> HyperTrainConfig:
    zoo, tasks = opened
    return HyperTrainConfig(
        generator="hyper",
        zoo=zoo,
        tasks=tasks,
        out=zoo / "generators" / "hyper",
        hyper={"evidence": ["description"], "basis_size": 2, "hidden_size": 8},
        encoder="all-MiniLM-L6-v2",
        reading_model="all-MiniLM-L6-v2",
        contrast_weight=0.0,
        epochs=2,
        steps_per_epoch=3,
        batch_size=4,
        judged_texts=20,
        dtype="float32",
    )


def test_what_it_is_judged_by_is_the_loss_of_answers(opened, config) -> None:
    zoo = Zoo.open(opened[0])
    found = OpenedZoo.open(config, zoo, ("description",))
    assert isinstance(found.judge, Judge)
    assert isinstance(found.base, LanguageModel)
    assert found.base.prompt == Chat()
    coordinates = found.data.start + 0.1
    for texts, _, _ in found.judge.tasks:
        with found.base.adapted(found.data.frame.adapter(coordinates, base=None)):
            losses, counts, _ = found.base.surprises(texts.ids, texts.own_outputs())
        assert found.judge._score(coordinates, texts) == pytest.approx(-float(losses.sum() / counts.sum()), rel=1e-5)


def test_it_is_trained_and_generates_without_the_base(opened, config, tmp_path, monkeypatch) -> None:
    (tmp_path / "hyper.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    train(tmp_path / "hyper.yaml")
    monkeypatch.setattr(Zoo, "load_base", lambda *_args, **_options: pytest.fail("the base was loaded"))
    adapter = generate("Copy the middle word.", zoo=opened[0], generator="hyper")
    other = generate("Is it soup or tea?", zoo=opened[0], generator="hyper")
    assert adapter.wording == Chat()
    assert adapter.lora.settings.task_type == "CAUSAL_LM"
    site = adapter.lora.sites[0]
    assert not torch.equal(adapter.lora.delta_weight(site), other.lora.delta_weight(site))
    assert len(adapter.complete(["soup tea"], max_tokens=2)) == 1


@pytest.fixture(scope="module")
def told(config, opened) -> HyperTrainConfig:
    """The same, told the task; the adapter for all tasks stands in for one that was trained so."""
    changed = {"told": opened[0] / "multitask", "variants": 0, "out": opened[0] / "generators" / "told"}
    return config.model_copy(update=changed)


def test_told_tasks_are_read_after_one_of_their_descriptions(opened, told) -> None:
    found = OpenedZoo.open(told, Zoo.open(opened[0]), ("description",))
    (first, *_), tokenizer = found.data.tasks[0], found.base.tokenizer
    described = Zoo.open(opened[0]).card(Zoo.open(opened[0]).ids[0]).description
    assert all(described in tokenizer.decode(row) for row in first.told[0].ids)
    assert not any(described in tokenizer.decode(row) for row in first.data.ids)
    batch = first.batch(4, rng=torch.Generator().manual_seed(0))
    assert any({*map(tuple, batch.ids)} <= {*map(tuple, data.ids)} for data in first.told)
    assert found.judge is not None
    for (texts, _, _), task in zip(found.judge.tasks, ("Is it", "Copy the ovens word."), strict=True):
        assert all(task in tokenizer.decode(row) for row in texts.ids)


def test_told_adapters_begin_at_the_one_that_was_trained_so(opened, told) -> None:
    data = OpenedZoo.open(told, Zoo.open(opened[0]), ("description",)).data
    begun, wanted = data.frame.adapter(data.start, base=None), Lora.load(told.told)
    for site in wanted.sites:
        torch.testing.assert_close(begun.delta_weight(site), wanted.delta_weight(site), atol=1e-3, rtol=2e-2)
    assert data.offsets.abs().max() > 0


def test_an_adapter_that_is_told_puts_its_description_into_prompts(opened, told, tmp_path) -> None:
    (tmp_path / "told.yaml").write_text(yaml.safe_dump(told.model_dump(mode="json")))
    train(tmp_path / "told.yaml")
    description = "Copy the middle word."
    adapter = generate(description, zoo=opened[0], generator="told")
    assert adapter.wording == Chat(system=description)
    adapter.save(tmp_path / "adapter")
    loaded = open_adapter(tmp_path / "adapter")
    base = loaded.opened_base
    assert isinstance(base, LanguageModel)
    (row,) = base.prompts(["soup tea"])
    assert description in base.tokenizer.decode(row)
    bare = Zoo.open(opened[0]).load_base()
    assert loaded.with_base(bare).complete(["soup tea"]) == loaded.complete(["soup tea"])
    assert loaded.with_base(bare).opened_base.prompts(["soup tea"]) != bare.prompts(["soup tea"])
    old = Hyper.load(opened[0] / "generators" / "told")
    untold = told.model_copy(update={"told": None})
    with pytest.raises(ConfigError, match="keep 'told' as it was"):
        go_on_hyper(untold, Zoo.open(opened[0]), TextEncoder.load(), SimpleNamespace(old=old))


def test_what_cannot_be_told_is_refused(opened, told, config, tmp_path) -> None:
    zoo = Zoo.open(opened[0])
    other = Lora.from_factors(
        {"layers.0.q": torch.ones(2, 3)}, {"layers.0.q": torch.ones(3, 2)}, base_model_name_or_path="x"
    )
    other.save(tmp_path / "other")
    with pytest.raises(ConfigError, match="other sites or ranks than the experts"):
        OpenedZoo.open(told.model_copy(update={"told": tmp_path / "other"}), zoo, ("description",))
    recipe = zoo.manifest.recipe.model_copy(update={"chat": None})
    plain = replace(zoo, manifest=zoo.manifest.model_copy(update={"recipe": recipe}))
    with pytest.raises(ConfigError, match="do not chat; leave 'told' out"):
        OpenedZoo.open(told, plain, ("description",))
    for changed in ({"variants": 2}, {"objective": "both"}):
        with pytest.raises(ConfigError, match="told"):
            HyperTrainConfig.checked(told.model_dump(mode="json") | changed, source="test")
