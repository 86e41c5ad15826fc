import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from models import write_tiny_encoder
from safetensors.torch import load_file

from loragen.config import dump_yaml, read_yaml
from loragen.errors import ConfigError, TaskError
from loragen.generators.train import read_config
from loragen.tasks.task_set import TaskSet
from loragen.zoo.build_config import ZooConfig

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import language
import language_base
from language_tables import TOLD_ANOTHER, by_domain, kept, table, tables
from language_texts import UNSEEN, gather

ROOT = Path(__file__).parents[2]
WORDS = {
    "kitchen": "soup bread spoon oven salt butter plate knife",
    "weather": "rain cloud storm frost wind snow mist hail",
    "garden": "rose hedge seed spade lawn bloom root fern",
    "harbour": "anchor sail mast crew tide rope deck gull",
    "court": "judge oath clerk plea guilt jury writ bail",
}
HELD_OUT = ("harbour", "court")
BASE = language_base.BaseRecipe(
    vocabulary=320,
    hidden=32,
    layers=2,
    heads=2,
    intermediate=48,
    window=32,
    batch=4,
    tokens=5000,
    learning_rate=1e-2,
    steps_per_checkpoint=10,
    held_out=0.05,
)


def rows_of(words: str, number: int, *, seed: int) -> list[dict[str, str]]:
    rng, known = torch.Generator().manual_seed(seed), words.split()
    return [
        {"text": " ".join(known[at] for at in torch.randint(8, (6,), generator=rng).tolist()), "label": "yes"}
        for _ in range(number)
    ]


