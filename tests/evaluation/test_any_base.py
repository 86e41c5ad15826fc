"""Every ready config for another base, on a tiny random model of its architecture: from experts to a merged base."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from families import FAMILIES, write_base, write_task

from loragen.bases.architecture import Architecture
from loragen.bases.open import open_base
from loragen.evaluation.config import EvaluateConfig
from loragen.evaluation.evaluate import evaluate_generators
from loragen.evaluation.figures import evaluation_plots
from loragen.generation import generate
from loragen.generators.train import train
from loragen.recipes.expert import ExpertRecipe
from loragen.zoo.build import build_zoo
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.zoo import Zoo

ROOT = Path(__file__).parent.parent.parent
CONFIGS = {
    "qwen2.5-0.5b": "qwen2",
    "llama-3-8b": "llama",
    "mistral-7b": "mistral",
    "gemma-2-2b": "gemma2",
    "flan-t5-base": "t5",
    "clip-vit-b-16": "clip",
}
WORDS = {"drinks": ("soup", "tea"), "meals": ("bread", "soup"), "menus": ("cold", "soup"), "ovens": ("bread", "warm")}
SPLITS = {"experts": ["drinks", "meals"], "validation": ["menus", "ovens"]}
TINY = {
    "zoo": ["dtype=float32", "device=cpu", "recipe.steps=4", "recipe.batch_size=8", "multitask.steps=2"],
    "train": ["epochs=1", "steps_per_epoch=2", "batch_size=4", "sg.top_k=1", "sg.components=4"],
    "evaluate": ["dtype=float32", "device=cpu", "seeds=[0]", "generators=[topk,sg]", "unrelated_texts=20", "short=20"],
}


@pytest.fixture
def workshop(tmp_path, monkeypatch) -> Path:
    """A folder with the repository's configs, and the place that their paths are relative to."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_tasks(folder: Path, family: str) -> Path:
    """Two experts' tasks and two for validation; images with captions have no classes, and their ids in a template."""
    tasks = [write_task(folder, family, name=name, words=words) for name, words in WORDS.items()]
    if FAMILIES[family].objective == "image_text":
        tasks = [task.model_copy(update={"labels": (), "description": f"a photo of {task.id}"}) for task in tasks]
    values = {"tasks": [task.model_dump(mode="json") for task in tasks], "splits": SPLITS}
    (folder / "tasks.yaml").write_text(yaml.safe_dump(values))
    return folder / "tasks.yaml"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_ready_config_goes_from_experts_to_a_merged_base(name, workshop, monkeypatch) -> None:
    family, zoo = CONFIGS[name], Path("zoo") / name
    base, tasks = write_base(workshop / "base", family, seed=1), write_tasks(workshop / "data", family)
    objective = ZooConfig.from_yaml(Path(f"configs/zoo/{name}.yaml")).recipe.objective
    assert objective == FAMILIES[family].objective
    encoder = str(base) if objective == "image_text" else "all-MiniLM-L6-v2"

    build_zoo(Path(f"configs/zoo/{name}.yaml"), [*TINY["zoo"], f"base={base}", f"tasks={tasks}"])
    train(Path(f"configs/train/{name}.yaml"), [*TINY["train"], f"encoder={encoder}"])
    adapter = generate("a photo of meals", zoo=zoo, encoder=encoder)
    assert adapter.base == str(base)
    assert (
        Architecture.fitting(str(base), adapter.lora.sites, adapter.lora.settings.task_type).faults(adapter.lora) == ()
    )
    merged_base_is_the_adapted_one(adapter, workshop, family)

    is_drawn = name in ("llama-3-8b", "clip-vit-b-16")  # which takes a third of the time, and is as for the others
    if is_drawn:
        monkeypatch.setattr("loragen.evaluation.figures.evaluation_plots", evaluation_plots)
    asked = [f"tasks={tasks}", f"encoder={encoder}", f"zoo={zoo}", f"oracles={zoo}"]
    report = evaluate_generators(Path(f"configs/evaluate/{name}.yaml"), overrides=[*TINY["evaluate"], *asked])
    main = ("image_to_text_1", "text_to_image_1") if objective == "image_text" else ("accuracy", "knn_accuracy")
    assert report.summary.main == main
    found = {(row.method, row.score) for row in report.summary.rows}
    assert {(method, score) for method in ("base", "topk", "sg", "oracle") for score in main} <= found
    assert ("base, told the task" in {method for method, _ in found}) == (objective in ("causal_lm", "seq2seq"))
    assert [path.name for path in report.files][:2] == ["report.json", "report.md"]
    assert ("gains.svg" in {path.name for path in report.files}) == is_drawn


