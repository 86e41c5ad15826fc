"""Writes the folder of tasks that the shipped configs read: the table, the splits and the texts of every task.

    python benchmarks/fetch_tasks.py --list                               # where each family of tasks comes from
    python benchmarks/fetch_tasks.py --out data/tasks                     # clones each source and converts its texts
    python benchmarks/fetch_tasks.py --out data/tasks --family CLINC150   # one family; may be given several times
    python benchmarks/fetch_tasks.py --out data/tasks --from clones       # from clones/<repository>, nothing is loaded

What a task is stands on the cards of the zoo and of the oracles; how its source is read stands in task_sources.yaml,
a family an entry. Texts are not part of loragen: each source has its own licence, which --list names. A file holds at
most 1,500 train or 500 test examples, chosen by their hashes, or all there are with --all. The samples behind
the published figures were other ones of the same texts, so figures on these files differ a little.

Exits with status 2 where a task lacks a file at the end, naming it, unless --partial is given.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from task_readers import Example, Spec, examples, key_of

from loragen.errors import LoragenError, TaskError
from loragen.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
CARDS = (ROOT / "zoo/minilm/experts", ROOT / "benchmarks/oracles/experts")
SOURCES = Path(__file__).with_name("task_sources.yaml")
SPLITS = ("experts", "validation", "test_near", "test_far")
COLUMNS = {  # column of the table: field of a card
    **{name: name for name in ("id", "family", "domain", "kind", "description")},
    **{"descriptions": "paraphrases", "labels": "labels", "source": "origin", "commit": "commit", "licence": "licence"},
}
MOST = {"train": 1500, "test": 500}
FEWEST = {"train": 15, "test": 4}
"""Examples of each label in a sample, where there are so many."""
OWN = "split by a hash of the text: not the split behind the published figures"
ORIGINAL = "the source's own split"

Card = dict[str, Any]


def read_cards(folders: Sequence[Path] = CARDS) -> dict[str, Card]:
    """Every card under the folders of experts, by id."""
    cards: dict[str, Card] = {}
    for path in chain.from_iterable(sorted(folder.glob("*/card.yaml")) for folder in folders):
        card = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        cards.setdefault(card["id"], card)
    if not cards:
        raise TaskError(f"no cards under {', '.join(map(str, folders))}; run this from a checkout of the repository")
    return cards


def table(cards: Mapping[str, Card], families: Mapping[str, Spec]) -> list[dict[str, Any]]:
    """Rows of tasks.json, in the order of the sources."""
    named = [(task, spec) for spec in families.values() for task in spec["tasks"]]
    if {task for task, _ in named} != set(cards):
        odd = sorted({task for task, _ in named} ^ set(cards))
        raise TaskError(f"cards and {SOURCES.name} name different tasks: {', '.join(odd)}")
    return [
        {column: cards[task][field] for column, field in COLUMNS.items()} | {"split": split_of(spec)}
        for task, spec in named
    ]


def splits(cards: Mapping[str, Card], families: Mapping[str, Spec]) -> dict[str, list[str]]:
    """Ids by split, in the order of the sources."""
    named = [task for spec in families.values() for task in spec["tasks"]]
    return {split: [task for task in named if cards[task]["split"] == split] for split in SPLITS}


def load_families(path: Path = SOURCES) -> dict[str, Spec]:
    """Entries of task_sources.yaml, with its named lists put in where an entry names them."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))

    def filled(entry: Spec | None) -> Spec:
        named = {"rules", "same", "languages"} & set(entry or ())
        return {**(entry or {}), **{field: content["lists"][entry[field]] for field in named if entry}}

    return {
        family: {**filled(spec), "tasks": {task: filled(own) for task, own in spec["tasks"].items()}}
        for family, spec in content["families"].items()
    }


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def _unmarked(example: Example) -> str:
    return re.sub(r"[<>\[\]]", "", example.key)


