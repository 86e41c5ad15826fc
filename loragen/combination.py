"""Several adapters of one base as one, or one in a lower rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import combined, common_task_type
from loragen.bases.architecture import Architecture
from loragen.bases.hub import local_model
from loragen.bases.renaming import renamed
from loragen.errors import AdapterError, ConfigError
from loragen.inference import Adapter, opened_adapter
from loragen.training.threads import one_thread
from loragen.values import checked_seed


@dataclass(frozen=True, eq=False)
class Combination:
    """Several adapters as one."""

    adapter: Adapter
    energy_kept: float
    """Share of the full merge's squared Frobenius norm that the ranks hold; 1 means all."""


def combine(
    adapters: Sequence[Adapter | Path | str],
    weights: Sequence[float] | None = None,
    *,
    method: str = "sum",
    rank: int | None = None,
    energy: float | None = None,
    density: float | None = None,
    scale: float = 1.0,
    seed: int = 0,
    base: str | None = None,
    without_head: bool = False,
) -> Combination:
    """Merge adapters of one base into one adapter, on delta weights: any ranks and scalings go together.

    One adapter alone is squeezed to a rank or an energy (LoRA-Squeeze).

    Args:
        adapters: at least one.
        weights: one an adapter; by default equal shares.
        method: ``sum``, ``ties`` or ``dare``.
        rank: largest rank of a site; by default what an exact sum takes, or the largest among the adapters.
        energy: in place of a rank: every site gets the smallest that keeps this share, at most 1, of its squared
            Frobenius norm.
        density: share of entries that ``ties`` and ``dare`` keep of each adapter, by default .2.
        scale: factor of the whole merge.
        seed: of the entries that ``dare`` drops.
        base: stands in for the base that the adapters name.
        without_head: read adapters of classifiers as adapters of the model inside, which gives features.

    Where the config of the base is at hand, every site is looked up there, and written under the name that it has in
    the installed transformers.

    Raises:
        AdapterError: there is no such method, adapters do not go together or do not fit the base, or a value is out of
            range.
        ConfigError: a density is given for an exact sum, or there is no such base.
    """
    import torch

    if method == "sum" and density is not None:
        raise ConfigError("--density does not apply to --method sum, which keeps every entry; give ties or dare.")
    opened = [opened_adapter(adapter, base, without_head=without_head) for adapter in adapters]
    names = [f"adapter {n}" if isinstance(each, Adapter) else str(each) for n, each in enumerate(adapters, 1)]
    task_type = common_task_type([adapter.lora for adapter in opened], names)
    loras = on_one_base([adapter.lora for adapter in opened], task_type, base)
    with one_thread():  # so that the bytes do not depend on the number of threads
        merged = combined(
            loras,
            [1 / len(opened) for _ in opened] if weights is None else weights,
            method=method,
            rank=rank,
            energy=energy,
            density=0.2 if density is None else density,
            scale=scale,
            rng=torch.Generator().manual_seed(checked_seed(seed)),
        )
    first = opened[0]
    notes = tuple(dict.fromkeys(note for adapter in opened for note in adapter.notes))
    made = Adapter(
        merged.adapter,
        first.base,
        notes=notes,
        wording=first.wording,
        may_fetch_base=first.may_fetch_base,
        label_targets=first.label_targets,
    )
    return Combination(made, merged.energy_kept)


def on_one_base(loras: Sequence[Lora], task_type: str | None, given: str | None) -> list[Lora]:
    """Adapters under the names that their sites have in their base, if its config is at hand.

    Raises:
        AdapterError: one does not fit the base; or, where nothing can be looked up, nothing says that one without a
            task type is of the same model class as the others.
        ConfigError: the base that was given is no folder here.
    """
    if given is not None:
        local_model(given)
    sites = {site for lora in loras for site in lora.sites}
    named = {lora.settings.base for lora in loras}
    base = loras[0].settings.base if len(named) == 1 else None  # several are refused by the merge
    architecture = Architecture.at_hand(base, sites, task_type) if base else None
    if architecture is None:
        first = next((lora for lora in loras if lora.settings.task_type == task_type), None)
        if first and any(lora.settings.task_type != task_type and not {*lora.sites} & {*first.sites} for lora in loras):
            raise AdapterError(
                f"One adapter states the task type {task_type} and another none, and they share no site, so that they "
                "may be of two classes of models; give their base with --base."
            )
        return list(loras)
    found = [renamed(lora, architecture) for lora in loras]
    for lora in found:
        architecture.check(lora)
    return found
