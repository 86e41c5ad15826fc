"""Pages hold the tables that the benchmarks make from the figures they keep."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import adaptation
import confidence
import continual
import continual_paths
import evidence
import fewshot
import forget
import generalisation
import geometry
import icm
import language_tables
import large_zoo
import llama_cpp
import merge_rate
import novelty_tables
import recipes
import refine
import rivals
import serving
import setfit_tables
import smollm2_examples
import smollm2_tables
import unseen
import validation

import examples

ROOT = Path(__file__).parents[2]
RESULTS, LOG, LANGUAGE = "docs/results.md", "benchmarks/generalisation.md", "benchmarks/language.md"
LIVING = "docs/living-zoo.md"


def _kept(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "unseen, main": (RESULTS, lambda: unseen.main_tables(unseen.kept())),
    "unseen, few": (RESULTS, lambda: unseen.few_table(unseen.kept())),
    "unseen, small": (RESULTS, lambda: unseen.small_table(unseen.kept())),
    "evidence, near": (RESULTS, lambda: evidence.gains_table("test_near")),
    "evidence, far": (RESULTS, lambda: evidence.gains_table("test_far")),
    "evidence, small": ("README.md", evidence.small_table),
    "SetFit, near": (RESULTS, lambda: setfit_tables.beside("test_near")),
    "SetFit, far": (RESULTS, lambda: setfit_tables.beside("test_far")),
    "SetFit, near, ten draws": (RESULTS, lambda: setfit_tables.beside("test_near", least=10)),
    "SetFit, far, ten draws": (RESULTS, lambda: setfit_tables.beside("test_far", least=10)),
    **{
        f"continual, {kind}, {part}": (LIVING, lambda make=make, kind=kind: make(continual.kept(kind)))
        for kind in continual.KINDS
        for part, make in (("table", lambda report: continual.table(report.rows)), ("claims", continual.claims))
    },
    "continual, paths": (LIVING, continual_paths.table),
    "rate of merge_sequence": (LIVING, merge_rate.table),
    "LingoCL, sequence": (LIVING, lambda: recipes.table(["LingoCL, sequence"])),
    "a few examples over a generated start": (LIVING, lambda: refine.table(_kept("refine"))),
    "forgetting": (LIVING, forget.expert_table),
    "forgetting classes": (LIVING, forget.class_table),
    "adaptation": (RESULTS, adaptation.table),
    "trust": (RESULTS, lambda: evidence.trust_table(tuple(evidence.SPLITS))),
    "confidence": (RESULTS, confidence.table),
    "unseen, controls": (RESULTS, lambda: unseen.control_table(unseen.kept())),
    "validation": (RESULTS, lambda: validation.markdown(validation.kept_rows())),
    "icm, known": (RESULTS, lambda: icm.known_table(icm.kept_scores())),
    "rivals": (RESULTS, rivals.table),
    "large zoo": (RESULTS, lambda: large_zoo.table(json.loads(large_zoo.RESULTS.read_text()))),
    "SmolLM2": ("benchmarks/smollm2.md", smollm2_tables.page),
    "SmolLM2, small": ("docs/bases.md", lambda: smollm2_tables.small_table(smollm2_tables.kept())),
    "SmolLM2, examples": (
        "docs/bases.md",
        lambda: smollm2_examples.table(json.loads(smollm2_examples.RESULTS.read_text())),
    ),
    "examples": ("docs/examples.md", lambda: examples.table(examples.kept())),
    "generalisation, multi-task": (LOG, lambda: generalisation.table("multitask")),
    "generalisation, folds": (LOG, lambda: generalisation.table("folds")),
    "geometry, multi-task": (LOG, lambda: geometry.tables("multitask")),
    "geometry, folds": (LOG, lambda: geometry.tables("folds")),
    "few shots": (LOG, fewshot.table),
    **{
        f"novelty, {part}": (LIVING, lambda make=make, part=part: make(_kept("novelty")[part]))
        for part, make in (
            ("check", novelty_tables.check_table),
            ("states", novelty_tables.states_table),
            ("growth", novelty_tables.growth_table),
        )
    },
    "llama.cpp": ("docs/export.md", lambda: llama_cpp.table(json.loads(llama_cpp.RESULTS.read_text()))),
    "serving": ("benchmarks/README.md", lambda: serving.tables(json.loads(serving.RESULTS.read_text()))),
    "language, seen": (LANGUAGE, lambda: language_tables.table("seen")),
    "language, unseen": (LANGUAGE, lambda: language_tables.table("unseen")),
}
"""Name → the page that holds a table, and how it is made."""


@pytest.mark.parametrize(("page", "make"), TABLES.values(), ids=TABLES)
def test_pages_hold_the_tables_that_benchmarks_made(page, make, monkeypatch):
    monkeypatch.chdir(ROOT)
    made = make()
    assert len(made.splitlines()) >= 3
    assert made in (ROOT / page).read_text()
