"""How `fetch_tasks.py` reads a source: from files of a repository to labelled texts, as task_sources.yaml says.

A reader is a function from a file to rows, which are texts by column; READERS names them. What one family's entry
may say beside its reader stands at the head of task_sources.yaml.
"""

import csv
import gzip
import html
import io
import json
import pickle
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from loragen.errors import TaskError

LONGEST = 1200
"""Longer texts are cut at the last space before so many characters."""

Row = dict[str, Any]
Spec = Mapping[str, Any]


class Example(NamedTuple):
    """One line of a task's file."""

    text: str
    pair: str | None
    label: str
    group: str
    """Examples of one group stay on one side of a split by hash."""

    @property
    def key(self) -> str:
        """What two examples with the same words share."""
        return key_of(self.text, self.pair)

    def line(self) -> str:
        """The example as JSON."""
        pair = {} if self.pair is None else {"text_pair": self.pair}
        return json.dumps({"text": self.text, **pair, "label": self.label}, ensure_ascii=False) + "\n"


def key_of(text: str, pair: str | None = None) -> str:
    """Letters and digits of a text and of its pair: the same for two examples with the same words."""
    return _letters(text) if pair is None else f"{_letters(text)} {_letters(pair)}"


def _content(path: Path) -> str:
    """Text of a file, packed or not, in whichever encoding it is."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _lines(path: Path) -> list[str]:
    return re.split(r"\r?\n", _content(path))


def read_table(path: Path, spec: Spec) -> Iterator[Row]:
    """CSV with a header, or with the columns that the entry names."""
    file = io.StringIO(_content(path), newline="")
    rows = csv.DictReader(
        file, spec.get("columns"), delimiter=spec.get("separator", ","), skipinitialspace=spec.get("spaced", False)
    )
    for row in rows:
        yield {str(column).strip(): value or "" for column, value in row.items()}


def read_cells(path: Path, spec: Spec) -> Iterator[Row]:
    """CSV in which each column is a label and each cell a text."""
    for row in read_table(path, spec):
        for label, text in row.items():
            if label != "None" and text.strip():
                yield {"text": text, "label": label}


def read_lines(path: Path, spec: Spec) -> Iterator[Row]:
    """Lines cut at a separator, without quoting."""
    columns = spec["columns"]
    for line in _lines(path):
        cells = line.split(spec["separator"], len(columns) - 1) if "separator" in spec else [line]
        if line.strip() and len(cells) == len(columns):
            yield dict(zip(columns, cells, strict=True))


def read_beside(path: Path, spec: Spec) -> Iterator[Row]:
    """Texts of one file and, line by line, their labels of another, whose path differs in one piece."""
    other = Path(str(path).replace(*spec["beside"]))
    columns = spec.get("columns", ["label"])
    for text, line in zip(_lines(path), _lines(other), strict=True):
        cells = line.strip().split("\t") if len(columns) > 1 else [line.strip()]
        if text.strip():
            yield {"text": text, **dict(zip(columns, cells, strict=True))}


def read_json(path: Path, spec: Spec) -> Iterator[Row]:
    """A JSON list of objects or, under each section's name, lists of cells."""
    content = json.loads(_content(path))
    for section, items in content.items() if isinstance(content, dict) else [("", content)]:
        for item in items:
            cells = item if isinstance(item, dict) else dict(zip(spec["columns"], item, strict=True))
            yield {"section": section, **cells}


def read_jsonl(path: Path, spec: Spec) -> Iterator[Row]:
    """A JSON object a line; where the entry names columns, these hold lists of equal length."""
    for line in filter(str.strip, _lines(path)):
        row = json.loads(line)
        if "columns" not in spec:
            yield row
            continue
        for cells in zip(*(row[column] for column in spec["columns"]), strict=True):
            yield dict(zip(spec["columns"], cells, strict=True))


