"""The one place that turns a generator's name into a generator over a zoo."""

from collections.abc import Collection
from pathlib import Path

from loragen.config import read_yaml
from loragen.embedding import TextEncoder
from loragen.errors import ConfigError, GeneratorError
from loragen.generators.attention import Attention
from loragen.generators.base import AdapterGenerator
from loragen.generators.hyper import Hyper
from loragen.generators.icm import ICM
from loragen.generators.library import Library
from loragen.generators.merge import Mean, Nearest, TopK, Uniform
from loragen.generators.ridge import Ridge
from loragen.generators.sg import SG
from loragen.generators.trained import MANIFEST, TrainedGenerator
from loragen.zoo import Zoo

SPLIT = "experts"
"""Generators draw on this split of a zoo alone; its other experts are there for choosing settings."""

MERGES = ("mean", "nearest", "uniform", "topk", "ridge")
TRAINED: dict[str, type[TrainedGenerator]] = {"sg": SG, "icm": ICM, "attention": Attention, "hyper": Hyper}


def available(zoo: Zoo) -> tuple[str, ...]:
    """Names that `open_generator` knows for a zoo: the merges, and the generators trained on it."""
    return (*MERGES, *sorted(path.parent.name for path in (zoo.root / "generators").glob(f"[!.]*/{MANIFEST}")))


def open_generator(
    name: str,
    zoo: Zoo,
    encoder: TextEncoder,
    *,
    licences: Collection[str] | None = None,
    top_k: int | None = None,
) -> AdapterGenerator:
    """Open a generator by its name (one of `MERGES`, one trained on the zoo) or by the path of its folder.

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
        if name in ("topk", "uniform"):
            kind = TopK if name == "topk" else Uniform
            return kind(library) if top_k is None else kind(library, top_k=top_k)
        _refuse_top_k(name, top_k)
        if name == "ridge":
            return Ridge.fit(library)
        return Mean(library) if name == "mean" else Nearest(library)
    folder = Path(name) if (Path(name) / MANIFEST).is_file() else zoo.root / "generators" / name
    if not folder.is_dir():
        raise GeneratorError(f"There is no generator {name!r}; this zoo has {', '.join(available(zoo))}.")
    generator = _load(folder)
    _check_fit(generator, experts, encoder)
    excluded = frozenset(experts.ids) - frozenset(allowed.ids)
    if isinstance(generator, SG):
        return generator.drawing_on(top_k=top_k, exclude=excluded)
    _refuse_top_k(name, top_k)
    if isinstance(generator, Attention):
        return generator.without(excluded)
    if excluded:
        raise GeneratorError(
            f"--licence does not apply to {name!r}, which has learnt from all experts; choose ridge, topk, nearest or "
            "mean, or train it on a zoo of the experts you may use."
        )
    return generator


def _load(folder: Path) -> TrainedGenerator:
    try:
        kind = read_yaml(folder / MANIFEST).get("kind")
    except ConfigError as error:
        raise GeneratorError(f"{folder} holds no generator ({error}); train it again with `loragen train`.") from error
    if not isinstance(kind, str) or kind not in TRAINED:
        raise GeneratorError(f"{folder} holds a generator of the kind {kind!r}; known are {', '.join(TRAINED)}.")
    return TRAINED[kind].load(folder)


def _refuse_top_k(name: str, top_k: int | None) -> None:
    if top_k is not None:
        raise GeneratorError(f"--top-k does not apply to {name!r}; it applies to topk, uniform and sg.")


def _check_fit(generator: TrainedGenerator, experts: Zoo, encoder: TextEncoder) -> None:
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
