"""SG-LoRA's weights (arXiv 2509.10535): a softmax over the cosines of the experts' descriptions with the task's."""

from pydantic import Field

from loragen.compose.settings import ComposeSettings, Made, Making
from loragen.zoo.expert_index import softmax_weights


class Description(ComposeSettings):
    """Settings of weights by description."""

    temperature: float = Field(0.1, gt=0, le=1000)
    """Of the softmax; lower ones favour the nearest expert more."""


def make_description(making: Making, settings: Description) -> Made:
    """Weigh the experts by how near their descriptions are to the task's."""
    assert making.similarities is not None
    return Made(making.experts, weights=softmax_weights(making.similarities.tolist(), settings.temperature))
