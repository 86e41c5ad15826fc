"""Is a task new to the zoo? Words and texts against families that the zoo was told to leave out.

    python benchmarks/novelty.py           # what is not kept yet; features of texts are kept in out/novelty
    python benchmarks/novelty.py --show    # the tables again, from the figures kept

Two families of experts are known, and all tasks of other families among experts and validation are new. (TREC, Subj and
the other tasks of public tables of intents are test tasks here, which nothing reads.)
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from novelty_tables import BATCH, RULES, SHOWN, tables
from safetensors.torch import load_file, save
from torch import Tensor

from loragen.bases.base import Base
from loragen.cli import console
from loragen.conditions.index import Index
from loragen.conditions.text_encoder import TextEncoder
from loragen.confidence.coverage import NEW, Coverage, Reference, lesser
from loragen.confidence.describe import HELD_OUT, SEEN
from loragen.confidence.descriptors import Descriptor, Descriptors, Rule, distance, features, squared_errors
from loragen.confidence.novelty import reference_of
from loragen.files import atomic_write
from loragen.tasks.task_set import TaskSet
from loragen.zoo.expert_index import ExpertIndex, mean_direction
from loragen.zoo.zoo import SPLIT, Zoo

RESULTS, FEATURES = Path("benchmarks/results/novelty.json"), Path("out/novelty")
TASKS = Path("configs/tasks/public.yaml")
KNOWN = ("CLINC150", "TweetEval")
TESTS, DRAWS, ORDERS, LEFT_OUT = 200, 10, 5, 14
PAPERS = 2.0
"""SEMA's threshold of its z-score."""


