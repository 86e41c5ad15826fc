"""Task vectors: what the base model's last hidden states say of a task, read from its description or from examples.

ICM-LoRA's condition (Shao et al., IJCAI 2025, arXiv 2501.17635) is such a vector, read through the task's own trained
adapter from its training data. Read from the bare base, as is the default here, it needs neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field
from torch import Tensor

from loragen.adapter import Adapter
from loragen.backbone import Backbone, ObjectiveName, Pooling
from loragen.bases import open_base
from loragen.config import StrictModel
from loragen.errors import TaskError
from loragen.rows import cell, read_rows, text
from loragen.tasks import Examples, Task

Evidence = Literal["description", "labels", "texts", "examples"]
"""What a task vector is read from: the description; the names of the labels; texts without labels; texts, each with its
label in one prompt."""


class Reading(StrictModel):
    """How task vectors are read."""

    model: str
    """The base, or another model where the base is too large to run."""
    objective: ObjectiveName = "label_text"
    """What kind of model it is; for a reading through an adapter, the kind that the adapter is for."""
    model_hash: str = ""
    """Of its weights; a trained generator knows the model by this."""
    pooling: Pooling = "mean"
    """Mean over the tokens of a prompt, or its last token: the natural choice for causal models."""
    through: Literal["base", "own_adapter"] = "base"
    """``own_adapter`` is the paper's way: through the adapter of the very task, which must then exist already."""
    max_length: int = Field(64, ge=8)
    """Tokens of a prompt."""


@dataclass(frozen=True)
class Support:
    """A few texts of a task, with the names of their labels where these are known."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    pairs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert all(part is None or len(part) == len(self.texts) for part in (self.labels, self.pairs))

    @classmethod
    def of(cls, task: Task, examples: Examples) -> Self:
        """Examples of a task with their labels, or completions; plain texts have neither."""
        labels = tuple(task.labels[label] for label in examples.labels) if task.labels else examples.completions
        return cls(examples.texts, labels, examples.pairs)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read JSONL, JSON, CSV or Parquet: a column ``text``, and ``text_pair`` and ``label`` where there are such.

        Raises:
            TaskError: the file is missing, damaged or empty, or only some of its rows have a label or a pair.
        """
        rows = read_rows(path)
        if not rows:
            raise TaskError(f"{path} holds no example; at least one row with a text was wanted.")
        if missing := next((row[0] for row in rows if "text" not in row[1]), None):
            raise TaskError(f"{missing} has no column 'text'; rows hold text, and text_pair and label if any.")
        columns = {}
        for name in ("label", "text_pair"):
            values = [cell(row, name) if name in row[1] else None for row in rows]
            filled = [value is not None and bool(str(value).strip()) for value in values]
            if any(filled) and not all(filled):
                raise TaskError(
                    f"{rows[filled.index(False)][0]} has no {name!r}, but other rows of {path} have; fill it in all "
                    "rows or in none."
                )
            columns[name] = tuple(str(value).strip() for value in values) if all(filled) else None
        return cls(tuple(text(row, "text") for row in rows), columns["label"], columns["text_pair"])


@dataclass(frozen=True)
class Reader:
    """Reads prompts with the last hidden states of a model."""

    backbone: Backbone
    reading: Reading

    @classmethod
    def load(cls, reading: Reading) -> Self:
        """Load the model of a reading.

        Raises:
            ConfigError: there is no such model.
            TaskError: its weights are not those that the reading names.
        """
        backbone = open_base(reading.model, objective=reading.objective)
        if reading.model_hash and backbone.fingerprint != reading.model_hash:
            raise TaskError(
                f"Task vectors were read with {reading.model} of the weights {reading.model_hash[:12]}, but those that "
                f"go by this name are {backbone.fingerprint[:12]}; use the former, or train the generator again."
            )
        return cls(backbone, reading)

    def descriptions(self, texts: Sequence[str]) -> Tensor:
        """One state a description, (n, h)."""
        return self._states(texts, None)

    def labels(self, names: Sequence[str]) -> Tensor:
        """One state a label, (n, h)."""
        return self._states(names, None)

    def texts(self, support: Support) -> Tensor:
        """One state a text (with its pair), labels unseen, (n, h)."""
        return self._states(support.texts, support.pairs)

    def examples(self, support: Support) -> Tensor:
        """One state a prompt of a text (and its pair) followed by its label, (n, h)."""
        if support.labels is None:
            raise TaskError("Examples without labels were given where labelled ones are read; leave 'examples' out.")
        pairs = support.pairs or ("",) * len(support.texts)
        shown = [f"{one} {other}".strip() for one, other in zip(support.texts, pairs, strict=True)]
        return self._states(shown, support.labels)

    def task_vectors(
        self,
        description: str,
        support: Support | None = None,
        adapter: Adapter | None = None,
        labels: Sequence[str] | None = None,
    ) -> dict[Evidence, Tensor]:
        """Task vectors (h,), one for each kind of evidence there is; means over labels and over the support.

        Args:
            description: of the task.
            support: a few of its texts.
            adapter: the task's own adapter, for a reading through it.
            labels: names of its labels.
        """
        assert (adapter is not None) == (self.reading.through == "own_adapter")
        with self.backbone.adapted(adapter):
            vectors: dict[Evidence, Tensor] = {"description": self.descriptions([description])[0]}
            if labels is not None:
                vectors["labels"] = self.labels(labels).mean(0)
            if support is not None:
                vectors["texts"] = self.texts(support).mean(0)
                if support.labels is not None:
                    vectors["examples"] = self.examples(support).mean(0)
        return vectors

    def _states(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Tensor:
        ids = self.backbone.tokenize(texts, pairs, max_length=self.reading.max_length)
        return self.backbone.encode_states(ids, pooling=self.reading.pooling)
