"""Makes docs/api.md from the docstrings of the public library.

python docs/make_api.py          # writes the page
python docs/make_api.py --show   # prints it
"""

import inspect
import re
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import loragen

PAGE = Path(__file__).parent / "api.md"
GROUPS = {
    "Generate and use": ("generate", "generate_samples", "Adapter", "classify", "complete", "Prediction"),
    "Judge": ("evaluate", "evaluate_generators"),
    "Merge and check": ("combine", "recover", "check"),
    "Compose": ("compose_experts", "list_methods", "open_adapter"),
    "Serve": ("serve",),
    "Zoos that change": ("add_expert", "add_if_new", "remove_expert", "update_zoo", "list_generators"),
    "Zoos": ("Zoo", "search", "novelty", "describe_zoo", "build_zoo", "init_zoo", "import_adapters", "pack_zoo"),
    "Recipes": ("list_recipes", "bench_recipes"),
    "Train generators": ("train", "Generator"),
    "Forget": ("forget", "undo_forgetting", "forget_classes"),
    "Bases": ("get_base", "list_bases", "describe_base", "prune_base"),
    "Tasks": ("Task", "TaskSet", "Examples"),
    "Ready configs": ("config_names", "config_text", "copy_config"),
    "Errors": tuple(name for name in loragen.__all__ if name.endswith("Error")),
}


def page() -> str:
    """The whole page."""
    parts = [
        "# The library",
        "Made from the docstrings by `python docs/make_api.py`; a test holds it equal to them.",
        inspect.getdoc(loragen) or "",
    ]
    for title, names in GROUPS.items():
        parts.append(f"## {title}")
        parts += [entry(name, getattr(loragen, name)) for name in names]
    return "\n\n".join(parts) + "\n"


def entry(name: str, value: Any) -> str:
    """A function, or a class with its public methods and properties."""
    if not inspect.isclass(value):
        return f"### {name}\n\n{code(signature(name, value))}\n\n{text(value)}"
    if issubclass(value, Exception):
        bases = ", ".join(base.__name__ for base in value.__bases__)
        return f"### {name}({bases})\n\n{text(value)}"
    parts = [f"### {name}", text(value)]
    abstract = (one for one in value.__mro__[1:] if inspect.isabstract(one) and one.__module__.startswith("loragen."))
    members = {name: raw for one in (value, *abstract) for name, raw in vars(one).items()}
    for member, raw in members.items():
        if (
            member.startswith("_")
            or isinstance(raw, property | cached_property)
            or not callable(getattr(value, member))
        ):
            continue
        function = getattr(value, member)
        parts.append(f"#### {name}.{member}\n\n{code(signature(f'{name}.{member}', function))}\n\n{text(function)}")
    return "\n\n".join(parts)


def signature(name: str, function: Any) -> str:
    """A call as it would be written, a parameter a line where it is long."""
    found = inspect.signature(function)
    parameters = [parameter for parameter in found.parameters.values() if parameter.name != "self"]
    parts = [_plain(str(parameter)) for parameter in parameters]
    first = next((at for at, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), None)
    if first is not None:
        parts.insert(first, "*")
    returns = found.return_annotation
    end = "" if returns is found.empty else f" -> {_plain(inspect.formatannotation(returns))}"
    short = f"{name}({', '.join(parts)}){end}"
    if len(short) <= 100:
        return short
    return f"{name}(\n{''.join(f'    {part},{chr(10)}' for part in parts)}){end}"


def _plain(annotation: str) -> str:
    """A type without the modules of its parts; a function by its name."""
    named = re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", annotation)
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z]\w*)", "", named).replace("'", '"')


def code(source: str) -> str:
    """A block of Python."""
    return f"```python\n{source}\n```"


def text(value: Any) -> str:
    """A docstring as Markdown: sections of arguments and errors become lists."""
    lines = []
    for line in (inspect.getdoc(value) or "").splitlines():
        if line.strip() in ("Args:", "Raises:", "Returns:"):
            lines += [f"**{line.strip()[:-1]}**", ""]
        elif line.startswith("        ") and lines:
            lines[-1] += f" {line.strip()}"
        elif line.startswith("    ") and ":" in line:
            name, _, rest = line.strip().partition(":")
            lines.append(f"- `{name}`:{rest}")
        else:
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    if "--show" in sys.argv:
        sys.stdout.write(page())
    else:
        PAGE.write_text(page(), encoding="utf-8")
