"""Rooms: imports run down the list, none hides a circle, and the command line knows the public library alone."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "loragen"
ROOMS = (
    *(
        "cli",
        "lean",
        "serving",
        "bench",
        "evaluation",
        "continual",
        "compose",
        "generation",
        "combination",
        "recovery",
        "inference",
        "exporters",
    ),
    *("continual", "confidence", "adaptation"),
    *("generators", "base_store", "zoo", "recipes", "conditions", "bases", "tasks", "adapters", "training", "plotting"),
    *("bundled", "config", "yaml_text", "values", "files", "locks", "renames"),
    *("paths", "patterns", "progress", "escaping", "errors"),
)
"""From the top down; folders, and modules that stand alone."""
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
}
HEAVY = {"transformers", "peft", "lightning", "sentence_transformers", "datasets", "faiss", "sklearn", "matplotlib"}
SERVING = {"fastapi", "starlette", "uvicorn", "prometheus_client"}
HEAVY |= {"gguf", "ray", "fsspec"} | SERVING
AT_HOME = {
    "training.lightning_fit": {"lightning"},
    **{name: SERVING for name in MODULES if name.startswith("serving.routes") or name == "serving.app"},
    "serving.metrics": {"prometheus_client"},
    "serving.connections": {"uvicorn"},
    **{
        name: {"matplotlib"}
        for name in (
            *("plotting", "bench.figure", "evaluation.figures", "evaluation.calibration_figure"),
            "evaluation.sequences.figure",
        )
    },
}
FOR_CLI = ("errors", "files", "escaping", "lean")
"""Beside the public library, all that the command line imports at run time; the last is its way without torch."""


def imports(module: str, *, typing: bool = True, nested: bool = True) -> set[str]:
    """Names of all modules that a module imports; ``typing`` counts those under TYPE_CHECKING."""
    found = set()
    tree = ast.parse(MODULES[module].read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING" and not typing
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree) if nested else _top(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _top(tree: ast.Module) -> list[ast.stmt]:
    return [inner for node in tree.body for inner in ([node, *node.body] if isinstance(node, ast.Try) else [node])]


def within(module: str, **options: bool) -> set[str]:
    """Modules of the package that a module imports."""
    names = {name.removeprefix("loragen.") for name in imports(module, **options) if name.startswith("loragen.")}
    return (names & MODULES.keys()) - {module}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_its_place_in_the_list():
    assert {room(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_down_the_rooms(module):
    up = {name for name in within(module) if ROOMS.index(room(name)) < ROOMS.index(room(module))}
    assert not up, f"{module} imports {up} from rooms above its own"


def test_no_modules_import_each_other_in_a_circle():
    leaves = {module for module, path in MODULES.items() if path.stem != "__init__"}
    try:
        TopologicalSorter({module: within(module) & leaves for module in leaves}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("module", sorted(module for module in MODULES if room(module) == "cli"))
def test_the_command_line_calls_the_public_library_alone(module):
    called = {name for name in within(module, typing=False) if room(name) not in ("cli", *FOR_CLI)}
    assert not called, f"{module} reaches past `import loragen` into {called}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_heavy_imports_stand_where_they_are_used(module):
    heavy = {name.partition(".")[0] for name in imports(module, typing=False, nested=False)} & HEAVY
    assert heavy <= AT_HOME.get(module, set())


def test_what_serves_is_imported_in_its_room_alone():
    found = {module for module in MODULES if {name.partition(".")[0] for name in imports(module)} & SERVING}
    assert {room(module) for module in found} == {"serving"}


def test_one_module_imports_lightning():
    assert [m for m in MODULES if any(n.partition(".")[0] == "lightning" for n in imports(m))] == [
        "training.lightning_fit"
    ]


def test_no_module_is_longer_than_350_lines():
    long = {module: n for module, path in MODULES.items() if (n := path.read_text().count("\n")) > 350}
    assert not long


def test_nine_functions_in_ten_are_below_40_lines():
    lengths = []
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                has_docstring = ast.get_docstring(node) is not None
                begin = node.body[1 if has_docstring and len(node.body) > 1 else 0].lineno
                lengths.append(node.end_lineno - begin + 1)
    assert sum(length >= 40 for length in lengths) <= len(lengths) / 10
