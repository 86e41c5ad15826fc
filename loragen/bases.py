"""The one place that opens a base of whatever kind, by its objective."""

import torch

from loragen.backbone import Backbone, DeviceName, ObjectiveName
from loragen.images import ImageText
from loragen.language import PROMPT, CausalLM, Seq2SeqLM

KINDS: dict[ObjectiveName, type[Backbone]] = {
    kind.objective: kind for kind in (Backbone, CausalLM, Seq2SeqLM, ImageText)
}


def open_base(
    name: str,
    *,
    objective: ObjectiveName = "label_text",
    prompt: str = PROMPT,
    dtype: torch.dtype = torch.float32,
    device: DeviceName = "cpu",
) -> Backbone:
    """Load a base by its Hub name, a local path, or the name of the embedded MiniLM.

    Args:
        name: see above.
        objective: what it is trained and scored by.
        prompt: template around labelled texts, for language models.
        dtype: of the frozen weights.
        device: where it computes.

    Raises:
        ConfigError: there is no such model or device, or the model is of another kind.
    """
    kind = KINDS[objective]
    if issubclass(kind, CausalLM):
        return kind.load(name, dtype=dtype, device=device, prompt=prompt)
    return kind.load(name, dtype=dtype, device=device)


def objective_of(task_type: str | None) -> ObjectiveName:
    """What an adapter's base is scored by, from PEFT's name for what the adapter is for."""
    return next((kind.objective for kind in KINDS.values() if task_type and kind.task_type == task_type), "label_text")