def read_triples(path: Path, _: Spec) -> Iterator[Row]:
    """Three lines an example: text with a place for the target, target, label."""
    lines = _lines(path)
    for text, target, label in zip(lines[::3], lines[1::3], lines[2::3], strict=False):
        yield {"text": text.replace("$T$", target), "target": target, "label": label.strip()}


def read_document(path: Path, _: Spec) -> Iterator[Row]:
    """One text a file."""
    yield {"text": _content(path)}


def read_post(path: Path, _: Spec) -> Iterator[Row]:
    """A newsgroup post: its subject and what its author wrote, without headers, quotations and ruled lines."""
    head, _gap, body = _content(path).replace("\r", "").partition("\n\n")
    subject = next((line[8:].strip() for line in head.split("\n") if line.startswith("Subject:")), "")
    subject = re.sub("^(Re: *)+", "", subject, flags=re.IGNORECASE)
    quoted, quoting = re.compile(r"\s*[>|:}]"), re.compile(r"(writes|wrote):?\s*$|^In (article|<)")
    kept = [line for line in body.split("\n") if not quoted.match(line) and not quoting.search(line)]
    yield {"text": subject + ". " + re.sub(r"[-=_*#~^+|<>/\\]{3,}", " ", "\n".join(kept))}


def read_blocks(path: Path, _: Spec) -> Iterator[Row]:
    """Blocks of lines: number and quoted text, label, comment."""
    for block in re.split(r"\n\s*\n", _content(path).replace("\r", "")):
        lines = block.split("\n")
        if len(lines) > 1:
            yield {"text": lines[0].split("\t", 1)[1].strip()[1:-1], "label": lines[1].strip()}


def read_frames(path: Path, _: Spec) -> Iterator[Row]:
    """A pickled pandas frame of texts and labels, read without pandas: nothing that the pickle names is run."""
    columns: list[Sequence[object]] = []

    class Inert:
        """Stands for whatever the pickle names; where it is a block of columns, keeps them, texts first."""

        def __new__(cls, *_words: object) -> "Inert":
            return object.__new__(cls)

        def __init__(self, *_words: object) -> None: ...

        def __setstate__(self, state: object) -> None:
            if not isinstance(state, tuple) or len(state) != 5 or len(state[1]) != 2:
                return
            (_rows, width), content = state[1], state[4]
            if isinstance(content, list):
                columns[:0] = [content[start : start + width] for start in range(0, len(content), width)]
            else:
                columns.append(struct.unpack(f"<{width}q", content))

    class Reader(pickle.Unpickler):
        def find_class(self, _module: str, _name: str) -> type:
            return Inert

    Reader(io.BytesIO(path.read_bytes())).load()
    for text, label in zip(*columns, strict=True):
        yield {"text": str(text), "label": str(label)}


READERS: dict[str, Callable[[Path, Spec], Iterator[Row]]] = {
    name.removeprefix("read_"): reader for name, reader in list(globals().items()) if name.startswith("read_")
}


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    files = []
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not found:
            raise TaskError(
                f"{folder / pattern} is not there; is the clone whole, and at the commit that --list names?"
            )
        files += found
    return files


def _rows(folder: Path, spec: Spec, part: str) -> Iterator[Row]:
    """What the source holds for one part; a file that `test` names is no train file, unless `where` parts the rows."""
    where = {**spec.get("where", {}).get("always", {}), **spec.get("where", {}).get(part, {})}
    files = _files(folder, spec[part])
    if part == "train" and "train" not in spec.get("where", {}):
        tested = set(_files(folder, spec.get("test", ())))
        files = [path for path in files if path not in tested]
    for path in files:
        for row in READERS[spec["read"]](path, spec):
            row = {"folder": path.parent.name, "stem": path.stem, **row}
            if all(str(row[column]) in values for column, values in where.items()):
                yield row


