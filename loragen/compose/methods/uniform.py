"""All experts in equal shares: what every other method should do better than."""

from loragen.compose.settings import ComposeSettings, Made, Making


class Uniform(ComposeSettings):
    """Settings of equal shares; there are none."""


def make_uniform(making: Making, _settings: Uniform) -> Made:
    """Give every expert the same weight, so that they sum to 1."""
    n = len(making.experts)
    return Made(making.experts, weights=[1 / n] * n)
