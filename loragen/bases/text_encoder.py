"""Text encoders as bases, such as BERT, RoBERTa, ModernBERT or MPNet: mean-pooled, with label texts for a head."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from loragen.bases import end_to_end
from loragen.bases.base import Base, LabelTargets, ObjectiveName, Pooling, with_contrast
from loragen.bases.linear_sites import without_updates
from loragen.bases.losses import LOGIT_SCALE, contrast_loss, label_text_loss
from loragen.bases.scores import AnyScores, scores_of
from loragen.bases.sentence_modules import modules_of
from loragen.bases.tokenised import Input, Readout, TaskData, tokens_of
from loragen.bases.wording import Wording
from loragen.errors import ConfigError, TaskError, shown
from loragen.tasks.examples import Examples

_MOST_KEPT = 256
"""Sets of labels whose frozen embeddings are kept."""


@final
@dataclass(frozen=True)
class LabelTextEncoder(Base):
    """A text encoder: the class of a text is the one whose label text is nearest."""

    objective: ClassVar[ObjectiveName] = "label_text"
    task_type: ClassVar[str | None] = "FEATURE_EXTRACTION"
    label_targets: LabelTargets = "moving"
    """Label texts are embedded under the factors in use, or ("frozen") by the base alone (LingoCL, 2403.16124)."""
    _frozen_labels: dict[tuple[tuple[int, ...], ...], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Labels → their embeddings by the base alone, (c, hidden), on the CPU."""

    @classmethod
    def _own_parts(cls, name: str, folder: Path, model: Any, prompt: Wording) -> dict[str, Any]:
        return {"pooling": pooling_of(folder)}

    @property
    def body(self) -> nn.Module:
        """The model itself."""
        return self.model

    def inputs(self, examples: Examples, *, max_length: int) -> tuple[Input, ...]:
        """Texts, each joined with its second text, as token ids."""
        return tuple(self.tokenize(examples.texts, examples.pairs, max_length=max_length))

    def outputs(self, texts: Sequence[str], *, max_length: int) -> tuple[Sequence[int], ...]:
        """Label texts as token ids."""
        return tuple(self.tokenize(texts, max_length=max_length))

    def open_ended(self, examples: Examples, *, max_length: int) -> tuple[tuple[Input, ...], tuple[Sequence[int], ...]]:
        """Nothing: a text encoder learns from label texts alone.

        Raises:
            TaskError: always.
        """
        raise TaskError(
            "The task has no labels, and a text encoder learns from label texts; give it labels, or use a base "
            "with the objective 'causal_lm' or 'seq2seq'."
        )

    def _prepare_told(self, examples: Examples, instruction: str, *, max_length: int) -> TaskData:
        return self._prepare_in_front(examples, instruction, max_length=max_length)

    def keeping_below(self, sites: Iterable[str]) -> Base:
        """The same base, whose layers are small."""
        return self

    def states(self, ids: Sequence[Input], *, pooling: Pooling = "mean") -> Tensor:
        """Last-layer hidden states of one batch, float32 (n, hidden): their mean over the tokens, or the last token's.

        Differentiable in the factors in use.
        """
        if not end_to_end.can_read(self.body):
            return self._text_states(ids, pooling)
        hidden, layout = end_to_end.read(self.body, tokens_of(ids), self.device)
        return layout.pooled(hidden.float(), pooling)

    def losses(self, batch: TaskData, *, contrast_weight: float) -> dict[str, Tensor]:
        """Label-text cross-entropy and, where it has weight, supervised contrast among the texts."""
        if self.label_targets == "frozen":
            texts = self.embed(batch.ids)
            labels = self.frozen_labels(batch.label_ids).to(texts)
        elif end_to_end.can_read(self.body):  # in one pass, since nothing is padded
            texts, labels = self.embed((*batch.ids, *batch.label_ids)).tensor_split([len(batch)])
        else:
            texts, labels = self.embed(batch.ids), self.embed(batch.label_ids)
        targets = batch.targets.to(texts.device)  # the trainer moves factors and batches, but not the hidden base
        return with_contrast({"label_text": label_text_loss(texts, labels, targets)}, texts, targets, contrast_weight)

    @torch.inference_mode()
    def held_out_loss(self, data: TaskData, *, contrast_weight: float) -> float:
        """The same loss over all of ``data`` at once, under the factors in use."""
        return label_text_held_out(self, data, self._labels(data), contrast_weight=contrast_weight)

    def frozen_labels(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Unit embeddings of a task's label texts by the base alone, whatever factors are in use; (c, hidden), CPU.

        They are computed once for each set of labels, so that they do not depend on what was read before.
        """
        key = tuple(tuple(row) for row in rows)
        if key not in self._frozen_labels:
            if len(self._frozen_labels) >= _MOST_KEPT:
                self._frozen_labels.clear()
            with without_updates(), torch.inference_mode(False):  # what inference mode gives cannot be trained on
                self._frozen_labels[key] = self.encode(rows)
        return self._frozen_labels[key]

    def _labels(self, data: TaskData) -> Tensor:
        """Unit embeddings of the label texts, of the kind that ``label_targets`` says; (c, hidden), CPU."""
        return self.frozen_labels(data.label_ids) if self.label_targets == "frozen" else self.encode(data.label_ids)

    def _read(self, data: TaskData) -> Readout:
        texts, labels = self.encode(data.ids), self._labels(data)
        return Readout(texts, LOGIT_SCALE * texts @ labels.T, data.targets)

    def _score(self, data: TaskData) -> AnyScores:
        return scores_of(self._read(data))


def with_label_targets(base: Base, targets: LabelTargets) -> Base:
    """The same base, which embeds label texts so.

    Raises:
        ConfigError: frozen targets were wanted of a base that is no text encoder.
    """
    if isinstance(base, LabelTextEncoder):
        return base if base.label_targets == targets else replace(base, label_targets=targets)
    if targets == "frozen":
        raise ConfigError(
            f"Frozen label targets want a text encoder with the objective 'label_text'; the base {base.name} has "
            f"{base.objective!r}. Leave 'label_targets' out."
        )
    return base


def label_text_held_out(base: Base, data: TaskData, labels: Tensor, *, contrast_weight: float) -> float:
    """Loss over all of ``data`` at once against label embeddings (c, d), plus contrast where it has weight."""
    texts, targets = base.encode(data.ids), data.targets.cpu()
    loss = label_text_loss(texts, labels, targets)
    return float(loss + contrast_weight * contrast_loss(texts, targets)) if contrast_weight else float(loss)


def pooling_of(folder: Path) -> Pooling:
    """The pooling of a sentence-transformers folder, as its ``modules.json`` says; the mean for any other encoder.

    Raises:
        ConfigError: it pools in a way, or has a module, that is not supported here.
    """
    modules = modules_of(folder)
    if strange := [each.kind for each in modules if each.kind not in ("Transformer", "Pooling", "Normalize")]:
        raise ConfigError(
            f"The base {folder.name} has a module {shown(strange[0])} after its transformer, which adapters cannot be "
            "scored through here; use a base of transformer and pooling alone."
        )
    settings = next((each.settings() for each in modules if each.kind == "Pooling"), {})
    if not settings:
        return "mean"
    modes = _pooling_modes(settings)
    known: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
    if len(modes) == 1 and modes <= known.keys():
        return known[modes.pop()]
    raise ConfigError(
        f"The base {folder.name} pools by {', '.join(sorted(modes)) or 'nothing'}; the mean, the first or the last "
        "token were wanted."
    )


def _pooling_modes(settings: Mapping[str, Any]) -> set[str]:
    """Names of the modes in the config of a pooling module: one name, or, as older versions wrote it, a switch each."""
    if "pooling_mode" in settings:
        return set(str(settings["pooling_mode"]).split("+"))
    switched = (
        key.removeprefix("pooling_mode_") for key, on in settings.items() if key.startswith("pooling_mode_") and on
    )
    return {name.removesuffix("_tokens").removesuffix("_token") for name in switched}