def _tidy(text: str, rules: Iterable[tuple[str, str]], plain: bool) -> str:
    """One line of text: entities resolved, invisible marks dropped, rules applied, not too long."""
    text = text if plain else html.unescape(html.unescape(text))
    text = " ".join(re.sub("[\ufe0f\u200b\u200d\ufeff]", "", text).split())
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0]


def _letters(text: str) -> str:
    """A text without case, spaces and punctuation, but with the brackets that mark a term."""
    return re.sub(r"[^\w<>\[\]]+|_", "", text.casefold()) or text


def _quarters(rows: Sequence[Row], spec: Spec) -> Sequence[Row]:
    """Where the entry names a score: rows of its lowest and highest quarter, with `low` or `high` in its place."""
    if "quarters" not in spec:
        return rows
    column = spec["quarters"]
    scores = sorted(float(row[column]) for row in rows)
    low, high = scores[len(scores) // 4], scores[3 * len(scores) // 4]
    ends = [(row, float(row[column])) for row in rows]
    return [{**row, column: "low" if score <= low else "high"} for row, score in ends if score <= low or score >= high]


def _label(raw: str, spec: Spec) -> str | None:
    """Our name of a source's label: as the entry says, or the card's label of the same words."""
    for label, named in spec.get("labels", {}).items():
        if raw in (named if isinstance(named, list) else [named]):
            return str(label)
    fitting = (label for label, pattern in spec.get("patterns", {}).items() if re.fullmatch(pattern, raw))
    words = re.sub(r"[_-]|^\d+\.[\d.]* ", " ", raw).strip().casefold()
    return next(chain(fitting, (label for label in spec["known"] if label.casefold() == words)), None)


def _foreign(text: str, languages: Mapping[str, Sequence[str]]) -> bool:
    """Whether a text has more of the frequent words of other languages than of English ones."""
    words = set(re.findall(r"[^\W\d_]+", text.lower()))
    return len(words & set(languages.get("other", ()))) > len(words & set(languages.get("english", ())))


def _example(row: Row, spec: Spec) -> tuple[str, Example] | None:
    """The row's example after what it is told apart by, or nothing where the task does not take it."""
    label = _label(spec.get("label", "{label}").format_map(row), spec)
    if label is None or any(float(row[column]) <= least for column, least in spec.get("above", {}).items()):
        return None
    fields = [spec.get("text", "{text}"), *([spec["pair"]] if "pair" in spec else [])]
    text, *rest = (_tidy(field.format_map(row), spec.get("rules", ()), spec.get("plain", False)) for field in fields)
    text, pair = text.lower() if spec.get("lower") else text, rest[0] if rest else None
    if len(text.split()) < spec.get("words", 1) or _foreign(text, spec.get("languages", {})):
        return None
    alike = key_of(_tidy(text, spec.get("same", ()), plain=True), pair)
    return alike, Example(text, pair, label, spec["group"].format_map(row) if "group" in spec else alike)


def examples(folder: Path, spec: Spec, part: str) -> list[Example]:
    """Labelled texts of one part of a task, each once; texts that bear two labels are left out.

    Args:
        folder: the source's repository, unpacked.
        spec: what task_sources.yaml says of the family and of the task, and as `known` the labels on the task's card.
        part: `train` or `test`.

    Raises:
        TaskError: a file is not there, or is not what the entry says.
    """
    found: dict[str, Example] = {}
    labels: dict[str, set[str]] = defaultdict(set)
    try:
        rows: Sequence[Row] = list(_rows(folder, spec, part))
        for alike, example in filter(None, (_example(row, spec) for row in _quarters(rows, spec))):
            found.setdefault(alike, example)
            labels[alike].add(example.label)
    except (KeyError, ValueError, IndexError, TypeError, OSError, pickle.UnpicklingError, struct.error) as error:
        if isinstance(error, TaskError):
            raise
        raise TaskError(f"{folder} does not hold what its entry says: {error!r}") from error
    return [example for alike, example in found.items() if len(labels[alike]) == 1]
