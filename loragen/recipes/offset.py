"""Training from factors that are not zero, over the base as it is: their product is taken off the update.

Published codes of PiSSA, OLoRA, CorDA and LoRA-GA begin at factors A₀ and B₀, and move the base's weight W to
W − s · B₀ A₀, so that the model's output is at first what it was; their adapters then belong to the moved base alone.
Training A and B over the moved weight is the same as training them over W with the update s · (B A − B₀ A₀), of rank
2r. This is done here; the best approximation of rank r (Eckart-Young) is the expert.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from loragen.adapters.adapter import Lora
from loragen.adapters.rank_gate import concatenated
from loragen.adapters.squeeze import squeeze
from loragen.bases.linear_sites import Factors
from loragen.recipes.expert import Expert
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import Trainee, copied, train_freely


@final
class OffsetFactors(Trainee):
    """A and B of every site from a start of their own; the update is s · (B A − B₀ A₀), or s · B A without an offset.

    Args:
        start: site → A₀ (r, in) and B₀ (out, r), not scaled.
        scaling: s.
        takes_off_start: True for the offset, so that the update begins at zero.
        trains_b: False keeps B as it is.
    """

    def __init__(self, start: Factors, *, scaling: float, takes_off_start: bool, trains_b: bool = True) -> None:
        super().__init__()
        self.sites, self.scaling, self.takes_off_start = tuple(start), scaling, takes_off_start
        self.lora_A = nn.ParameterList([a.detach().clone() for a, _ in start.values()])
        self.lora_B = nn.ParameterList([b.detach().clone() for _, b in start.values()]).requires_grad_(trains_b)
        for i, (a, b) in enumerate(start.values() if takes_off_start else ()):
            self.register_buffer(f"first_A_{i}", a.detach().clone())
            self.register_buffer(f"first_B_{i}", b.detach().clone())

    def updates(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What `factors` gives."""
        return self.factors()

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Site → A (r, in) and s · B (out, r); with an offset [A; A₀] (2r, in) and [s · B, −s · B₀] (out, 2r)."""
        pairs = zip(self.sites, self.lora_A, self.lora_B, strict=True)
        trained = {site: (a, self.scaling * b) for site, a, b in pairs}
        if not self.takes_off_start:
            return trained
        return {site: concatenated([pair, self._offset(i)]) for i, (site, pair) in enumerate(trained.items())}

    def _offset(self, i: int) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"first_A_{i}"), -self.scaling * self.get_buffer(f"first_B_{i}")


def train_offset(setting: Setting, trainee: OffsetFactors) -> Expert:
    """Train; the update in the rank of the recipe is the expert, which says how much of it that rank holds.

    Lengths of training are compared by what is left in that rank.
    """
    if not trainee.takes_off_start:
        return train_freely(setting, trainee)
    kept: list[float] = []

    def finish(factors: Factors) -> Factors:
        found, energy = cut_to_rank(factors, setting.recipe.r)
        kept.append(energy)
        return found

    expert = train_freely(setting, trainee, finish=finish)
    return replace(expert, energy_kept=kept[setting.lengths.index(expert.steps)])


@torch.no_grad()
def cut_to_rank(factors: Factors, r: int) -> tuple[Mapping[str, tuple[Tensor, Tensor]], float]:
    """The nearest factors of rank at most ``r``, and the share of the squared Frobenius norm, over all sites, kept.

    The share of an update that is zero is 1.
    """
    pairs = copied(factors)
    lora_a, lora_b = ({site: pair[i].float() for site, pair in pairs.items()} for i in (0, 1))
    whole = Lora.from_factors(lora_a, lora_b, base_model_name_or_path=None)
    squeezed = squeeze(whole, rank=r)
    cut = squeezed.adapter
    return {site: cut.scaled_factors(site) for site in cut.sites}, squeezed.energy_kept
