"""Writes generated adapters: PEFT folder, card and model card in one step, then reads them back and checks them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from loragen.adapter import Adapter
from loragen.blueprint import Blueprint, auto_class
from loragen.config import StrictModel, dump_yaml
from loragen.errors import AdapterError
from loragen.fewshot import FewShotRecipe
from loragen.generators.base import Generation
from loragen.zoo import Zoo


class Parent(StrictModel):
    """An expert that an adapter draws on."""

    id: str
    similarity: float
    weight: float
    licence: str
    origin: str


class GeneratedCard(StrictModel):
    """Where a generated adapter comes from."""

    description: str
    generator: str
    seed: int
    sample: int
    examples: int = 0
    """How many texts of the task it was told beside the description."""
    labels: tuple[str, ...] = ()
    """Names of the task's labels, where it was told them."""
    fitted: FewShotRecipe | None = None
    """How it was fitted to the examples after it was generated; `None` where it was not."""
    base: str
    base_hash: str
    zoo: str
    zoo_hash: str
    encoder: str
    encoder_hash: str
    parents: tuple[Parent, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class Written:
    """An adapter on disk that was read back and found to change its base."""

    folder: Path
    norm: float
    """Frobenius norm over all delta weights."""
    sites: int
    r: int
    """Largest rank of a site."""
    task_type: str | None
    """PEFT's name for what it is for."""


def card_of(
    generation: Generation,
    zoo: Zoo,
    *,
    description: str,
    generator: str,
    seed: int,
    sample: int,
    examples: int = 0,
    labels: Sequence[str] = (),
    fitted: FewShotRecipe | None = None,
    encoder: str,
    encoder_hash: str,
) -> GeneratedCard:
    """Describe a generation; experts with no weight are left out."""
    parents = tuple(
        Parent(
            id=n.id,
            similarity=round(n.similarity, 4),
            weight=round(n.weight, 4),
            licence=zoo.card(n.id).licence,
            origin=zoo.card(n.id).origin,
        )
        for n in generation.neighbours
        if n.weight != 0
    )
    return GeneratedCard(
        description=description,
        generator=generator,
        seed=seed,
        sample=sample,
        examples=examples,
        labels=tuple(labels),
        fitted=fitted,
        base=zoo.manifest.base,
        base_hash=zoo.manifest.base_hash,
        zoo=zoo.manifest.name,
        zoo_hash=zoo.fingerprint,
        encoder=encoder,
        encoder_hash=encoder_hash,
        parents=parents,
        versions={name: version(name) for name in ("loragen", "torch")},
    )


def write_adapter(generation: Generation, card: GeneratedCard, folder: Path) -> Written:
    """Write an adapter folder, read it back, and check that it is what was meant and not a no-op.

    Where the config of the base is on this machine, every site must be a linear module of it, of those sizes.

    Raises:
        AdapterError: the adapter leaves its base unchanged, does not fit it, or came back other than it was written.
    """
    adapter = generation.adapter
    Blueprint.check_at_hand(card.base, adapter)
    files = {"card.yaml": dump_yaml(card.model_dump(mode="json")), "README.md": model_card(card, adapter)}
    return write_checked(adapter, folder, extra_files=files)


def write_checked(
    adapter: Adapter, folder: Path, *, extra_files: Mapping[str, str | bytes] = MappingProxyType({})
) -> Written:
    """Save an adapter, read it back, and check that it is what was meant and not a no-op.

    Raises:
        AdapterError: the adapter leaves its base unchanged, or came back other than it was written.
    """
    if adapter.norm() == 0:
        raise AdapterError(
            "The generated adapter leaves the base unchanged (all delta weights are zero); nothing was written."
        )
    adapter.save(folder, extra_files=extra_files)
    read = Adapter.load(folder)
    if read.spec != adapter.spec or abs(read.norm() - adapter.norm()) > 1e-3 * adapter.norm():
        raise AdapterError(f"{folder} does not read back as it was written; check the disk, and generate again.")
    return Written(
        folder, read.norm(), len(read.sites), max(site.r for site in read.spec.sites), adapter.settings.task_type
    )


def model_card(card: GeneratedCard, adapter: Adapter) -> str:
    """A Hugging Face model card in Markdown."""
    rank = max(site.r for site in adapter.spec.sites)
    licences = sorted({parent.licence for parent in card.parents})
    kind = auto_class(adapter.settings.task_type)
    header = dump_yaml({"base_model": card.base, "library_name": "peft", "tags": ["lora", "loragen", "generated"]})
    rows = "\n".join(
        f"| {p.id} | {p.similarity:.3f} | {p.weight:.3f} | {p.licence} | {p.origin} |" for p in card.parents[:20]
    )
    more = f"\n\n{len(card.parents) - 20} further experts are in `card.yaml`." if len(card.parents) > 20 else ""
    return f"""---
{header}---

# LoRA for: {" ".join(card.description.split())}

Generated by loragen {card.versions["loragen"]} from the description above{_told(card)}.

- generator: `{card.generator}`, seed {card.seed}, sample {card.sample}
- base model: `{card.base}`{f" (weights {card.base_hash[:12]})" if card.base_hash else ""}
- update: rank {rank} at {len(adapter.sites)} sites, Frobenius norm {adapter.norm():.3f}
- zoo: `{card.zoo}` ({card.zoo_hash[:12]}), descriptions embedded by `{card.encoder}`

```python
from peft import PeftModel
from transformers import {kind}

model = PeftModel.from_pretrained({kind}.from_pretrained("{card.base}"), "path/to/this/folder")
```

## Experts it draws on

| expert | similarity | weight | licence of its data | source |
|---|---|---|---|---|
{rows}{more}

Licences of the data behind these experts: {"; ".join(licences)}.
"""


def _told(card: GeneratedCard) -> str:
    told = [f"the names of its {len(card.labels)} labels (in `card.yaml`)"] if card.labels else []
    told += [f"{card.examples} texts of the task"] if card.examples else []
    also = "".join(f" and {what}" for what in told)
    if card.fitted is not None:
        return f"{also}, and then fitted to these in {card.fitted.steps} steps"
    return f"{also}{'' if card.examples else ', without data of the task'}: no training"


def slug(description: str, *, words: int = 8) -> str:
    """A folder name from the first words of a description."""
    found: Sequence[str] = re.findall(r"[a-z0-9]+", description.casefold())
    return "-".join(found[:words])[:80] or "task"