def _sample(found: list[Example], part: str, hold: Mapping[str, float]) -> list[Example]:
    """Of each label the examples with the lowest hashes: a few, and an equal share of the others it has.

    A label in `hold` counts as if it had no more examples than make up its share.
    """
    found = sorted(found, key=lambda example: _hash(example.key))
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in found:
        by_label[example.label].append(example)
    free = sum(len(own) for label, own in by_label.items() if label not in hold)
    most = {label: int(free * share / (1 - sum(hold.values()))) for label, share in hold.items()}
    there = {label: min(len(own), most.get(label, len(own))) for label, own in by_label.items()}
    few = {label: min(count, FEWEST[part]) for label, count in there.items()}
    spare = sum(there.values()) - sum(few.values())
    share = min(1.0, (MOST[part] - sum(few.values())) / spare) if spare else 0.0
    counts = {label: few[label] + int((there[label] - few[label]) * share) for label in there}
    return sorted(
        (example for label, own in by_label.items() for example in own[: counts[label]]),
        key=lambda example: _hash(example.key),
    )


def convert(folder: Path, spec: Spec, everything: bool = False) -> dict[str, list[Example]]:
    """Train and test examples of one task; no text is in both.

    Args:
        folder: the source's repository, unpacked.
        spec: what task_sources.yaml says of the family and of the task, and as `known` the labels on the task's card.
        everything: keep all examples that there are, in place of a sample.
    """
    train = examples(folder, spec, "train")
    if spec["split"] == "own":
        parts: dict[str, list[Example]] = {"train": [], "test": []}
        for example in train:
            parts["train" if _hash(example.group) % 4 else "test"].append(example)
    elif "tested_in" in spec:
        other = {**spec, "patterns": {"any": ".*"}, "labels": {}, **spec["tested_in"]}
        tested = {_unmarked(example) for example in examples(folder, other, "test")}
        parts = {"train": train, "test": [example for example in train if _unmarked(example) in tested]}
    else:
        parts = {"train": train, "test": examples(folder, spec, "test")}
    tested = {example.key for example in parts["test"]}
    parts["train"] = [example for example in parts["train"] if example.key not in tested]
    if everything:
        return parts
    return {part: _sample(found, part, spec.get("hold", {})) for part, found in parts.items()}


def _git(*words: str) -> str:
    """What a git command prints."""
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(["git", *words], check=True, capture_output=True, text=True, env=env)
    except FileNotFoundError as error:
        raise TaskError("git is not installed; install it, or name a folder of clones with --from") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise TaskError(f"git {' '.join(words[:4])} failed: {last}") from error
    return done.stdout.strip()


@contextmanager
def repository(source: str, commit: str, clones: Path | None) -> Iterator[Path]:
    """A source's files at the commit: under the folder of clones, or loaded into a folder that goes away again."""
    name = source.rstrip("/").rsplit("/", 1)[-1]
    if clones is not None:
        folder = clones / name
        if not folder.is_dir():
            raise TaskError(f"no folder {folder}; clone {source} there, at commit {commit}")
        at = _git("-C", str(folder), "rev-parse", "HEAD") if (folder / ".git").exists() else commit
        if at != commit:
            print(f"{folder} is at commit {at}, not at {commit}: its texts may be other ones")
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="fetch_tasks.") as holder:
        folder = Path(holder) / name
        _git("init", "--quiet", str(folder))
        _git("-C", str(folder), "fetch", "--quiet", "--depth", "1", source, commit)
        _git("-C", str(folder), "checkout", "--quiet", "FETCH_HEAD")
        yield folder


def paths(out: Path, task: str) -> dict[str, Path]:
    """The two files of a task."""
    return {part: out / f"{task}.{part}.jsonl" for part in MOST}


def fetch(folder: Path, spec: Spec, cards: Mapping[str, Card], out: Path, everything: bool) -> None:
    """Write the files of one family's tasks, from its source's repository."""
    for task, own in spec["tasks"].items():
        parts = convert(folder, {**spec, **own, "known": cards[task]["labels"]}, everything)
        for part, path in paths(out, task).items():
            if not parts[part]:
                raise TaskError(f"{folder} holds no {part} texts of {task}; is it at the commit that --list names?")
            atomic_write(path, "".join(example.line() for example in parts[part]))


def fetch_all(cards: Mapping[str, Card], chosen: Mapping[str, Spec], options: argparse.Namespace) -> list[str]:
    """Write the files of the chosen families, each source loaded once; a line for each failure."""
    sources: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, spec in chosen.items():
        card = cards[next(iter(spec["tasks"]))]
        sources[card["origin"], card["commit"]].append(name)
    failures = []
    for (source, commit), names in sources.items():
        name = ", ".join(names)
        try:
            with repository(source, commit, options.clones) as folder:
                for name in names:
                    fetch(folder, chosen[name], cards, options.out, options.all)
                    print(f"{name}: {len(chosen[name]['tasks'])} tasks, {split_of(chosen[name])}", flush=True)
        except TaskError as error:
            failures.append(f"{name}: {error}")
    return failures


