"""What adapters of all kinds are used for over their base: texts are classified, prompts completed."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base, Switch
from loragen.bases.classify import Prediction, classify_texts
from loragen.bases.language_model import LanguageModel
from loragen.errors import AdapterError, ConfigError, TaskError, shown
from loragen.tasks.words import as_list, checked_names, listed, worded

MOST_TOKENS = 100_000
"""Tokens of a continuation."""


class Usable(ABC):
    """An adapter with its base and the labels of its task."""

    labels: tuple[str, ...]
    """Names of its task's labels, where they are known."""

    @property
    @abstractmethod
    def switched(self) -> Lora | Switch:
        """What is put on the base."""

    @property
    @abstractmethod
    def opened_base(self) -> Base:
        """The base model, loaded.

        Raises:
            ConfigError: it is not at hand.
        """

    def classify(
        self, texts: Sequence[str], labels: Sequence[str] | None = None, *, adapted: bool = True
    ) -> list[Prediction]:
        """Give each text the label that fits it best.

        Args:
            texts: any number of them.
            labels: names to choose from; by default those of the adapter's task.
            adapted: use the adapter; `False` asks the bare base.

        Raises:
            ConfigError: no labels are given, and the adapter's card has none; or the base is not at hand.
            TaskError: a text is empty, or the labels are fewer than two or not distinct.
            AdapterError: the adapter was made for another base.
        """
        names, given = self._names(labels), worded(texts, "texts")
        return classify_texts(self.opened_base, self.switched if adapted else None, given, names)

    def _names(self, labels: Sequence[str] | None) -> tuple[str, ...]:
        """Labels to choose from: those given, or those of the adapter's task.

        Raises:
            ConfigError: there are none of either.
            TaskError: they are fewer than two or not distinct.
        """
        names = as_list(labels, "labels") if labels is not None else self.labels
        if not names:
            raise ConfigError("The adapter's card names no labels; give them with --labels first,second.")
        names = checked_names(names, "The labels")
        if len(names) < 2:
            raise TaskError(f"The labels are {listed(names)}; at least two different ones are wanted.")
        return names

    def complete(self, prompts: Sequence[str], *, max_tokens: int = 32, adapted: bool = True) -> list[str]:
        """The most likely continuation of each prompt, for adapters of language models.

        Args:
            prompts: any number of them.
            max_tokens: longest continuation.
            adapted: use the adapter; `False` asks the bare base.

        Raises:
            AdapterError: the base writes no text, or the adapter was made for another one.
            TaskError: a prompt is empty.
            ConfigError: the longest continuation is below 1 or beyond all reason.
        """
        given = worded(prompts, "prompts")
        if not 1 <= max_tokens <= MOST_TOKENS:
            raise ConfigError(f"{shown(max_tokens)} tokens were asked for; 1 to {MOST_TOKENS:,} can be written.")
        base = self.opened_base
        if not isinstance(base, LanguageModel):
            raise AdapterError(
                f"The adapter is of the task type {base.task_type}, whose base writes no text; try it "
                "with `loragen classify`."
            )
        with base.adapted(self.switched if adapted else None):
            return base.continued(base.prompts(given), max_new_tokens=max_tokens)
