"""An adapter from elsewhere as an expert: the part of it that a frame holds, with its card."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.errors import AdapterError
from loragen.zoo.card import Card, Imported, Manifest
from loragen.zoo.external_adapter import ExternalAdapter
from loragen.zoo.zoo import SPLIT


def expert_of(one: ExternalAdapter, imported: Imported, manifest: Manifest, frame: Frame) -> tuple[Lora, Card]:
    """The expert that an adapter becomes in a zoo."""
    return brought(one.adapter, frame, manifest.base), card_of(one, imported, manifest)


def brought(adapter: Lora, frame: Frame, base: str) -> Lora:
    """The part of an adapter that a frame holds, over that frame, in bfloat16; sites that it lacks are zero."""
    settings = adapter.settings
    held = frame.adapter(
        frame.coordinates(adapter), base=base, task_type=settings.task_type, fan_in_fan_out=settings.fan_in_fan_out
    )
    return replace(
        held,
        lora_A={site: a.bfloat16() for site, a in held.lora_A.items()},
        lora_B={site: b.bfloat16() for site, b in held.lora_B.items()},
    )


def facts_of(one: ExternalAdapter, frame: Frame) -> Imported:
    """What a card says of an adapter and of its place in a frame."""
    adapter, settings = one.adapter, one.adapter.settings
    return Imported(
        r=max(site.r for site in adapter.spec.sites),
        lora_alpha=settings.lora_alpha,
        use_rslora=settings.use_rslora,
        energy_kept=round(frame.energy_kept(adapter), 6),
        missing=tuple(site for site in frame.lora_A if site not in adapter.lora_A),
        commit=one.commit,
        sha256=one.sha256,
    )


def refuse_losses(
    adapters: Sequence[ExternalAdapter], imported: Sequence[Imported], frame: Frame, max_loss: float
) -> None:
    """Refuse adapters that a frame loses more of than ``max_loss``, a share of the squared norm.

    Raises:
        AdapterError: there are some.
    """
    lost = [(one.id, 1 - facts.energy_kept) for one, facts in zip(adapters, imported, strict=True)]
    if over := [(expert, loss) for expert, loss in lost if loss > max_loss + 1e-6]:
        rank = max(len(a) for a in frame.lora_A.values())
        told = ", ".join(f"{expert} {100 * loss:.1f} %" for expert, loss in over[:8])
        raise AdapterError(
            f"A frame of rank {rank} loses more than {100 * max_loss:.1f} % of {len(over)} of {len(lost)} adapters' "
            f"energy: {told}. Allow it with --max-loss, or import all adapters into a new zoo, with a larger --rank or "
            "none, which takes what is needed."
        )


def card_of(one: ExternalAdapter, imported: Imported, manifest: Manifest) -> Card:
    """The card of the expert that an adapter becomes."""
    return Card(
        id=one.id,
        split=SPLIT,
        description=one.description,
        labels=one.labels,
        licence=one.licence,
        origin=one.origin,
        base=manifest.base,
        base_hash=manifest.base_hash,
        provenance=imported,
        versions={"loragen": version("loragen")},
    )
