"""How far from an expert a generator would be that has never seen it: the bound up to which forgetting pushes.

That is taken for the error of a merge: of the experts that are nearest to it by description, itself left out, weighted
as generators weight them. The rest of its family takes part, as it would in a training without the expert.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.continual.forget.settings import ForgetSettings
from loragen.generators.edits import EditableGenerator
from loragen.zoo.expert_index import softmax_weights
from loragen.zoo.zoo import Zoo


def spread_of(codes: Tensor) -> float:
    """Mean squared distance of codes (n, k) from their mean."""
    return float((codes - codes.mean(0)).square().sum(1).mean())


def merge_weights(near: Mapping[str, float], settings: ForgetSettings) -> dict[str, float]:
    """Weights of the nearest experts, of all by similarity, the nearest first."""
    names = list(near)[: settings.top_k]
    weights = softmax_weights([near[name] for name in names], settings.temperature)
    return dict(zip(names, weights, strict=True))


def merge_of(near: Mapping[str, float], experts: Zoo, settings: ForgetSettings) -> Lora:
    """The merge of the nearest experts, of all by similarity, the nearest first."""
    weights = merge_weights(near, settings)
    return weighted_sum([experts.adapter(name) for name in weights], list(weights.values()))


def bound_of(
    generator: EditableGenerator, expert: str, near: Mapping[str, float], experts: Zoo, settings: ForgetSettings
) -> float:
    """Squared distance of an expert's code from the merge of its nearest others.

    Args:
        generator: whose codes are compared.
        expert: to forget.
        near: the others by similarity, the nearest first.
        experts: all of these.
        settings: say how experts are merged.
    """
    weights = merge_weights(near, settings)
    code, *others = generator.codes([experts.adapter(name) for name in (expert, *weights)])
    shares = torch.tensor(list(weights.values())).to(code)
    return float((code - shares @ torch.stack(others)).square().sum())
