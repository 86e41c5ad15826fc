"""Commands that write, each in a folder of its own that holds what it needs, what stood before, and files of others."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from command_line import write_adapter
from models import word_task, write_tiny_encoder

from loragen.config import dump_yaml

LOG = "out/changes.jsonl"
TASKS = {"drinks": ("soup", "tea"), "meals": ("bread", "soup"), "weather": ("cold", "warm"), "ovens": ("bread", "warm")}
FOREIGN = {
    "notes.txt": "mine",
    ".out.swp": "mine too",
    "out.partial/kept.txt": "and this",
    ".hidden/kept.txt": "and this",
}

ZOO = """\
name: tiny
out: {out}
base: {shop}/base
tasks: {shop}/tasks.yaml
splits: [{split}]
frame: multitask
start: multitask
recipe: {{r: 2, steps: 2, batch_size: 4, window: 2, snapshots: 2, choices: 1}}
multitask: {{steps: 2, steps_per_checkpoint: 1}}
score: false
dtype: float32
workers: 1
"""
TRAIN = """\
generator: sg
zoo: {shop}/zoo
encoder: {shop}/base
out: out/sg
sg: {{top_k: 1, components: 2, latent_size: 2, hidden_size: 4}}
epochs: 2
steps_per_epoch: 1
batch_size: 4
"""
EVALUATE = """\
zoo: {shop}/zoo
tasks: {shop}/tasks.yaml
splits: [unseen]
generators: [mean, topk]
oracles: {shop}/oracles
encoder: {shop}/base
out: out
seeds: [0]
with_controls: false
short: 20
unrelated: 0
unrelated_texts: 20
dtype: float32
"""


@dataclass(frozen=True)
class Case:
    """A command, run in a folder that ``prepare`` filled."""

    name: str
    argv: tuple[str, ...]
    units: tuple[str, ...]
    """Folders and files that are whole, old or new, at any time."""
    prepare: Callable[[Path, Path], None] = lambda _shop, _here: None
    """Called with the shop and the folder."""
    last_resort: tuple[str, ...] = ()
    """What a message tells to add to the command where something that is whole stands in its way."""
    grows: tuple[str, ...] = ()
    """Files that grow line by line."""
    options: dict[str, object] = field(default_factory=dict)
    """Of every run of the command."""
    is_slow: bool = False
    """Left to the long run."""


def write_shop(shop: Path, run: Callable[..., dict]) -> Path:
    """Write base, tasks, zoo, oracles, adapters, texts and configs that the commands read; they change none of it."""
    write_tiny_encoder(shop / "base", seed=1)
    tasks = [
        word_task(shop / "data", name, words=words, train=60).model_copy(update={"family": name})
        for name, words in TASKS.items()
    ]
    splits = {"experts": ["drinks", "meals"], "folded": ["drinks", "meals", "weather"], "unseen": ["ovens"]}
    (shop / "tasks.yaml").write_text(dump_yaml({"tasks": [t.model_dump(mode="json") for t in tasks], "splits": splits}))
    for out, split in (("zoo", "experts"), ("oracles", "unseen")):
        (shop / f"{out}.yaml").write_text(ZOO.format(shop=shop, out=shop / out, split=split))
        made = run(
            shop, "zoo", "build", f"{out}.yaml", *(["--set", f"start_of={shop}/zoo"] if out == "oracles" else [])
        )
        assert made["status"] == 0, made
    for seed, name in enumerate(("one", "two", "three")):
        write_adapter(shop / name, shop / "base", seed=seed)
    with (shop / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *([("a soup b", "soup"), ("tea c", "tea")] * 6)])
    with (shop / "tasks.csv").open("w", newline="") as file:
        rows = [(task, f"{word} {i} a", word) for task, words in TASKS.items() for i in range(12) for word in words]
        csv.writer(file).writerows([("task", "text", "label"), *rows])
    for name, text in (("sg", TRAIN), ("evaluate", EVALUATE)):
        (shop / f"{name}.yaml").write_text(text.format(shop=shop))
    for out, split, more in (
        ("build", "experts", ""),
        ("folds", "folded", "pooled: folded\nfolds: {number: 3, steps: 2, steps_per_checkpoint: 1}\n"),
    ):
        (shop / f"{out}.yaml").write_text(ZOO.format(shop=shop, out="out", split=split) + more)
    return shop


def _adapter_at(*places: str) -> Callable[[Path, Path], None]:
    def prepare(shop: Path, here: Path) -> None:
        for place in places:
            shutil.copytree(shop / "three", here / place)

    return prepare


def _zoo_at(place: str) -> Callable[[Path, Path], None]:
    return lambda shop, here: shutil.copytree(shop / "zoo", here / place)


def _smaller(shop: Path, here: Path) -> None:
    """The zoo without one of its experts."""
    shutil.copytree(shop / "zoo", here / "out", ignore=shutil.ignore_patterns("meals"))


def cases(shop: Path) -> list[Case]:
    """All commands."""
    ask = ("generate", "Is it tea or soup?", "--generator", "topk", "--zoo", f"{shop}/zoo", "--encoder", f"{shop}/base")
    told = ("--description", "Is it tea?", "--description", "Is it bread?")
    brought = ("zoo", "import", f"{shop}/one", f"{shop}/two", *told, "--max-loss", "1", "--zoo", "out")
    add, of_tasks = ("zoo", "add", "--zoo", "out"), ("--tasks", f"{shop}/tasks.yaml", "--no-score")
    samples, force = ("--samples", "2", "--out", "out"), ("--force",)
    old = _adapter_at("out")
    return [
        Case("generate", (*ask, "--out", "out"), ("out",)),
        Case("generate-force", (*ask, "--out", "out", *force), ("out",), old),
        Case("replace-without-exchange", (*ask, "--out", "out", *force), ("out",), old, options={"exchange": False}),
        Case("generate-samples", (*ask, *samples), ("out/sample-0", "out/sample-1"), last_resort=force),
        Case("generate-merge", (*ask, "--out", "out", "--merge"), ("out", "out-merged"), last_resort=force),
        Case(
            "generate-samples-merge-force",
            (*ask, *samples, "--merge", *force),
            tuple(f"out/sample-{i}{kind}" for i in (0, 1) for kind in ("", "-merged")),
            _adapter_at("out/sample-0", "out/sample-1"),
            is_slow=True,
        ),
        Case("combine", ("combine", f"{shop}/one", f"{shop}/two", "--out", "out", *force), ("out",), old),
        Case("merge", ("merge", f"{shop}/one", "--out", "out", *force), ("out",), old),
        Case("train", ("train", f"{shop}/sg.yaml"), ("out/sg",)),
        Case(
            "train-force",
            ("train", f"{shop}/sg.yaml", "--set", "seed=1", *force),
            ("out/sg",),
            lambda shop, here: shutil.copytree(shop / "trained", here / "out" / "sg"),
            is_slow=True,
        ),
        Case("build", ("zoo", "build", f"{shop}/build.yaml"), tuple(f"out/{u}" for u in BUILT)),
        Case(
            "build-folds",
            ("zoo", "build", f"{shop}/folds.yaml"),
            tuple(f"out/{u}" for u in (*BUILT, "experts/weather", "folds/0", "folds/1", "folds/2")),
            is_slow=True,
        ),
        Case("import-new", brought, ("out",)),
        Case("import-add", brought, ("out/experts/one", "out/experts/two"), _zoo_at("out"), grows=(LOG,)),
        Case("add", (*add, "meals", *of_tasks), ("out/experts/meals",), _smaller, grows=(LOG,)),
        Case("remove", ("zoo", "remove", "meals", "--yes", "--zoo", "out"), (), _zoo_at("out"), grows=(LOG,)),
        Case("init", ("zoo", "init", f"{shop}/tasks.csv", "--out", "out"), ("out/tasks.yaml", "out/zoo.yaml")),
        Case("evaluate", ("evaluate", f"{shop}/evaluate.yaml"), ("out/run.yaml",), grows=("out/cells.jsonl",)),
        Case(
            "classify",
            ("classify", f"{shop}/one", "--data", f"{shop}/texts.csv", "--labels", "tea,soup", "--out", "out.csv"),
            ("out.csv",),
        ),
        Case("config-copy", ("config", "copy", "train/sg", "--out", "out.yaml"), ("out.yaml",)),
    ]


BUILT = ("zoo.yaml", "start.safetensors", "multitask", "experts/drinks", "experts/meals")
