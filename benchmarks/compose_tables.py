"""Tables of benchmarks/compose.py as Markdown, and the checks that were set for it beforehand."""

from collections.abc import Mapping
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]
TITLES = {
    "domains": "Ten domains of requests to an assistant",
    "families": "Six families",
}
GREEDY, SINGLE = "greedy experts a text (oracle)", "best single expert"


def tables(kept: Mapping[str, Rows]) -> str:
    """A table and the checks of each set."""
    parts = []
    for name, rows in kept.items():
        texts = max((row["texts"] for row in rows.values()), default=0)
        parts += [f"### {TITLES[name]}, {texts} texts", "", table(rows), "", checks(rows), ""]
    return "\n".join(parts).rstrip()


def table(rows: Rows) -> str:
    """A line a row."""
    lines = ["| | accuracy | cross-entropy | experts active | ms a text |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        shown = [_number(row["accuracy"], ".3f"), _number(row["loss"], ".3f"), _number(row["experts_active"], ".1f")]
        lines.append(f"| {name} | {' | '.join(shown)} | {_number(row['milliseconds'], '.2f')} |")
    return "\n".join(lines)


def checks(rows: Rows) -> str:
    """Which of the checks hold that were set before anything was measured, as far as their rows are there."""
    found = []

    def check(what: str, wanted: str, other: str, least: float) -> None:
        if {wanted, other} <= rows.keys():
            difference = rows[wanted]["accuracy"] - rows[other]["accuracy"]
            found.append((f"{what} ({difference:+.3f})", difference >= least))

    check("mora is not more than a point below arrow", "mora", "arrow", -0.01)
    check("mora is not below uniform", "mora", "uniform", 0.0)
    check("smora is not below mora", "smora", "mora", 0.0)
    check("smora is not below uniform", "smora", "uniform", 0.0)
    check("brainstacks is a point above the best single expert", "brainstacks", SINGLE, 0.01)
    if {"brainstacks", GREEDY, "base"} <= rows.keys():
        whole = rows["base"]["loss"] - rows[GREEDY]["loss"]
        share = (rows["base"]["loss"] - rows["brainstacks"]["loss"]) / whole if whole else 0.0
        found.append((f"brainstacks has nine tenths of the greedy oracle's gain in loss ({share:.2f})", share >= 0.9))
    return "\n".join(f"* {'holds' if good else '**does not hold**'}: {what}" for what, good in found)


def below_uniform(kept: Mapping[str, Rows], methods: tuple[str, ...]) -> list[str]:
    """Methods that, with their defaults, end below equal shares in every set: they ship marked experimental."""
    measured = [rows for rows in kept.values() if "uniform" in rows]
    return [
        method
        for method in methods
        if measured
        and all(method in rows and rows[method]["accuracy"] < rows["uniform"]["accuracy"] for rows in measured)
    ]


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