def merged_base_is_the_adapted_one(adapter, workshop, family) -> None:
    objective = FAMILIES[family].objective
    folders = (adapter.base, str(adapter.merge(workshop / "merged")))
    base, merged = (open_base(folder, objective=objective) for folder in folders)
    task = write_task(workshop / "other", family)
    data = base.prepare(task.load_test(), max_length=32)
    wanted = base.read(data, adapter.lora)
    torch.testing.assert_close(merged.read(data).texts, wanted.texts, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(base.read(data).texts, wanted.texts, atol=1e-5)


def test_texts_without_labels_are_evaluated_by_bits_per_byte(workshop) -> None:
    """Experts of plain texts, as in ICM-LoRA's language setting: the base, their mean, and oracles of their own."""
    base = write_base(workshop / "base", "llama", seed=1)
    tasks = [write_task(workshop / "data", "llama", name=name, words=words) for name, words in WORDS.items()]
    tasks = [task.model_copy(update={"labels": ()}) for task in tasks]
    values = {"tasks": [task.model_dump(mode="json") for task in tasks], "splits": SPLITS}
    (workshop / "texts.yaml").write_text(yaml.safe_dump(values))
    zoo = workshop / "zoo"
    recipe = {"objective": "causal_lm", "r": 2, "target_modules": ["q_proj", "v_proj"], "steps": 12, "window": 4}
    config = ZooConfig(
        name="texts",
        out=zoo,
        base=str(base),
        tasks=workshop / "texts.yaml",
        splits=("experts", "validation"),
        frame="random",
        start="zero",
        recipe=ExpertRecipe(**recipe, learning_rate=3e-2, batch_size=8),
        dtype="float32",
        workers=1,
    )
    build_zoo(config)
    card = Zoo.open(zoo).card("drinks")
    assert card.after.bits_per_byte < card.before.bits_per_byte
    asked = EvaluateConfig(
        zoo=zoo,
        tasks=workshop / "texts.yaml",
        splits=("validation",),
        generators=("mean", "nearest"),
        multitask=zoo / "experts" / "drinks",
        oracles=zoo,
        out=workshop / "report",
        seeds=(0,),
        short=20,
        unrelated_texts=20,
        dtype="float32",
    )
    report = evaluate_generators(asked)
    rows = {(row.method, row.score): row for row in report.summary.rows}
    bits = {method: rows[method, "bits_per_byte"].mean.mean for method in ("base", "mean", "oracle")}
    assert max(bits["oracle"], bits["mean"]) < bits["base"]
    gain = rows["mean", "bits_per_byte"].gain.mean
    assert gain == pytest.approx((bits["base"] - bits["mean"]) / (bits["base"] - bits["oracle"]), abs=1e-3)
    assert "bits per byte" in (workshop / "report" / "report.md").read_text()


def test_clip_is_adapted_as_sg_lora_does() -> None:
    """q, k and v of the 12 blocks of the visual tower alone, at rank 2: 110,592 numbers."""
    recipe = ZooConfig.from_yaml(ROOT / "configs" / "zoo" / "clip-vit-b-16.yaml").recipe
    from transformers import CLIPConfig, CLIPModel

    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(vision_config=vision | {"image_size": 224, "patch_size": 16}))
    linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    sites = [name for name in linear if re.fullmatch(recipe.target_modules, name)]
    assert len(sites) == 36
    assert all("vision_model" in site for site in sites)
    numbers = sum(recipe.r * (linear[site].in_features + linear[site].out_features) for site in sites)
    assert numbers == 110_592