def separate(out: Path, tasks: Sequence[str]) -> None:
    """Take out of the train files what stands in any test file: tasks share texts, within a family and beyond it."""

    def keyed(path: Path) -> list[tuple[str, str]]:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        rows = [(json.loads(line), line) for line in lines]
        return [(key_of(row["text"], row.get("text_pair")), line) for row, line in rows]

    tested = {key for task in tasks for key, _ in keyed(paths(out, task)["test"])}
    for task in tasks:
        path = paths(out, task)["train"]
        lines = keyed(path)
        kept = [line for key, line in lines if key not in tested]
        if len(kept) < len(lines):
            print(f"{path.name}: left out {len(lines) - len(kept)} texts that another task is tested on")
            atomic_write(path, "".join(kept))


def split_of(spec: Spec) -> str:
    """In words: whose split of train and test texts a family has."""
    return OWN if spec["split"] == "own" else ORIGINAL


def listing(cards: Mapping[str, Card], families: Mapping[str, Spec]) -> str:
    """The sources as a table, a family a row."""
    rows = [("family", "tasks", "licence", "source", "commit", "converted with")]
    for family, spec in families.items():
        card = cards[next(iter(spec["tasks"]))]
        rows.append((family, str(len(spec["tasks"])), card["licence"], card["origin"], card["commit"], split_of(spec)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def missing(out: Path, cards: Mapping[str, Card], families: Mapping[str, Spec]) -> list[str]:
    """A line for each task that lacks a file: what to get, and what the files must hold."""
    lines = []
    for spec in families.values():
        for task in spec["tasks"]:
            lacking = [path.name for path in paths(out, task).values() if not path.exists()]
            if lacking:
                card = cards[task]
                columns = "text, text_pair, label" if "pair" in spec else "text, label"
                lines.append(
                    f"{task} lacks {' and '.join(lacking)} (from {card['origin']} at {card['commit']}): "
                    f"a JSON object a line with {columns}; labels: {'; '.join(card['labels'])}"
                )
    return lines


def run(options: argparse.Namespace, cards: Mapping[str, Card], families: Mapping[str, Spec]) -> list[str]:
    """Write what is asked for; a line for each failure and each file that is missing."""
    chosen = {name: spec for name, spec in families.items() if name in (options.family or families)}
    unknown = sorted(set(options.family or ()) - set(families))
    if unknown:
        raise TaskError(f"no family {', '.join(unknown)}; --list names all {len(families)}")
    if options.clones is not None and not options.clones.is_dir():
        raise TaskError(f"no folder {options.clones}; --from wants a folder of clones, each named as its repository")
    tasks = table(cards, families)
    atomic_write(options.out / "tasks.json", json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
    atomic_write(options.out / "splits.json", json.dumps(splits(cards, families), indent=1) + "\n")
    failures = fetch_all(cards, chosen, options)
    separate(options.out, [row["id"] for row in tasks])
    return failures + missing(options.out, cards, chosen)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--list", action="store_true", help="print where each family comes from, and stop")
    parser.add_argument("--family", action="append", metavar="NAME", help="only this family; may be repeated")
    parser.add_argument("--from", dest="clones", type=Path, metavar="FOLDER", help="folder of clones that are there")
    parser.add_argument("--all", action="store_true", help="keep every text, in place of a sample")
    parser.add_argument("--partial", action="store_true", help="exit with status 0 though tasks lack files")
    options = parser.parse_args(words)
    try:
        cards, families = read_cards(), load_families()
        if options.list:
            print(listing(cards, families))
            return 0
        if options.out is None:
            raise TaskError("name a folder to write to with --out, or ask for the sources with --list")
        lacking = run(options, cards, families)
    except LoragenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*lacking, sep="\n", end="\n" if lacking else "", file=sys.stderr)
    return 2 if lacking and not options.partial else 0


if __name__ == "__main__":
    sys.exit(main())
