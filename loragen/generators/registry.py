"""The registry of generators: one row each, from which names, help, messages and loading follow.

A new generator is one file (or folder) beside this one and one row of `ROWS`.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol

from loragen.conditions.task_vectors import EvidenceKind
from loragen.conditions.text_encoder import TextEncoder
from loragen.config import read_yaml
from loragen.errors import ConfigError, GeneratorError, shown
from loragen.generators.base import Generator
from loragen.generators.baselines import Mean, Nearest, TopK, Uniform
from loragen.generators.behind import Behind
from loragen.generators.edits import EditableGenerator
from loragen.generators.history import HISTORY, HISTORY_MANIFEST
from loragen.generators.history_fit import HistoryTrainConfig, fit_history
from loragen.generators.hyper.fit import HyperTrainConfig, fit_hyper
from loragen.generators.hyper.go_on import go_on_hyper
from loragen.generators.hyper.model import Hyper
from loragen.generators.icm.episodes import ICMTrainConfig
from loragen.generators.icm.fit import fit_icm
from loragen.generators.icm.go_on import go_on_icm
from loragen.generators.icm.model import ICM
from loragen.generators.landmark_ridge import MOST_EXACT, LandmarkRidge
from loragen.generators.origin import behind_of
from loragen.generators.ridge import Ridge
from loragen.generators.sg.fit import SGTrainConfig, fit_sg
from loragen.generators.sg.go_on import go_on_sg
from loragen.generators.sg.model import SG
from loragen.generators.trained import GENERATOR_MANIFEST, TrainConfig, TrainedGenerator, check_encoder
from loragen.paths import is_file
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import Zoo


class Trained(Protocol):
    """What a training gives: a generator, or a part that generators share."""

    def files(self) -> dict[str, str | bytes]:
        """The files of its folder."""
        ...


@dataclass(frozen=True)
class Row:
    """One generator: a merge has ``make``; a trained one has ``config``, ``fit`` and ``load``."""

    name: str
    about: str
    """A few words for the help."""
    make: Callable[[ExpertIndex, int | None], Generator] | None = None
    """From the experts and their number (`None`: the generator's own) to a merge of them."""
    config: type[TrainConfig] | None = None
    fit: Callable[..., tuple[Trained, list[dict[str, float]]]] | None = None
    """From a config, a zoo and a text encoder to a generator and its losses."""
    go_on: Callable[..., tuple[TrainedGenerator, list[dict[str, float]]]] | None = None
    """From a config, a zoo, a text encoder and a `GoingOn` to the generator that has gone on, and its losses."""
    manifest: str = GENERATOR_MANIFEST
    """The file by which its folder is known."""
    load: Callable[[Path], TrainedGenerator] | None = None
    evidence: tuple[EvidenceKind, ...] = ("description",)
    """Kinds of evidence that it can be trained to read."""
    takes_top_k: bool = False
    takes_licences: bool = True
    """True if experts can be left out when it generates; a network that has learnt from all cannot leave them out."""
    restrict: Callable[..., TrainedGenerator] | None = None
    """From a trained generator, ``top_k`` (`None`: its own) and experts to ``exclude`` to one that draws on fewer; for
    a trained generator that takes either."""
    seen: Callable[[Any], tuple[str, ...]] = lambda generator: generator.manifest.experts
    """Ids of the experts that a trained generator has seen."""
    told: Callable[[Any], bool] = lambda _generator: False
    """True if a generator's adapters want the task's description in their prompts."""

    @property
    def is_trained(self) -> bool:
        """True if it is trained on a zoo before it can be used."""
        return self.load is not None


ROWS = (
    Row(
        "sg",
        "SG-LoRA, the default",
        config=SGTrainConfig,
        fit=fit_sg,
        go_on=go_on_sg,
        load=SG.load,
        takes_top_k=True,
        restrict=SG.drawing_on,
        seen=lambda sg: sg.library.ids,
    ),
    Row(
        "icm",
        "ICM-LoRA",
        config=ICMTrainConfig,
        fit=fit_icm,
        go_on=go_on_icm,
        load=ICM.load,
        evidence=("description", "texts", "examples"),
        takes_licences=False,
    ),
    Row(
        "hyper",
        "a hypernetwork",
        config=HyperTrainConfig,
        fit=fit_hyper,
        go_on=go_on_hyper,
        load=Hyper.load,
        evidence=("description", "labels", "texts", "examples"),
        takes_licences=False,
        told=lambda hyper: hyper.manifest.told,
    ),
    Row("ridge", "kernel ridge regression", make=lambda experts, _top_k: _ridge(experts)),
    Row("topk", "nearest experts, weighted", make=lambda experts, k: _sized(TopK, experts, k), takes_top_k=True),
    Row("uniform", "nearest experts, equal", make=lambda experts, k: _sized(Uniform, experts, k), takes_top_k=True),
    Row("nearest", "the nearest expert", make=lambda experts, _top_k: Nearest(experts)),
    Row("mean", "all experts", make=lambda experts, _top_k: Mean(experts)),
)
PARTS = (
    Row(
        HISTORY,
        "the attention pool of histories",
        config=HistoryTrainConfig,
        fit=fit_history,
        manifest=HISTORY_MANIFEST,
    ),
)
"""What is trained like a generator and is none: it lies beside them."""
DEFAULT = "sg"


def rows() -> dict[str, Row]:
    """The rows by name."""
    return {row.name: row for row in ROWS}


def merges() -> tuple[str, ...]:
    """Names of the generators that need no training."""
    return tuple(row.name for row in ROWS if not row.is_trained)


def available(zoo: Zoo) -> tuple[str, ...]:
    """Names that `open_generator` knows for a zoo: those trained on it, and the merges."""
    trained = (path.parent.name for path in (zoo.root / "generators").glob(f"[!.]*/{GENERATOR_MANIFEST}"))
    return (*sorted(trained), *merges())


def default_generator(zoo: Zoo) -> str:
    """Name of the generator where none is named: the zoo's own choice; else sg, or the only one trained there."""
    if zoo.manifest.generator is not None:
        return zoo.manifest.generator
    trained = [name for name in available(zoo) if name not in merges()]
    return trained[0] if DEFAULT not in trained and len(trained) == 1 else DEFAULT


def open_generator(
    name: str,
    zoo: Zoo,
    encoder: TextEncoder,
    *,
    licences: Collection[str] | None = None,
    top_k: int | None = None,
) -> Generator:
    """Open a generator by its name (a merge, or one trained on the zoo) or by the path of its folder.

    Args:
        name: see above.
        zoo: the whole zoo; its split `experts` is drawn on.
        encoder: embeds descriptions.
        licences: draw on experts of these licences alone.
        top_k: how many experts to draw on, in place of the generator's own setting.

    Raises:
        GeneratorError: there is no such generator, an expert that it was trained on has been changed, or it cannot do
            what is asked.
        ZooError: no expert has a licence asked for.
    """
    if top_k is not None and top_k < 1:
        raise GeneratorError(f"{shown(top_k)} experts were asked for; at least 1 was wanted.")
    experts = zoo.drawn_on
    allowed = experts.select(licences=licences) if licences is not None else experts
    row = rows().get(name)
    if row is not None and row.make is not None:
        _refuse_unsupported(row, name, top_k=top_k, has_exclusions=False)
        return row.make(ExpertIndex.of(allowed, encoder), top_k)
    generator, row = _load(_folder(name, zoo))
    behind = _behind(generator, row, experts)
    check_encoder(generator.manifest, encoder)
    excluded = frozenset(experts.ids) - frozenset(allowed.ids)
    _refuse_unsupported(row, name, top_k=top_k, has_exclusions=bool(excluded))
    if behind is not None and row.takes_licences:
        excluded |= frozenset(behind.gone)
    if top_k is None and not excluded:
        return generator
    assert row.restrict is not None
    return row.restrict(generator, top_k=top_k, exclude=excluded)


def missed_by(generator: Generator, zoo: Zoo) -> Behind | None:
    """What a generator that was opened for a zoo has missed of it; `None` where that is nothing, and for merges."""
    if not isinstance(generator, TrainedGenerator):
        return None
    return _behind(generator, rows()[generator.name], zoo.drawn_on)


def _behind(generator: TrainedGenerator, row: Row, experts: Zoo) -> Behind | None:
    return behind_of(generator.manifest, row.seen(generator), experts, forgotten=forgotten_by(generator))


def is_told(generator: Generator) -> bool:
    """True if its adapters want the task's description in their prompts."""
    row = rows().get(generator.name)
    return row is not None and row.told(generator)


def forgotten_by(generator: Generator) -> dict[str, str]:
    """Experts that a generator has forgotten by edits, in their order, with the hashes of their adapters."""
    edits = generator.edits if isinstance(generator, EditableGenerator) else ()
    return {edit.expert: edit.adapter_hash for edit in edits}


def generator_folder(name: str, zoo: Zoo) -> Path | None:
    """The folder of a trained generator by its path, or by its name in a zoo; `None` where there is none."""
    folders = [Path(name)]
    if PurePath(name).parts == (name,) and name != "..":  # or it would be a way out of the zoo
        folders.append(zoo.root / "generators" / name)
    return next((folder for folder in folders if is_file(folder / GENERATOR_MANIFEST)), None)


def config_type(kind: Any, source: Path) -> type[TrainConfig]:
    """The training settings of a kind of generator.

    Raises:
        ConfigError: there is no such generator, or it needs no training.
    """
    row = next((row for row in (*ROWS, *PARTS) if row.name == kind), None)
    if row is None or row.config is None:
        known, parts = (", ".join(one.name for one in rows if one.config is not None) for rows in (ROWS, PARTS))
        raise ConfigError(
            f"{source} trains the generator {shown(kind)} (what they share: {parts}); generators that are trained: "
            f"{known}."
        )
    return row.config


def row_of(config: TrainConfig) -> Row:
    """The row that a training config belongs to."""
    return next(row for row in (*ROWS, *PARTS) if row.config is type(config))


def reading(kind: EvidenceKind) -> str:
    """Names of the generators that can read a kind of evidence, for messages."""
    return " or ".join(row.name for row in ROWS if kind in row.evidence)


def help_text() -> str:
    """One line on all generators."""
    return "; ".join(f"{row.name}: {row.about}" for row in ROWS) + "; or a generator's folder"


def _ridge(experts: ExpertIndex) -> Generator:
    is_large = experts.zoo.sharded is not None and len(experts.zoo) > MOST_EXACT
    return LandmarkRidge.fit(experts) if is_large else Ridge.fit(experts)


def _sized(kind: type[TopK] | type[Uniform], experts: ExpertIndex, top_k: int | None) -> Generator:
    return kind(experts) if top_k is None else kind(experts, top_k=top_k)


def _folder(name: str, zoo: Zoo) -> Path:
    folder = generator_folder(name, zoo)
    if folder is None:
        hint = ""
        if name in rows():
            hint = f" To train it on this zoo: loragen train CONFIG with 'generator: {name}' (loragen config list)."
        raise GeneratorError(f"There is no generator {shown(name)}; this zoo has {', '.join(available(zoo))}.{hint}")
    return folder


def _load(folder: Path) -> tuple[TrainedGenerator, Row]:
    try:
        kind = read_yaml(folder / GENERATOR_MANIFEST).get("kind")
    except ConfigError as error:
        raise GeneratorError(f"{folder} holds no generator ({error}); train it again with `loragen train`.") from error
    row = rows().get(kind) if isinstance(kind, str) else None
    if row is None or row.load is None:
        known = ", ".join(row.name for row in ROWS if row.is_trained)
        raise GeneratorError(f"{folder} holds a generator of the kind {shown(kind)}; known are {known}.")
    return row.load(folder), row


def _refuse_unsupported(row: Row, name: str, *, top_k: int | None, has_exclusions: bool) -> None:
    if top_k is not None and not row.takes_top_k:
        takers = ", ".join(other.name for other in ROWS if other.takes_top_k)
        raise GeneratorError(f"--top-k does not apply to {shown(name)}; it applies to {takers}.")
    if has_exclusions and not row.takes_licences:
        takers = ", ".join(other.name for other in ROWS if other.takes_licences)
        raise GeneratorError(
            f"--licence does not apply to {shown(name)}, which has learnt from all experts; choose one of {takers}, or "
            "train it on a zoo of the experts you may use."
        )
