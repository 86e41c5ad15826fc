"""Adapters in use: classify, complete, save, merge. `Adapter` is a LoRA with its base and its card."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from loragen.adaptation.self_training import AdaptRecipe, self_train
from loragen.adaptation.texts import checked_shares, distinct_texts
from loragen.adapters.adapter import Lora
from loragen.adapters.folders import find_adapter
from loragen.bases.architecture import Architecture
from loragen.bases.base import Base, LabelTargets
from loragen.bases.classify import Prediction
from loragen.bases.hub import resolve_model
from loragen.bases.language_model import with_wording
from loragen.bases.open import objective_of, open_base
from loragen.bases.saved_along import remarks
from loragen.bases.sentence_modules import load_sentence_transformer
from loragen.bases.text_encoder import with_label_targets
from loragen.bases.usable import Usable
from loragen.bases.wording import PROMPT, Chat, Wording
from loragen.config import dump_yaml
from loragen.errors import AdapterError, ConfigError
from loragen.exporters.card import GeneratedCard, merged_card
from loragen.exporters.card_file import CARD, generated_card, label_targets_of, read_facts, wording_of
from loragen.exporters.export import Exported
from loragen.exporters.merged_model import merge_into_base
from loragen.exporters.peft_folder import Written, write_adapter, write_checked
from loragen.exporters.targets import export_adapter
from loragen.files import refuse_to_replace
from loragen.paths import split_revision
from loragen.progress import Progress, silent
from loragen.tasks.examples import Examples
from loragen.tasks.words import worded

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True, eq=False)
class Adapter(Usable):
    """A LoRA with the name of its base, the labels of its task, and its card where it was generated.

    The base is loaded when it is first needed, and kept.
    """

    lora: Lora
    """Settings and factors."""
    base: str
    """Folder or Hub name of the base model."""
    card: GeneratedCard | None = None
    description: str | None = None
    labels: tuple[str, ...] = ()
    """Names of its task's labels, where they are known."""
    notes: tuple[str, ...] = ()
    """Remarks for the user, such as a description that was too long."""
    wording: Wording = PROMPT
    """How its task is put to a language model."""
    may_fetch_base: bool = True
    """False if an adapter's folder alone names the base: it is then used where it is on this machine, not fetched."""
    label_targets: LabelTargets = "moving"
    """What texts are compared with: label texts under the adapter, or by the base alone."""
    saved_along: Mapping[str, str | bytes] = field(default_factory=dict)
    """Further files of its folder by relative name → content, such as an index map."""

    @classmethod
    def generated(cls, lora: Lora, card: GeneratedCard, notes: tuple[str, ...] = ()) -> "Adapter":
        """An adapter that was generated just now."""
        facts, wording = (card.base, card, card.description or None, card.labels, notes), card.wording or PROMPT
        return cls(lora, *facts, wording, label_targets=card.label_targets)

    @classmethod
    def load(cls, folder: Path | str, *, base: str | None = None, without_head: bool = False) -> "Adapter":
        """Read an adapter folder: PEFT's, or one that is near to it, with remarks in ``notes``.

        Args:
            folder: of the adapter, or with one adapter in it.
            base: stands in for the base that it names, and is fetched if need be.
            without_head: read the adapter of a classifier (SEQ_CLS, TOKEN_CLS, QUESTION_ANS) as one of the model
                inside, which gives features.

        Raises:
            AdapterError: the folder is missing, damaged, or holds something unsupported.
            ConfigError: neither the folder nor ``base`` names a base model.
        """
        lora = _over(Lora.load(Path(folder), without_head=without_head), base)
        name = lora.settings.base
        if name is None:
            raise ConfigError("The adapter does not name its base model; give it with --base.")
        if without_head:
            Architecture.check_at_hand(name, lora)
        inside, _ = find_adapter(Path(folder))
        facts = read_facts(inside) or read_facts(Path(folder))
        listed = facts.get("labels")
        labels = tuple(label for label in listed if isinstance(label, str)) if isinstance(listed, list) else ()
        description = facts.get("description")
        described = description if isinstance(description, str) and description.strip() else None
        card, notes = generated_card(facts, inside), remarks(lora, name)
        wording, targets = wording_of(facts, card), label_targets_of(facts, card)
        return cls(lora, name, card, described, labels, notes, wording, base is not None, targets)

    @property
    def switched(self) -> Lora:
        """The LoRA."""
        return self.lora

    @cached_property
    def opened_base(self) -> Base:
        """The base model, loaded.

        Raises:
            ConfigError: it is not at hand.
        """
        task_type, may_fetch = self.lora.settings.task_type, self.may_fetch_base
        folder = None if task_type else resolve_model(self.base, may_fetch=may_fetch)
        objective = objective_of(task_type, folder)
        targets = self.label_targets
        return open_base(
            self.base, objective=objective, prompt=self.wording, may_fetch=may_fetch, label_targets=targets
        )

    def adapt(
        self,
        texts: Sequence[str] | Examples,
        labels: Sequence[str] | None = None,
        *,
        shares: Sequence[float] | None = None,
        progress: Progress = silent,
    ) -> "Adapter":
        """The same adapter after self-training on texts of its task that nobody has labelled.

        Args:
            texts: 20 to 10,000 different ones; labels of theirs are not looked at.
            labels: names to choose from; by default those of the adapter's task.
            shares: how large the classes are among the texts, one number a label, if you know it.
            progress: called with the stage, the steps done and their total.

        Raises:
            ConfigError: no labels are given, and the adapter's card has none; or the base is not at hand.
            TaskError: there are fewer than 20 texts.
            AdapterError: the adapter was made for another base.
        """
        names, recipe, base = self._names(labels), AdaptRecipe(), self.opened_base
        given = texts if isinstance(texts, Examples) else Examples(worded(texts, "texts"))
        kept = distinct_texts(given, "The data", rng=torch.Generator().manual_seed(0))
        sizes = checked_shares(shares, names)
        told = base.prepare(replace(kept, label_names=names), max_length=recipe.fit.max_length)
        made = self_train(
            self.lora,
            told,
            base,
            recipe,
            shares=None if sizes is None else torch.tensor(sizes),
            on_step=lambda step: progress("adapting to the texts", step, recipe.fit.steps),
        )
        facts = {"texts": len(kept), "adapted": recipe, "labels": names}
        card = None if self.card is None else self.card.model_copy(update=facts)
        other = replace(self, lora=made.lora, card=card, labels=names, notes=(*self.notes, *kept.notes))
        other.__dict__["opened_base"] = base
        return other

    def save(self, folder: Path | str, *, force: bool = False) -> Written:
        """Write a PEFT folder with its card, or what is known of its task; read it back, and check that it is no no-op.

        Raises:
            ConfigError: the folder is there already, and ``force`` is not set.
            AdapterError: the adapter leaves its base unchanged, or came back other than it was written.
        """
        target = Path(folder)
        refuse_to_replace([target], force=force)
        if self.card is not None:
            return write_adapter(self.lora, self.card, target, extra_files=self.saved_along, replace=force)
        wording = self.wording.model_dump() if isinstance(self.wording, Chat) else self.wording
        facts = {
            "description": self.description,
            "labels": list(self.labels),
            "wording": None if wording == PROMPT else wording,
            "label_targets": None if self.label_targets == "moving" else self.label_targets,
        }
        known = {name: fact for name, fact in facts.items() if fact}
        files = {CARD: dump_yaml(known)} if known else {}
        return write_checked(self.lora, target, extra_files={**self.saved_along, **files}, replace=force)

    def merge(self, folder: Path | str, *, force: bool = False) -> Path:
        """Write the base with the adapter merged in: a plain transformers or sentence-transformers folder.

        Raises:
            ConfigError: the folder is there already, and ``force`` is not set; or the base is not at hand.
            AdapterError: the base lacks a site of the adapter, or has another shape there.
        """
        target = Path(folder)
        refuse_to_replace([target], force=force)
        merge_into_base(
            self.lora,
            resolve_model(self.base, may_fetch=self.may_fetch_base),
            target,
            readme=merged_card(self.base, self.lora, self.card),
            replace=force,
        )
        return target

    def export(
        self,
        file: Path | str,
        *,
        to: str,
        base_gguf: Path | str | None = None,
        base_name: str | None = None,
        dtype: str | None = None,
        modelfile: bool = False,
        force: bool = False,
    ) -> Exported:
        """Write the adapter in the form of another program.

        Args:
            file: file or folder to be written.
            to: ``gguf``, a LoRA file for llama.cpp; ``gguf-model``, base and adapter as one GGUF model; ``vllm``,
                ``sglang``, ``lorax`` or ``sentence-transformers``, a folder for these.
            base_gguf: the base as a GGUF file.
            base_name: the base as that program names it, if not as here.
            dtype: of the tensors that hold the update; by default the target's first.
            modelfile: write a Modelfile for Ollama beside the model.
            force: replace a file of this kind that stands there.

        Raises:
            AdapterError: the adapter does not fit its base, or that form cannot hold a site of it.
            ConfigError: there is no such form, something stands at ``file``, or the base is not at hand.
            MissingExtraError: a package that the form needs is not installed.
        """
        return export_adapter(
            self.lora,
            self.base,
            Path(file),
            to=to,
            base_gguf=None if base_gguf is None else Path(base_gguf),
            base_name=base_name,
            dtype=dtype,
            modelfile=modelfile,
            system=self.wording.system if isinstance(self.wording, Chat) else None,
            force=force,
            is_local=not self.may_fetch_base,
        )

    def sentence_transformer(self) -> "SentenceTransformer":
        """The adapted base as a `sentence_transformers.SentenceTransformer`.

        Raises:
            AdapterError: the adapter is not of a text encoder.
            ConfigError: the base is not at hand.
        """
        if self.lora.settings.task_type != "FEATURE_EXTRACTION":
            raise AdapterError(
                f"The adapter is of the task type {self.lora.settings.task_type}; a sentence transformer wants one of a"
                " text encoder (FEATURE_EXTRACTION)."
            )
        with tempfile.TemporaryDirectory() as folder:
            return load_sentence_transformer(self.merge(Path(folder) / "merged"))

    def over(self, base: str) -> "Adapter":
        """The same adapter over a base of another name, which may be fetched."""
        return replace(self, base=base, lora=_over(self.lora, base), may_fetch_base=True)

    def with_base(self, base: Base) -> "Adapter":
        """The same adapter over a base that is loaded already."""
        other = replace(self, base=base.name)
        other.__dict__["opened_base"] = with_wording(with_label_targets(base, self.label_targets), self.wording)
        return other


def classify(
    adapter: Adapter | Path | str, texts: Sequence[str], labels: Sequence[str] | None = None, *, base: str | None = None
) -> list[Prediction]:
    """Give each text the label that fits it best under an adapter; see `Adapter.classify`."""
    return opened_adapter(adapter, base).classify(texts, labels)


def complete(
    adapter: Adapter | Path | str, prompts: Sequence[str], *, max_tokens: int = 32, base: str | None = None
) -> list[str]:
    """The most likely continuation of each prompt under an adapter; see `Adapter.complete`."""
    return opened_adapter(adapter, base).complete(prompts, max_tokens=max_tokens)


def opened_adapter(adapter: Adapter | Path | str, base: str | None, *, without_head: bool = False) -> Adapter:
    """An adapter, or that of a folder, over another base where one is given."""
    if not isinstance(adapter, Adapter):
        return Adapter.load(adapter, base=base, without_head=without_head)
    return adapter if base is None else adapter.over(base)


def _over(lora: Lora, base: str | None) -> Lora:
    """A LoRA that names another base, where one is given."""
    if base is None:
        return lora
    name, revision = split_revision(base)
    return replace(lora, settings=replace(lora.settings, base_model_name_or_path=name, revision=revision))
