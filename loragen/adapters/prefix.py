"""Adapters cut to their first ranks, as DyLoRA trains them to be cut (Valipour et al. 2022, arXiv 2210.07558).

lora_alpha stays while r falls: the first b of r ranks have the update (alpha / b) · B[:, :b] · A[:b], which is r / b
times their part of the whole one. At b = r nothing changes. No SVD is needed where a training has ordered the ranks.
"""

from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError, shown


def prefix_factors(lora_a: Tensor, lora_b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The first ``rank`` of the r ranks of a site: A[:rank], and r / rank times scaling · B[:, :rank].

    The paper's code multiplies each factor by √(r / rank); both have one product, and one gradient in A and in B.
    """
    return lora_a[:rank], lora_b[:, :rank] * (len(lora_a) / rank)


def prefix(adapter: Lora, rank: int, *, rescaled: bool = True) -> Lora:
    """An adapter's first ranks as an adapter; a site that has no more than ``rank`` stays as it is.

    The order of the ranks is the adapter's own: one that DyLoRA has trained, or that was generated in the likeness of
    such, has the most important first.

    Args:
        adapter: of any ranks; it stays as it is.
        rank: ranks that are kept at a site.
        rescaled: multiply what is kept by r / rank, as DyLoRA trains it. False leaves it at its scale in the whole,
            which is right for adapters of other trainings, and for ranks that were ordered afterwards, as by SVD.

    Raises:
        AdapterError: the rank is below 1, or beyond the largest of the adapter.
    """
    largest = max(site.r for site in adapter.spec.sites)
    if not 1 <= rank <= largest:
        raise AdapterError(
            f"The adapter is to be cut to rank {shown(rank)}, and its largest is {largest}; give a rank from 1 to that."
        )
    lora_a, lora_b = {}, {}
    for site in adapter.sites:
        a, b = adapter.scaled_factors(site)
        lora_a[site], lora_b[site] = prefix_factors(a, b, min(rank, len(a))) if rescaled else (a[:rank], b[:, :rank])
    settings = adapter.settings
    return Lora.from_factors(
        lora_a,
        lora_b,
        base_model_name_or_path=settings.base,
        task_type=settings.task_type,
        fan_in_fan_out=settings.fan_in_fan_out,
    )