@dataclass(frozen=True, eq=False)
class Bench:
    """The bundled zoo, its tasks, and the features of their texts."""

    zoo: Zoo
    encoder: TextEncoder

    @cached_property
    def _base(self) -> Base:
        return self.zoo.load_base()

    @cached_property
    def _tasks(self) -> TaskSet:
        return TaskSet.from_yaml(TASKS)

    def part(self, name: str, part: str) -> Tensor:
        """Features of a task's first texts in random order, of its train file (250) or its test file (200)."""
        file = FEATURES / f"{name}.{part}.safetensors"
        if not file.exists():
            task, most = self._tasks[name], SEEN + HELD_OUT if part == "train" else TESTS
            examples = task.load_train() if part == "train" else task.load_test()
            order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))[:most]
            rows = features(examples.subset(order), self._base, max_length=self.zoo.manifest.recipe.max_length)
            atomic_write(file, save({"rows": rows}))
        return load_file(file)["rows"]

    def seen(self, name: str) -> Tensor:
        """Texts that describe an expert."""
        rows = self.part(name, "train")
        return rows[: max(len(rows) - HELD_OUT, 4 * len(rows) // 5)]

    def held_out(self, name: str) -> Tensor:
        """Others of the train file."""
        return self.part(name, "train")[len(self.seen(name)) :]

    def family(self, name: str) -> str:
        """Of a task; one without a family is its own."""
        return self.zoo.card(name).family or name

    @cached_property
    def experts(self) -> tuple[str, ...]:
        """Ids of the experts that generators draw on."""
        return self.zoo.select(splits={SPLIT}).ids

    @cached_property
    def validation(self) -> tuple[str, ...]:
        """Ids of the validation tasks."""
        return self.zoo.select(splits={"validation"}).ids

    def descriptors(self, names: Iterable[str]) -> Descriptors:
        """Of some experts."""
        seen = {name: self.seen(name) for name in names}
        held_out = {name: self.held_out(name) for name in seen}
        return Descriptors.fit(seen, held_out, {name: self.family(name) for name in seen}, "")

    @cached_property
    def all_experts(self) -> Descriptors:
        """Of all of them, as the zoo holds them."""
        return self.descriptors(self.experts)

    def words(self, names: Sequence[str]) -> tuple[ExpertIndex, Reference]:
        """Some experts by description, and how near theirs are to other families'."""
        index = ExpertIndex.of(self.zoo.select(without=set(self.zoo.ids) - set(names)), self.encoder)
        reference = reference_of(index)
        assert reference is not None
        return index, reference


def auroc(known: Sequence[float], new: Sequence[float]) -> float:
    """Share of the pairs in which the new one is farther, ties counting half."""
    one, other = torch.tensor(known)[:, None], torch.tensor(new)[None]
    return float(((one < other).double() + 0.5 * (one == other).double()).mean())


# --- the card's check ---


def check(bench: Bench) -> dict[str, Any]:
    """Descriptors of two families of experts; held-out texts of theirs against those of all other families."""
    inside = [name for name in bench.experts if bench.family(name) in KNOWN]
    outside = [name for name in (*bench.experts, *bench.validation) if bench.family(name) not in KNOWN]
    made = [Descriptor.fit(bench.seen(name)) for name in inside]
    found: dict[str, Any] = {"inside": len(inside), "outside": len(outside), "auroc": {}, "auroc_text": {}}
    far = {"inside": [], "outside": []}
    for rule in RULES:
        known = [_least(rows, made, rule) for name in inside for rows in bench.part(name, "test").split(BATCH)]
        new = [_least(rows, made, rule) for name in outside for rows in bench.seen(name).split(BATCH)]
        found["auroc"][rule] = auroc(known, new)
        if rule == "errors":
            far = {"inside": known, "outside": new}
    for rule in RULES:
        known, new = (
            torch.cat([_by_text(bench, name, made, rule, test=test) for name in names]).tolist()
            for names, test in ((inside, True), (outside, False))
        )
        found["auroc_text"][rule] = auroc(known, new)
    found["above_2"] = {name: mean(value > PAPERS for value in values) for name, values in far.items()}
    to_own = {name: distance(bench.part(name, "test"), bench.all_experts.of[name], "means") for name in inside}
    found["test_file_to_own_expert"] = to_own
    found["farthest_own"] = max(bench.all_experts.own["means"].values())
    for part in ("train", "test"):
        shares = {rule: [_covered(bench, name, rule, part) for name in inside] for rule in RULES}
        found[f"covered_{part}"] = {rule: mean(each) for rule, each in shares.items()}
        found[f"tasks_{part}"] = {rule: sum(share >= 0.9 for share in each) for rule, each in shares.items()}
    return found


def _least(rows: Tensor, made: Sequence[Descriptor], rule: Rule) -> float:
    return min(distance(rows, one, rule) for one in made)


def _by_text(bench: Bench, name: str, made: Sequence[Descriptor], rule: Rule, *, test: bool) -> Tensor:
    """The same of each text alone."""
    rows = bench.part(name, "test") if test else bench.held_out(name)
    if rule == "means":
        return torch.stack([(rows - one.centre).square().sum(1) for one in made]).min(0).values
    errors = [(squared_errors(rows, one.centre, one.directions) - one.mean).abs() / one.deviation for one in made]
    return torch.stack(errors).min(0).values


def _covered(bench: Bench, name: str, rule: Rule, part: str) -> float:
    """Share of draws of half of a task's texts, held out of the train file or of the test file, that are covered."""
    rng, states = torch.Generator().manual_seed(0), []
    rows = bench.held_out(name) if part == "train" else bench.part(name, "test")
    for _ in range(DRAWS):
        half = rows[torch.randperm(len(rows), generator=rng)[: len(rows) // 2]]
        states.append(bench.all_experts.coverage(half, bench.experts, rule=rule).state)
    return states.count("covered") / len(states)


# --- states ---


def states(bench: Bench) -> dict[str, dict[str, dict[str, float]]]:
    """Group of tasks → evidence → share of each state."""
    families = {bench.family(name) for name in bench.experts}
    several = [name for name in bench.experts if sum(bench.family(name) == bench.family(o) for o in bench.experts) > 1]
    own = {name: set(bench.experts) for name in bench.experts}
    alone = {name: set(bench.experts) - {name} for name in several}
    left = {name: {o for o in bench.experts if bench.family(o) != bench.family(name)} for name in bench.experts}
    inside = {name: set(bench.experts) for name in bench.validation if bench.family(name) in families}
    outside = {name: set(bench.experts) for name in bench.validation if bench.family(name) not in families}
    groups = {
        "own task, other texts and words": own,
        "its expert left out, its family there": alone,
        "its family left out": left,
        "validation, family in the zoo": inside,
        "validation, family not in the zoo": outside,
    }
    return {
        group: {"tasks": len(tasks), **_shares([_coverages(bench, name, few) for name, few in tasks.items()])}
        for group, tasks in groups.items()
    }


def _coverages(bench: Bench, name: str, experts: set[str]) -> list[dict[str, Coverage]]:
    """By evidence, for each description of a task, of which its own expert, if there, knows the others alone."""
    index, reference = bench.words(bench.experts)
    by_texts = {rule: bench.all_experts.coverage(bench.held_out(name), sorted(experts), rule=rule) for rule in RULES}
    found = []
    vectors = bench.encoder.encode(bench.zoo.card(name).descriptions)
    for at, query in enumerate(vectors):
        rows = {one: index.index.vectors[index.index.ids.index(one)] for one in experts}
        if name in rows:
            rows[name] = mean_direction(torch.cat([vectors[:at], vectors[at + 1 :]]))
        (hit,) = Index.build(tuple(rows), torch.stack(list(rows.values()))).search(query, 1)
        words = reference.coverage(hit.similarity, "description", [(hit.id, hit.similarity)])
        found.append({"description": words, **by_texts, "both": lesser(words, by_texts["means"])})
    return found


def _shares(tasks: Sequence[Sequence[Mapping[str, Coverage]]]) -> dict[str, Any]:
    each = [one for task in tasks for one in task]
    return {
        evidence: {state: mean(one[evidence].state == state for one in each) for state in ("covered", "near", "new")}
        for evidence in SHOWN
    }


# --- growth ---


def growth(bench: Bench) -> dict[str, Any]:
    """Tasks that come one by one to a zoo without whole families; a new one gets an expert. Means over orders."""
    families = sorted({bench.family(name) for name in bench.experts})
    rng = torch.Generator().manual_seed(0)
    out: list[str] = []
    for at in torch.randperm(len(families), generator=rng).tolist():
        members = [name for name in bench.experts if bench.family(name) == families[at]]
        out += members if len(out) + len(members) <= LEFT_OUT else []
    begun = [name for name in bench.experts if name not in out]
    coming = [*out, *bench.validation]
    curves: dict[str, list[list[int]]] = {}
    texts, words = bench.descriptors(begun), bench.words(begun)
    for _ in range(ORDERS):
        order = [coming[at] for at in torch.randperm(len(coming), generator=rng).tolist()]
        for evidence in SHOWN:
            curves.setdefault(evidence, []).append(_grown(bench, order, evidence, begun, texts, words))
        curves.setdefault("paper", []).append(_grown(bench, order, "paper", begun, texts, words))
    added = {name: [mean(step) for step in zip(*rows, strict=True)] for name, rows in curves.items()}
    return {"begun": len(begun), "tasks": len(coming), "left_out": len(out), "added": added}


def _grown(
    bench: Bench,
    order: Sequence[str],
    evidence: str,
    begun: Sequence[str],
    texts: Descriptors,
    words: tuple[ExpertIndex, Reference],
) -> list[int]:
    """Number of experts that were added after each task."""
    there, counts, added = list(begun), [], 0
    index, reference = words
    vectors = {name: index.index.vectors[at] for at, name in enumerate(index.index.ids)}
    for name in order:
        rule: Rule = "errors" if evidence in ("errors", "paper") else "means"
        by_texts = texts.coverage(bench.held_out(name), there, rule=rule)
        embedded = bench.encoder.encode(bench.zoo.card(name).descriptions)
        (hit,) = Index.build(tuple(vectors), torch.stack(list(vectors.values()))).search(embedded[0], 1)
        by_words = reference.coverage(hit.similarity, "description", [(hit.id, hit.similarity)])
        figure = {"description": by_words.figure, "both": min(by_words.figure, by_texts.figure)}
        is_new = (
            by_texts.nearest[0].value > PAPERS if evidence == "paper" else figure.get(evidence, by_texts.figure) < NEW
        )
        if is_new:
            there.append(name)
            vectors[name] = mean_direction(embedded)
            texts = replace(texts, of={**texts.of, name: Descriptor.fit(bench.seen(name))})
        added += is_new
        counts.append(added)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the tables of the last run")
    if not parser.parse_args().show:
        bench = Bench(Zoo.open(), TextEncoder.load())
        with console.progress() as update:
            names = (*bench.experts, *bench.validation)
            for done, name in enumerate(names):
                update("reading texts", done, len(names))
                bench.part(name, "train")
                if bench.family(name) in KNOWN and name in bench.experts:
                    bench.part(name, "test")
            update("reading texts", len(names), len(names))
        found = {"check": check(bench), "states": states(bench), "growth": growth(bench)}
        atomic_write(RESULTS, json.dumps(rounded(found), indent=1) + "\n")
    print(tables(json.loads(RESULTS.read_text())))


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
