"""The one place that turns a generator's name into a generator over a zoo."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from loragen.embedding import TextEncoder
from loragen.errors import GeneratorError
from loragen.generators.base import AdapterGenerator
from loragen.generators.library import Library
from loragen.generators.merge import Mean, Nearest, TopK
from loragen.generators.sg import SG
from loragen.zoo import Zoo

SPLIT = "experts"
"""Generators draw on this split of a zoo alone; its other experts are there for choosing settings."""

MERGES = ("mean", "nearest", "topk")


def available(zoo: Zoo) -> tuple[str, ...]:
    """Names that `open_generator` knows for a zoo: the merges, and the generators trained on it."""
    return (*MERGES, *sorted(path.parent.name for path in (zoo.root / "generators").glob("[!.]*/generator.yaml")))


def open_generator(
    name: str,
    zoo: Zoo,
    encoder: TextEncoder,
    *,
    licences: Collection[str] | None = None,
    top_k: int | None = None,
) -> AdapterGenerator:
    """Open a generator by its name (`mean`, `nearest`, `topk`, one trained on the zoo) or by the path of its folder.

    Args:
        name: see above.
        zoo: the whole zoo; its split `experts` is drawn on.
        encoder: embeds descriptions.
        licences: draw on experts of these licences alone.
        top_k: how many experts to draw on, in place of the generator's own setting.

    Raises:
        GeneratorError: there is no such generator, it was made for other experts, or it cannot do what is asked.
        ZooError: no expert has a licence asked for.
    """
    experts = zoo.select(splits={SPLIT})
    allowed = experts.select(licences=licences) if licences is not None else experts
    if name in MERGES:
        library = Library.of(allowed, encoder)
        if name == "topk":
            return TopK(library) if top_k is None else TopK(library, top_k=top_k)
        _refuse_top_k(name, top_k)
        return Mean(library) if name == "mean" else Nearest(library)
    folder = Path(name) if (Path(name) / "generator.yaml").is_file() else zoo.root / "generators" / name
    if not folder.is_dir():
        raise GeneratorError(f"There is no generator {name!r}; this zoo has {', '.join(available(zoo))}.")
    generator = SG.load(folder)
    _check_fit(generator, experts, encoder)
    if top_k is not None:
        config = generator.config.model_copy(update={"top_k": top_k})
        generator = replace(generator, manifest=generator.manifest.model_copy(update={"config": config}))
    return replace(generator, exclude=frozenset(experts.ids) - frozenset(allowed.ids))


def _refuse_top_k(name: str, top_k: int | None) -> None:
    if top_k is not None:
        raise GeneratorError(f"--top-k does not apply to {name!r}; it applies to topk and sg.")


def _check_fit(generator: SG, experts: Zoo, encoder: TextEncoder) -> None:
    manifest = generator.manifest
    if manifest.zoo_hash != experts.fingerprint:
        raise GeneratorError(
            f"The generator was trained on other experts (hash {manifest.zoo_hash[:12]}) than those of {experts.root} "
            f"({experts.fingerprint[:12]}); train it again with `loragen train`."
        )
    if manifest.encoder_hash != encoder.fingerprint:
        raise GeneratorError(
            f"The generator was trained with the text encoder {manifest.encoder} (hash {manifest.encoder_hash}), but "
            f"{encoder.name} has the hash {encoder.fingerprint}; use the former, or train it again."
        )
