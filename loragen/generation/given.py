"""What a user gives for an adapter beside the description, read and checked before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from loragen.adaptation.texts import checked_shares, distinct_texts
from loragen.adapters.adapter import Lora
from loragen.conditions.condition import Evidence
from loragen.conditions.history import History
from loragen.errors import ConfigError, TaskError, shown
from loragen.tasks.examples import Examples
from loragen.tasks.words import is_blank, listed


@dataclass(frozen=True, eq=False)
class Given:
    """The evidence of a task, its unlabelled texts, and what is to be done with them."""

    evidence: Evidence
    """Description, label names, and examples."""
    fit: bool = False
    """Fit the adapter to the labelled examples."""
    texts: Examples | None = None
    """Texts that nobody has labelled; the adapter is adapted to them."""
    shares: tuple[float, ...] | None = None
    """Sizes of the classes in the order of their names, summing to 1."""

    @classmethod
    def read(
        cls,
        description: str,
        *,
        labels: Sequence[str] | None,
        examples: Examples | Path | str | None,
        fit: bool,
        texts: Examples | Sequence[str] | Path | None,
        shares: Sequence[float] | None,
        own_adapter: Path | str | None,
        history: History | Examples | Sequence[str] | Path | None = None,
    ) -> Self:
        """Read what is given as files; arguments and errors are those of `generate_samples`."""
        told = Examples.from_file(examples, labels) if isinstance(examples, Path | str) else examples
        if fit and told is None:
            raise ConfigError("Fitting wants labelled examples of the task; give a file of them with --examples.")
        if fit and told is not None:
            told = told.checked_for_scores("Examples to fit to" if isinstance(examples, Examples) else str(examples))
        evidence = Evidence(
            "" if is_blank(description) else description,
            None if labels is None else tuple(labels),
            told,
            None if own_adapter is None else Lora.load(Path(own_adapter)),
            None if history is None else History.given(history),
        )
        given = cls(evidence, fit)
        names = given.label_names
        if texts is None:
            if shares is not None:
                raise ConfigError("The sizes of classes bear on unlabelled texts alone; give these with --texts.")
            return given
        if not names:
            raise ConfigError(
                "Adapting to texts wants the names of the task's labels, to tell which text is which; give them with "
                "--labels first,second."
            )
        if fit and told is not None and told.label_names != tuple(names):
            raise TaskError(
                f"The examples have the labels {listed(told.label_names)}, but {listed(names)} were given; name the "
                "same ones in the same order, or leave --labels out."
            )
        return cls(evidence, fit, _texts(texts, names), checked_shares(shares, names))

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the task's labels, where they are given or the examples have them."""
        examples = self.evidence.examples
        return self.evidence.labels or (examples.label_names if examples is not None else ())

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the files."""
        parts = (self.evidence.examples, self.texts, self.evidence.history)
        return tuple(note for part in parts if part is not None for note in part.notes)


def _texts(texts: Examples | Sequence[str] | Path, names: tuple[str, ...]) -> Examples:
    if isinstance(texts, str):
        raise TaskError(f"The texts are one text, {shown(texts)}; give a list of them, or a Path to a file.")
    name, read = "The texts", texts
    if isinstance(read, Path):
        name, read = str(read), Examples.texts_from_file(read)
    elif not isinstance(read, Examples):
        read = Examples(tuple(read))
    kept = distinct_texts(read, name, rng=torch.Generator().manual_seed(0))
    return Examples(kept.texts, kept.pairs, label_names=names, notes=kept.notes)
