"""Promises about the package as a whole: the public library, configs, pins, CI."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import loragen
from loragen.bench.config import RecipeBenchConfig
from loragen.evaluation.config import EvaluateConfig
from loragen.evaluation.sequences.config import SequenceConfig
from loragen.generators.train import read_config
from loragen.tasks.task_set import TaskSetConfig
from loragen.zoo.build_config import ZooConfig

ROOT = Path(__file__).parent.parent


# --- the public library ---


def test_every_public_name_is_there_and_documented():
    for name in loragen.__all__:
        value = getattr(loragen, name)
        assert value.__doc__, name
        assert name in dir(loragen)
    assert sorted(loragen.__all__) == loragen.__all__ or set(loragen.__all__) == set(dict.fromkeys(loragen.__all__))


def test_names_for_type_checkers_are_those_that_are_there():
    """The imports under TYPE_CHECKING, the table of homes and ``__all__`` agree, name by name and module by module."""
    tree = ast.parse((ROOT / "loragen" / "__init__.py").read_text())
    typed = {
        alias.name: node.module
        for outer in tree.body
        if isinstance(outer, ast.If)
        for node in outer.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {name: f"loragen.{home}" for name, home in loragen._HOMES.items()}
    assert set(loragen.__all__) == set(typed) | {name for name in loragen.__all__ if name.endswith("Error")}


def test_importing_the_library_imports_nothing_heavy():
    script = (
        "import sys, loragen; print([m for m in ('torch', 'transformers', 'pydantic', 'rich') if m in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        _ = loragen.generat  # type: ignore[attr-defined]


# --- configs and pins ---


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_config_is_valid_and_says_what_it_is_for(path):
    {
        "bench": RecipeBenchConfig.from_yaml,
        "zoo": ZooConfig.from_yaml,
        "train": read_config,
        "tasks": TaskSetConfig.from_yaml,
        "evaluate": EvaluateConfig.from_yaml,
        "sequence": SequenceConfig.from_yaml,
    }[path.parent.name](path)
    assert path.read_text().startswith("# ")


def test_no_config_names_a_place_outside_the_repository():
    outside = [path for path in (ROOT / "configs").rglob("*.yaml") if "../../.." in path.read_text()]
    assert outside == []


def test_torch_is_pinned_for_the_tested_install():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert pins["torch"] == "2.13.0"
    names = [
        re.split(r"[<>=]", requirement)[0]
        for requirement in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    known = {name.casefold().replace("_", "-") for name in pins}
    assert [name for name in names if name.casefold() not in known] == []


def test_ci_runs_the_test_command_of_the_readme():
    assert "$ make test" in (ROOT / "README.md").read_text()
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()


def test_oracles_are_trained_like_the_experts_of_the_bundled_zoo_but_for_their_tuning():
    zoo, oracles = (ZooConfig.from_yaml(ROOT / "configs" / "zoo" / f"{name}.yaml") for name in ("minilm", "oracles"))
    for field in ("base", "frame", "start", "multitask"):
        assert getattr(zoo, field) == getattr(oracles, field)
    tuned = {"learning_rate": oracles.recipe.learning_rate, "steps": oracles.recipe.steps}
    assert zoo.recipe.model_copy(update=tuned) == oracles.recipe
    assert oracles.start_of == zoo.out
    assert not oracles.out.is_relative_to(zoo.out), "a library must never hold them"
