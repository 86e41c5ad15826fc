"""Made-up cells of four tasks, and readers of Markdown tables, for the tests of reports."""

from loragen.bases.scores import Scores
from loragen.evaluation.cells import Cell
from loragen.evaluation.config import BASE, MULTITASK, ORACLE
from loragen.evaluation.controls import NONSENSE, OTHER, PARAPHRASE, RIGHT, SHUFFLED
from loragen.evaluation.novelty import Novelty

SPLITS = {
    "near": {"cups": ("tea", "warm"), "menus": ("cold", "soup")},
    "far": {"ovens": ("bread", "warm"), "plates": ("bread", "cold")},
}
KINDS = {"cups": "drink", "menus": "food", "ovens": "food", "plates": "food"}
ACCURACY = {
    BASE: (0.5, 0.4, 0.6, 0.3),
    MULTITASK: (0.6, 0.6, 0.6, 0.5),
    "topk": (0.6, 0.7, 0.7, 0.6),
    "sg": (0.7, 0.7, 0.6, 0.4),
    ORACLE: (0.9, 0.8, 0.8, 0.7),
}
"""Method → accuracy of cups, menus, ovens and plates; the base has 0.45 on average, the oracle 0.8."""
TOLD = (NONSENSE, SHUFFLED, OTHER, f"{PARAPHRASE} 1")


def scores(accuracy, *, short=False):
    return Scores(
        accuracy=accuracy,
        macro_f1=accuracy / 2,
        cross_entropy=2 - accuracy,
        knn_accuracy=accuracy / 4,
        v_measure=None if short else accuracy / 8,
    )


def cell(task, method, accuracy, *, seed=0, control=RIGHT, **facts):
    whole = scores(accuracy) if control == RIGHT else None
    short = scores(accuracy, short=True)
    return Cell(
        adapter="0" * 16,
        task=task,
        method=method,
        control=control,
        seed=seed,
        scores=whole,
        short=short,
        seconds=0.04,
        **facts,
    )


def make_cells(with_controls=True):
    for task, by_method in zip(KINDS, zip(*ACCURACY.values(), strict=True), strict=True):
        for method, accuracy in zip(ACCURACY, by_method, strict=True):
            facts = {"forgetting": -0.125} if method != BASE else {}
            if method in ("topk", "sg"):
                facts["novelty"] = Novelty(0.5, 0.25, 0.125, "bank", (("bank", 0.75), ("mood", 0.25)), method == "topk")
            yield cell(task, method, accuracy, **facts)
            if method == "sg":
                yield cell(task, method, accuracy, seed=1)
            if method in ("topk", "sg") and with_controls:
                yield from (cell(task, method, accuracy - 0.1, control=control) for control in TOLD)


def tables_of(text):
    """Each table of a Markdown text as rows of cells, head first."""
    tables, lines = [], []
    for line in [*text.split("\n"), ""]:
        if line.startswith("|"):
            lines.append([part.strip() for part in line.split("|")[1:-1]])
            assert line.endswith("|")
        elif lines:
            tables.append(lines)
            lines = []
    return tables


def body_of(text, number=0):
    """The rows of a table by their first cell, as mappings from its head."""
    head, _, *rows = tables_of(text)[number]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}
