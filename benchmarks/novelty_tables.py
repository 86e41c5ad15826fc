"""The tables of `novelty.py`, from the figures that it keeps."""

from collections.abc import Mapping
from typing import Any

from loragen.confidence.descriptors import Rule

RULES: tuple[Rule, ...] = ("means", "errors")
BATCH = 50
"""Texts that are compared at once."""
SHOWN = {
    "means": "texts, means",
    "errors": "texts, errors",
    "description": "description",
    "both": "description and texts",
}


def tables(kept: Mapping[str, Any]) -> str:
    """All that was measured, as Markdown."""
    return "\n\n".join((check_table(kept["check"]), states_table(kept["states"]), growth_table(kept["growth"])))


def check_table(kept: Mapping[str, Any]) -> str:
    lines = ["| | means | errors, as in SEMA |", "|---" * 3 + "|"]
    rows = {f"AUROC, {BATCH} texts at once": "auroc", "AUROC, one text": "auroc_text"}
    rows |= {f"draws of texts held out, {part} file: share covered": f"covered_{part}" for part in ("train", "test")}
    for title, field in rows.items():
        lines.append(f"| {title} | " + " | ".join(f"{kept[field][rule]:.2f}" for rule in RULES) + " |")
    for part in ("train", "test"):
        cells = " | ".join(f"{kept[f'tasks_{part}'][rule]} of {kept['inside']}" for rule in RULES)
        lines.append(f"| tasks with nine in ten of those draws covered, {part} file | {cells} |")
    above = kept["above_2"]
    lines.append(f"| z above 2: texts of other families | | {above['outside']:.2f} |")
    lines.append(f"| z above 2: texts of the experts' own tasks | | {above['inside']:.2f} |")
    return "\n".join(lines)


def states_table(kept: Mapping[str, Any]) -> str:
    lines = ["| tasks | " + " | ".join(SHOWN.values()) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for group, row in kept.items():
        cells = (" · ".join(f"{row[name][state]:.2f}" for state in ("covered", "near", "new")) for name in SHOWN)
        lines.append(f"| {group} ({row['tasks']}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def growth_table(kept: Mapping[str, Any]) -> str:
    marks = [kept["tasks"] // 3, 2 * kept["tasks"] // 3, kept["tasks"]]
    lines = ["| experts added after | " + " | ".join(f"{mark} tasks" for mark in marks) + " |", "|---" * 4 + "|"]
    for name, title in (SHOWN | {"paper": "texts, errors, z above 2 as in SEMA"}).items():
        lines.append(f"| {title} | " + " | ".join(f"{kept['added'][name][mark - 1]:.1f}" for mark in marks) + " |")
    return "\n".join(lines)
