"""Promises about the package as a whole: layers, imports, configs, README."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from loragen.cli.app import app
from loragen.evaluation.evaluate import EvaluateConfig
from loragen.generators.train import read_config
from loragen.tasks.task_set import TaskSetConfig
from loragen.zoo.build import ZooConfig

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "loragen").rglob("*.py")
}
# From the bottom up; a module may import those of earlier rows, and of its own row.
LAYERS = [
    {"errors", "files", "schedule", "objective", "losses", "taskdata", "bert"},
    {"config", "lora_settings", "rows"},
    {"adapter"},
    {"codec", "frame", "raw", "tasks", "embedding", "index", "sparse_merging"},
    {"merging", "baking", "backbone", "blueprint", "servers", "foreign"},
    {"language", "images"},
    {"bases"},
    {"classification", "experts", "training", "plotting", "task_vectors"},
    {"fewshot", "folds", "evaluation", "evaluation.scoring", "evaluation.statistics", "evaluation.controls"},
    {"evaluation.open_scoring"},
    {"zoo"},
    {"generators", "generators.base", "generators.gaussian"},
    {"generators.library", "generators.trained", "generators.conditions"},
    {"generators.task_loss"},
    {"generators.task_episodes"},
    {"generators.task_fit"},
    {"generators.polish"},
    {
        "generators.attention",
        "generators.hyper",
        "generators.merge",
        "generators.ridge",
        "generators.sg",
        "generators.icm",
    },
    {"generators.sg_fit", "generators.icm_episodes", "generators.catalogue"},
    {"generators.icm_fit", "generators.attention_fit", "generators.hyper_fit"},
    {"evaluation.unseen", "evaluation.novelty", "evaluation.single", "emission", "foundry", "runs", "imports"},
    {"evaluation.cells", "evaluation.evaluate"},
    {"evaluation.summary"},
    {"evaluation.report"},
    {"evaluation.plots"},
    {"commands", "commands.options", "commands.combine", "commands.check", "commands.complete", "commands.imports"},
    {"console", "cli", "__main__", "__init__"},
]
HEAVY = {
    "transformers",
    "peft",
    "lightning",
    "sentence_transformers",
    "datasets",
    "faiss",
    "sklearn",
    "matplotlib",
    "rich",
}
AT_HOME = {
    "training": {"lightning"},
    "plotting": {"matplotlib"},
    "evaluation.plots": {"matplotlib"},
    "console": {"rich"},
}


def short(module: str) -> str:
    return module.removeprefix("loragen").removeprefix(".") or "__init__"


def top_level_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.parse(path.read_text()).body:
        for inner in [node, *(getattr(node, "body", []) if isinstance(node, ast.Try) else [])]:
            if isinstance(inner, ast.Import):
                found |= {alias.name for alias in inner.names}
            elif isinstance(inner, ast.ImportFrom):
                found.add(inner.module or "")
    return found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down_only(module: str) -> None:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    assert short(module) in level, f"give {module} a layer"
    for imported in top_level_imports(MODULES[module]):
        if imported.startswith("loragen"):
            assert level[short(imported)] <= level[short(module)], f"{module} imports {imported}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_heavy_imports_stand_where_they_are_used(module: str) -> None:
    heavy = {name.partition(".")[0] for name in top_level_imports(MODULES[module])} & HEAVY
    assert heavy <= AT_HOME.get(short(module), set())


def test_only_training_imports_lightning() -> None:
    importing = {
        short(module)
        for module, path in MODULES.items()
        if re.search(r"^\s*(import|from) lightning", path.read_text(), re.MULTILINE)
    }
    assert importing == {"training"}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_valid(path: Path) -> None:
    {
        "zoo": ZooConfig.from_yaml,
        "train": read_config,
        "tasks": TaskSetConfig.from_yaml,
        "evaluate": EvaluateConfig.from_yaml,
    }[path.parent.name](path)


def test_torch_is_pinned_for_the_tested_install() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert pins["torch"] == "2.13.0"
    names = [
        re.split(r"[<>=]", requirement)[0]
        for requirement in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    known = {name.casefold().replace("_", "-") for name in pins}
    assert [name for name in names if name.casefold() not in known] == []


# --- README ---

README = (ROOT / "README.md").read_text()


def commands() -> dict[str, list[str]]:
    """Command → the options its help knows."""
    root = typer.main.get_command(app)
    found = {}
    for name, command in root.commands.items():
        for path, leaf in [(name, command), *((f"{name} {n}", c) for n, c in getattr(command, "commands", {}).items())]:
            found[path] = [option for parameter in leaf.params for option in parameter.opts]
    return found


def test_readme_names_only_commands_and_options_that_exist() -> None:
    known = commands()
    lines = re.findall(r"^\$ loragen (.+)$", README, re.MULTILINE)
    lines += re.findall(r"`loragen ([^`|\\]+)`", README)
    assert len(lines) > 5
    for line in lines:
        words = shlex.split(line.partition("#")[0].replace("…", ""))
        if words == ["--help"]:
            continue
        command = " ".join(words[:2]) if words[0] == "zoo" else words[0]
        assert command in known, line
        assert {word for word in words if word.startswith("--")} <= set(known[command]), line


def test_readme_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_readme_says_what_loragen_is_not_in_its_first_lines() -> None:
    assert "LoRAGen and LoRA-Gen" in "\n".join(README.splitlines()[:8])


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "$ make test" in README
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()


def test_oracles_are_trained_like_the_experts_of_the_shipped_zoo_but_for_their_tuning() -> None:
    zoo, oracles = (ZooConfig.from_yaml(ROOT / "configs" / "zoo" / f"{name}.yaml") for name in ("minilm", "oracles"))
    for field in ("base", "frame", "start", "multitask"):
        assert getattr(zoo, field) == getattr(oracles, field)
    tuned = {"learning_rate": oracles.recipe.learning_rate, "steps": oracles.recipe.steps}
    assert zoo.recipe.model_copy(update=tuned) == oracles.recipe
    assert oracles.start_of == zoo.out
    assert not oracles.out.is_relative_to(zoo.out), "a library must never hold them"


HELD_BY = {
    **dict.fromkeys(("generalisation", "geometry", "fewshot"), "benchmarks/generalisation.md"),
    "language_tables": "benchmarks/language.md",
}


@pytest.mark.parametrize(
    "table",
    [
        "unseen.main_tables(unseen.kept())",
        "unseen.few_table(unseen.kept())",
        "unseen.control_table(unseen.kept())",
        "validation.markdown(validation.kept_rows())",
        "icm.known_table(icm.kept_scores())",
        "rivals.table()",
        "large_zoo.table(large_zoo.json.loads(large_zoo.RESULTS.read_text()))",
        "generalisation.table('multitask')",
        "generalisation.table('folds')",
        "geometry.tables('multitask')",
        "geometry.tables('folds')",
        "fewshot.table()",
        "language_tables.table('seen')",
        "language_tables.table('unseen')",
    ],
)
def test_readme_and_logs_hold_the_tables_that_benchmarks_made(table: str) -> None:
    module = table.partition(".")[0]
    script = f"import sys; sys.path.insert(0, 'benchmarks'); import {module}; print({table})"
    made = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made.count("\n") >= 6
    assert made.strip() in (ROOT / HELD_BY.get(module, "README.md")).read_text()
