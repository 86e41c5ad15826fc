"""Opening of bases of all kinds, by their objectives."""

from pathlib import Path

import torch

from loragen.bases.base import Base, LabelTargets, ObjectiveName
from loragen.bases.causal_lm import CausalLM
from loragen.bases.devices import DeviceName
from loragen.bases.hub import is_dual_encoder
from loragen.bases.image_text import ImageText
from loragen.bases.seq2seq import Seq2SeqLM
from loragen.bases.text_encoder import LabelTextEncoder, with_label_targets
from loragen.bases.wording import PROMPT, Wording

KINDS: dict[ObjectiveName, type[Base]] = {
    kind.objective: kind for kind in (LabelTextEncoder, CausalLM, Seq2SeqLM, ImageText)
}


def open_base(
    name: str,
    *,
    objective: ObjectiveName = "label_text",
    prompt: Wording = PROMPT,
    dtype: torch.dtype = torch.float32,
    device: DeviceName = "cpu",
    may_fetch: bool = True,
    label_targets: LabelTargets = "moving",
) -> Base:
    """Load a base by its Hub name, a local path, or the name of the embedded MiniLM.

    Args:
        name: of the base.
        objective: training and scoring of the base.
        prompt: how tasks are put to a language model.
        dtype: of the frozen weights.
        device: kind of device to compute on.
        may_fetch: download what is not on this machine; see `resolve_model`.
        label_targets: what a text encoder compares texts with.

    Raises:
        ConfigError: there is no such model or device, or the model is of another kind.
    """
    base = KINDS[objective].load(name, dtype=dtype, device=device, prompt=prompt, may_fetch=may_fetch)
    return with_label_targets(base, label_targets)


def objective_of(task_type: str | None, base: Path | None = None) -> ObjectiveName:
    """The objective of an adapter's base.

    PEFT's name for what the adapter is for says it; adapters of image-text models have none, and the config in the
    base's folder tells them from text encoders, where it is given.
    """
    named = (kind.objective for kind in KINDS.values() if task_type and kind.task_type == task_type)
    return next(
        named, "image_text" if task_type is None and base is not None and is_dual_encoder(base) else "label_text"
    )
