"""The tables of `language.py`, from the figures that it keeps."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from score_unseen import recovered_gain

from loragen.errors import ConfigError

RESULTS = Path("benchmarks/results/language.json")
BASE, MULTITASK, EXPERT = "base", "multi-task LoRA", "expert"
TOLD_ANOTHER = "{}, told another domain"
"""Name of the row that is another row's control."""


def kept(path: Path = RESULTS) -> dict[str, Any]:
    """The figures there are."""
    return json.loads(path.read_text()) if path.exists() else {}


def table(group: str, path: Path = RESULTS) -> str:
    """Means over the domains of a group, seen or unseen, as Markdown; geometric ones of perplexity."""
    figures = kept(path)
    rows = _complete(figures, figures["groups"][group])

    def average(name: str) -> float:
        return mean(score["bits_per_byte"] for score in rows[name])

    lines = [
        "| adapter | perplexity | bits per byte | recovered gain | bits per byte, told another domain |",
        "|---" * 5 + "|",
    ]
    for name in _told_right(rows):
        perplexity = math.exp(mean(math.log(score["perplexity"]) for score in rows[name]))
        cells = [f"{perplexity:.2f}", f"{average(name):.4f}", ""]
        if {BASE, EXPERT} <= rows.keys():
            gain = recovered_gain(average(name), average(BASE), average(EXPERT))
            cells[-1] = f"{gain + 0.0:.2f}"  # 0 has no sign then
        control = TOLD_ANOTHER.format(name)
        cells.append(f"{average(control):.4f}" if control in rows else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_domain(group: str, path: Path = RESULTS) -> str:
    """Bits per byte of each domain of a group as Markdown."""
    figures = kept(path)
    domains = figures["groups"][group]
    rows = _complete(figures, domains)
    names = _told_right(rows)
    lines = [f"| domain | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for at, domain in enumerate(domains):
        cells = [f"{rows[name][at]['bits_per_byte']:.3f}" for name in names]
        lines.append(f"| {domain} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _complete(figures: Mapping[str, Any], domains: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """Rows that have all of some domains, in their order."""
    rows = figures["rows"].items()
    return {name: [row[domain] for domain in domains] for name, row in rows if row.keys() >= set(domains)}


def _told_right(rows: Mapping[str, Any]) -> list[str]:
    controls = {TOLD_ANOTHER.format(name) for name in rows}
    return [name for name in rows if name not in controls]


def tables(path: Path = RESULTS) -> str:
    """All tables.

    Raises:
        ConfigError: there are no figures.
    """
    if not kept(path):
        raise ConfigError(f"{path} holds no figures; measure first: benchmarks/language.py measure.")
    base = {name: value for name, value in kept(path)["base"].items() if name != "recipe"}
    parts = ["base: " + ", ".join(f"{name} {value}" for name, value in base.items())]
    for group in kept(path)["groups"]:
        parts += [f"{group} domains\n\n{table(group, path)}", by_domain(group, path)]
    return "\n\n".join(parts)
