"""Task vectors: mean hidden states of a base model that reads a task's description, label names, texts or examples.

ICM-LoRA's condition (Shao et al., IJCAI 2025, arXiv 2501.17635) is such a vector, read through the task's own trained
adapter from its training data. Read from the bare base, as is the default here, it needs neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base, ObjectiveName, Pooling
from loragen.bases.open import open_base
from loragen.config import StrictModel
from loragen.errors import TaskError
from loragen.tasks.examples import Examples
from loragen.tasks.words import is_blank
from loragen.values import MOST_TOKENS

EvidenceKind = Literal["description", "labels", "texts", "examples"]
"""Sources of a task vector: the description; the names of the labels; texts without labels; texts, each with its label
in one prompt."""


class Reading(StrictModel):
    """Settings of the reading of task vectors."""

    model: str
    """The base, or another model where the base is too large to run."""
    objective: ObjectiveName = "label_text"
    """Kind of the model; for a reading through an adapter, the kind that the adapter is for."""
    model_hash: str = ""
    """Hash of its weights; a trained generator knows the model by this."""
    pooling: Pooling = "mean"
    """Mean over the tokens of a prompt, or its last token: the natural choice for causal models."""
    through: Literal["base", "own_adapter"] = "base"
    """``own_adapter`` is the paper's way: through the adapter of the very task, which must then exist already."""
    max_length: int = Field(64, ge=8, le=MOST_TOKENS)
    """Tokens of a prompt."""


@dataclass(frozen=True)
class Reader:
    """Reads prompts with the last hidden states of a model."""

    base: Base
    reading: Reading

    @classmethod
    def load(cls, reading: Reading) -> Self:
        """Load the model of a reading.

        Raises:
            ConfigError: there is no such model.
            TaskError: its weights are not those that the reading names.
        """
        base = open_base(reading.model, objective=reading.objective)
        if reading.model_hash and base.fingerprint != reading.model_hash:
            raise TaskError(
                f"Task vectors were read with {reading.model} of the weights {reading.model_hash[:12]}, but those that "
                f"go by this name are {base.fingerprint[:12]}; use the former, or train the generator again."
            )
        return cls(base, reading)

    def descriptions(self, texts: Sequence[str]) -> Tensor:
        """One state a description, (n, h)."""
        return self._states(texts, None)

    def labels(self, names: Sequence[str]) -> Tensor:
        """One state a label, (n, h)."""
        return self._states(names, None)

    def texts(self, examples: Examples) -> Tensor:
        """One state a text (with its pair), labels unseen, (n, h)."""
        return self._states(examples.texts, examples.pairs)

    def examples(self, examples: Examples) -> Tensor:
        """One state a prompt of a text (and its pair) followed by its label, (n, h).

        Raises:
            TaskError: the examples have no labels.
        """
        if examples.outputs is None:
            raise TaskError("Examples without labels were given where labelled ones are read; leave 'examples' out.")
        pairs = examples.pairs or ("",) * len(examples)
        shown = [f"{one} {other}".strip() for one, other in zip(examples.texts, pairs, strict=True)]
        return self._states(shown, examples.outputs)

    def task_vectors(
        self,
        description: str,
        *,
        examples: Examples | None = None,
        adapter: Lora | None = None,
        labels: Sequence[str] | None = None,
    ) -> dict[EvidenceKind, Tensor]:
        """Task vectors (h,), one for each kind of evidence there is; means over labels and over the examples.

        Args:
            description: of the task; an empty one is no evidence.
            examples: a few of its texts.
            adapter: the task's own adapter, for a reading through it.
            labels: names of its labels.
        """
        assert (adapter is not None) == (self.reading.through == "own_adapter")
        with self.base.adapted(adapter):
            vectors: dict[EvidenceKind, Tensor] = {}
            if not is_blank(description):
                vectors["description"] = self.descriptions([description])[0]
            if labels is not None:
                vectors["labels"] = self.labels(labels).mean(0)
            if examples is not None:
                vectors["texts"] = self.texts(examples).mean(0)
                if examples.outputs is not None:
                    vectors["examples"] = self.examples(examples).mean(0)
        return vectors

    def _states(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Tensor:
        ids = self.base.tokenize(texts, pairs, max_length=self.reading.max_length)
        return self.base.encode_states(ids, pooling=self.reading.pooling)