def write_tasks(root: Path, rows: dict[str, dict[str, list[dict[str, str]]]], splits: dict[str, list[str]]) -> Path:
    """A task file of labelled tasks; rows by id, which is ``domain.number``, and by part."""
    (root / "data").mkdir(parents=True)
    for name, parts in rows.items():
        for part, lines in parts.items():
            (root / "data" / f"{name}.{part}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    source = {"train": "{id}.train.jsonl", "test": "{id}.test.jsonl", "text_pair": "text_pair"}
    entries = [
        {"id": n, "description": n, "labels": ["yes", "no"], "domain": n.partition(".")[0], "source": source}
        for n in rows
    ]
    (root / "tasks.yaml").write_text(dump_yaml({"root": "data", "tasks": entries, "splits": splits}))
    return root / "tasks.yaml"


def write_domain_tasks(root: Path, seen: list[str], unseen: list[str]) -> Path:
    entries = [
        {
            "id": name,
            "domain": name,
            "description": f"Write like people in the {name}.",
            "source": {"train": "{id}.train.jsonl", "test": "{id}.test.jsonl"},
        }
        for name in (*seen, *unseen)
    ]
    values = {"root": "runs/tasks", "tasks": entries, "splits": {"experts": seen, "unseen": unseen}}
    (root / "domains.yaml").write_text(dump_yaml(values))
    return root / "domains.yaml"


# --- texts ---


def said(*texts: str, pair: str = "") -> list[dict[str, str]]:
    return [{"text": text, "label": "yes"} | ({"text_pair": pair} if pair else {}) for text in texts]


def test_nothing_is_learnt_from_what_is_tested_or_elsewhere_or_of_an_unseen_domain(tmp_path) -> None:
    rows = {
        "kitchen.1": {
            "train": said("salt the soup", "bread and butter", "a test text", "of another split", "the judge eats"),
            "test": said("A  test TEXT", "soup to test"),
        },
        "kitchen.2": {
            "train": said("Salt  the soup", "an oven is hot", pair="knife"),
            "test": said("bread or salt", pair="a long second half"),
        },
        "court.1": {
            "train": said("the Judge eats", "an oath is sworn", "soup to test"),
            "test": said("an oven is hot", "a writ is here"),
        },
        "spare.1": {"train": said("a spare text here", "the judge eats"), "test": said("no domain has it")},
        "kitchen.3": {"train": said("of another  Split"), "test": said("a writ is here")},
    }
    splits = {"experts": ["kitchen.1", "kitchen.2", "court.1", "spare.1"], "validation": ["kitchen.3"]}
    domains = TaskSet.from_yaml(write_domain_tasks(tmp_path, ["kitchen"], ["court"]))
    found = gather(TaskSet.from_yaml(write_tasks(tmp_path, rows, splits)), domains)
    assert set(found.base) == {"Salt  the soup", "bread and butter", "a spare text here"}
    assert set(found.domains["kitchen"].train) == {"Salt  the soup", "bread and butter"}
    assert set(found.domains["kitchen"].test) == {"A  test TEXT", "bread or salt", "a long second half"}
    assert set(found.domains["court"].train) == {"the Judge eats", "an oath is sworn"}
    assert set(found.domains["court"].test) == {"an oven is hot"}


def test_a_domain_without_texts_is_named(tmp_path) -> None:
    rows = {"kitchen.1": {"train": said("salt the soup"), "test": said("bread or salt")}}
    tasks = TaskSet.from_yaml(write_tasks(tmp_path, rows, {"experts": ["kitchen.1"]}))
    with pytest.raises(TaskError, match="'court'"):
        gather(tasks, TaskSet.from_yaml(write_domain_tasks(tmp_path, ["kitchen"], ["court"])))


def test_every_fourth_domain_by_name_is_unseen() -> None:
    values = read_yaml(ROOT / "configs" / "tasks" / "domains.yaml")
    names = sorted(task["id"] for task in values["tasks"])
    assert sorted(values["splits"][UNSEEN]) == names[3::4]
    assert sorted(name for split in values["splits"].values() for name in split) == names


# --- the base ---


def test_windows_hold_the_texts_one_after_another_and_every_pass_takes_each_once(tmp_path) -> None:
    texts = [row["text"] for row in rows_of(WORDS["kitchen"], 40, seed=0)]
    tokenizer = language_base.new_tokenizer(texts, BASE, tmp_path / "tokenizer")
    windows = language_base.packed(tokenizer, texts, 8)
    assert tokenizer(texts[0])["input_ids"][0] == windows[0, 0] == tokenizer.bos_token_id
    assert "".join(f"<s>{text}</s>" for text in texts).startswith(tokenizer.decode(windows.flatten()))
    assert windows.shape[1] == 8
    recipe = replace(BASE, batch=3, steps_per_checkpoint=2)
    epochs = -(-2 * len(windows) // 6)
    drawn = torch.cat([b.ids for epoch in range(epochs) for b in language_base.batches(windows, recipe, epoch)])
    first, second = drawn[: len(windows)], drawn[len(windows) : 2 * len(windows)]
    assert sorted(first.tolist()) == sorted(second.tolist()) == sorted(windows.tolist())
    assert first.tolist() != second.tolist() != windows.tolist()


def test_a_base_that_was_interrupted_is_the_one_that_was_not(tmp_path) -> None:
    texts = [row["text"] for row in rows_of(WORDS["kitchen"], 60, seed=0)]
    recipe = replace(BASE, tokens=3000)

    def stop(step: int) -> None:
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        language_base.train_base(texts, recipe, tmp_path / "broken", on_step=stop)
    assert not (tmp_path / "broken").exists()
    with pytest.raises(ConfigError, match="another recipe"):
        language_base.train_base(texts, replace(recipe, layers=1), tmp_path / "broken")
    steps: list[int] = []
    language_base.train_base(texts, recipe, tmp_path / "broken", on_step=steps.append)
    assert steps == [*range(11, recipe.steps + 1)]
    language_base.train_base(texts, recipe, tmp_path / "whole")
    broken, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("broken", "whole"))
    assert all(torch.equal(broken[name], whole[name]) for name in whole)
    assert not (tmp_path / ".broken.partial").exists()


# --- all stages ---


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> language.Settings:
    root = tmp_path_factory.mktemp("language")
    rows = {
        f"{name}.{number}": {
            "train": rows_of(words, 60, seed=10 * i + number),
            "test": rows_of(words, 20, seed=10 * i + number + 5),
        }
        for i, (name, words) in enumerate(WORDS.items())
        for number in (1, 2)
    }
    tasks = write_tasks(root, rows, {"experts": list(rows)})
    domains = write_domain_tasks(root, [name for name in WORDS if name not in HELD_OUT], list(HELD_OUT))
    write_tiny_encoder(root / "encoder", seed=1)
    runs = root / "runs"
    zoo = [f"out={runs}/zoo", f"base={runs}/base", f"tasks={domains}", "workers=1"]
    zoo += ["recipe.steps=20", "recipe.batch_size=8", "recipe.learning_rate=0.03", "recipe.window=4"]
    zoo += ["multitask.steps=10", "multitask.steps_per_checkpoint=5"]
    train = [f"zoo={runs}/zoo", f"encoder={root}/encoder", "epochs=1", "steps_per_epoch=5", "batch_size=8"]
    of_icm = [f"tasks={domains}", "icm.channels=[2, 4]", "icm.latent_size=8"]
    return language.Settings(
        tasks=tasks,
        base=BASE,
        zoo=ZooConfig.from_yaml(ROOT / "configs" / "zoo" / "language.yaml", zoo),
        generators=tuple(
            read_config(
                ROOT / "configs" / "train" / f"language-{name}.yaml",
                [*train, f"out={runs}/zoo/generators/{name}", *changes],
            )
            for name, changes in (("sg", ["sg.hidden_size=8"]), ("icm", of_icm))
        ),
        texts=12,
        results=root / "language.json",
    )


@pytest.fixture(scope="module")
def measured(settings) -> dict:
    with pytest.raises(ConfigError, match="train it first"):
        language.run_zoo(settings)
    language.run_base(settings)
    language.run_zoo(settings)
    language.run_measure(settings)
    return kept(settings.results)


def test_an_expert_helps_its_domain_and_another_domains_description_does_not(measured) -> None:
    assert measured["base"]["recipe"] == asdict(BASE)
    rows = {name: {d: scores["bits_per_byte"] for d, scores in row.items()} for name, row in measured["rows"].items()}
    assert all(row.keys() == WORDS.keys() for row in rows.values())
    for domain in WORDS:
        assert rows["expert"][domain] < rows["base"][domain]
    for domain in set(WORDS) - set(HELD_OUT):
        assert rows["nearest"][domain] == rows["expert"][domain]
        assert rows[TOLD_ANOTHER.format("nearest")][domain] > rows["expert"][domain]
    base = {split: sum(rows["base"][d] for d in names) / len(names) for split, names in measured["groups"].items()}
    assert base["unseen"] > base["seen"]


def test_what_is_kept_is_not_measured_again_unless_its_generator_is_another(measured, settings, monkeypatch) -> None:
    judged: list[str] = []
    monkeypatch.setattr(language.Bench, "judge", lambda _self, row, *_: judged.append(row.generator) or {"new": 1.0})
    language.run_measure(settings)
    assert judged == []
    before = settings.results.read_text()
    figures = json.loads(before)
    figures["generators"]["sg"] = "another"
    settings.results.write_text(json.dumps(figures))
    language.run_measure(settings, ["base", "sg"])
    assert judged == ["sg"] * len(WORDS)
    assert list(measured["rows"]) == list(language.ROWS)
    assert measured["rows"].keys() - kept(settings.results)["rows"].keys() == {TOLD_ANOTHER.format("sg")}
    settings.results.write_text(json.dumps(figures | {"zoo": "another"}))
    with pytest.raises(ConfigError, match="another zoo"):
        language.run_measure(settings)
    settings.results.write_text(before)


def test_tables_hold_means_of_complete_rows(tmp_path) -> None:
    def scored(*values: float) -> dict[str, dict[str, float]]:
        names = ("a", "b", "c")
        return {n: {"perplexity": v, "bits_per_byte": v / 2} for n, v in zip(names, values, strict=False)}

    path = tmp_path / "language.json"
    figures = {
        "base": {"tokens": 7, "recipe": {}},
        "groups": {"seen": ["a", "b"], "unseen": ["c"]},
        "rows": {
            "base": scored(4, 9, 8),
            "topk": scored(4, 4),
            "expert": scored(2, 3, 4),
            TOLD_ANOTHER.format("topk"): scored(5, 5),
        },
    }
    path.write_text(json.dumps(figures))
    lines = table("seen", path).splitlines()
    assert lines[2:] == [
        "| base | 6.00 | 3.2500 | 0.00 |  |",
        "| topk | 4.00 | 2.0000 | 0.62 | 2.5000 |",
        "| expert | 2.45 | 1.2500 | 1.00 |  |",
    ]
    assert "topk" not in table("unseen", path)
    assert by_domain("unseen", path).splitlines()[2:] == ["| c | 4.000 | 2.000 |"]
    assert "tokens 7" in tables(path)
