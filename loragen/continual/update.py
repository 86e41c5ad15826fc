"""Brings a generator up to date with a zoo that has grown, by one of the strategies."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loragen.config import apply_override
from loragen.continual.registry import JOINT, strategy_of
from loragen.continual.strategies.stages import FILE
from loragen.continual.strategy import Strategy
from loragen.errors import ConfigError, GeneratorError, cut
from loragen.generators.learner import Learner
from loragen.generators.registry import row_of
from loragen.generators.train import DESCRIPTIONS, TrainingResult, read_config, train_generator
from loragen.generators.trained import GENERATOR_MANIFEST, TrainConfig, TrainedGenerator, Updated
from loragen.paths import read_capped
from loragen.progress import Progress, silent
from loragen.zoo.zoo import Zoo

KEPT = (FILE,)
"""Files of a generator that strategies keep for the next update."""
LARGEST = 2**30
"""Bytes of one of them."""


@dataclass(eq=False)
class StrategyUpdate:
    """An update of one generator by one strategy."""

    old: TrainedGenerator
    strategy: Strategy
    of: str
    """SHA-256 of the old generator's tensors."""
    descriptions: Mapping[str, tuple[str, ...]]
    kept: Mapping[str, bytes]
    gone: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Of the strategy, all of them."""
        return self.strategy.model_dump(mode="json", exclude={"name"})

    @property
    def name(self) -> str:
        """Of the strategy."""
        return str(self.strategy.model_dump()["name"])

    @property
    def told(self) -> str:
        """The line of a run's record."""
        return f"update {self.name} {json.dumps(self.options)} of {self.of}"

    def fit(
        self, learner: Learner, *, checkpoints: Path | None, on_step: Callable[[int], None] | None
    ) -> list[dict[str, float]]:
        """Train a learner's network by the strategy.

        Raises:
            ConfigError: there is no new expert, or the strategy lacks what it reads.
        """
        if not learner.unseen:
            raise ConfigError(
                "The generator has seen every expert of the zoo, so there is nothing new to learn; to take experts out "
                "of it, use `loragen forget` or train it anew with --update joint."
            )
        if learner.devices.number > 1:
            raise ConfigError("Updates run on one device; set 'devices: 1', or train anew with --update joint.")
        begun = self.strategy.begin(learner, self.kept)
        history = begun.session.fit(checkpoints=checkpoints, on_step=on_step)
        self.files = dict(begun.files)
        return history

    def signed(self, generator: TrainedGenerator, seconds: float) -> TrainedGenerator:
        """The generator with the record of this update in its manifest."""
        record = Updated(
            strategy=self.name, options=self.options, of=self.of, seconds=seconds, no_longer_there=self.gone
        )
        manifest = generator.manifest.model_copy(update={"updated": record})
        return replace(generator, manifest=manifest)  # type: ignore[type-var]


def update_generator(
    config: Path | TrainConfig,
    strategy: str,
    *,
    options: Mapping[str, Any] | Sequence[str] = (),
    start: Path | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    progress: Progress = silent,
) -> TrainingResult:
    """Bring a generator up to date with the experts of its zoo; an interrupted update goes on where it was.

    The old generator stays as it is until the new one is whole.

    Args:
        config: of the training; its ``zoo`` holds the experts as they are now. Architecture and codes stay those of the
            old generator; lengths and learning rate are the config's.
        strategy: a name of `list_strategies`; ``joint`` trains anew.
        options: of the strategy, by name or as ``name=value`` each.
        start: folder of the generator to go on from; by default the config's ``out``, which is replaced.
        overrides: ``key.sub=value`` each, for a file.
        force: replace another generator that lies at ``out``.
        progress: called with the stage, the steps done and their total.

    Raises:
        ConfigError: there is no such strategy, an option does not fit, or there is nothing new to learn.
        GeneratorError: there is no generator to go on from, or it is of another kind or encoder.
        ZooError: the zoo is missing, empty or damaged.
    """
    settings = read_config(config, overrides) if isinstance(config, Path) else config
    chosen = strategy_of(strategy, _by_name(options))
    folder = settings.out if start is None else start
    replaces = force or folder.resolve() == settings.out.resolve()

    def report(step: int) -> None:
        progress("training steps", step, settings.steps)

    if chosen is None:
        assert strategy == JOINT
        return train_generator(settings, force=replaces, on_step=report)
    update = _update_of(settings, chosen, folder)
    return train_generator(settings, force=replaces, on_step=report, update=update)


def _by_name(options: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    if isinstance(options, Mapping):
        return dict(options)
    found: dict[str, Any] = {}
    for one in options:
        apply_override(found, one)
    return found


def _update_of(config: TrainConfig, strategy: Strategy, folder: Path) -> StrategyUpdate:
    if not (folder / GENERATOR_MANIFEST).is_file():
        raise GeneratorError(
            f"There is no generator in {cut(folder)} to go on from; train one with `loragen train`, or name its folder "
            "with --from."
        )
    row = row_of(config)
    if row.load is None:
        raise ConfigError(f"What {row.name} trains is brought up to date by training it anew: --update joint.")
    old, zoo = row.load(folder), Zoo.open(config.zoo).select(splits=config.splits)
    if old.manifest.encoder != config.encoder:
        raise GeneratorError(
            f"The generator in {cut(folder)} embeds descriptions by {cut(old.manifest.encoder)}, the config by "
            f"{cut(config.encoder)}; name its own, or train anew."
        )
    known = _descriptions(folder)
    known |= {name: zoo.card(name).descriptions for name in old.manifest.experts if name in zoo.cards}
    kept = {name: read_capped(folder / name, LARGEST, kind="file") for name in KEPT if (folder / name).is_file()}
    return StrategyUpdate(
        old,
        strategy,
        hashlib.sha256(read_capped(folder / "generator.safetensors", 2**40, kind="generator")).hexdigest(),
        {name: known[name] for name in sorted(known.keys() & set(old.manifest.experts))},
        kept,
        tuple(name for name in old.manifest.experts if name not in zoo.cards),
    )


def _descriptions(folder: Path) -> dict[str, tuple[str, ...]]:
    """Expert → its descriptions, as the generator's folder keeps them; none where it was trained before it did."""
    path = folder / DESCRIPTIONS
    if not path.is_file():
        return {}
    try:
        found = json.loads(read_capped(path, LARGEST, kind="descriptions"))
        return {str(name): tuple(map(str, texts)) for name, texts in found.items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise GeneratorError(f"{cut(path)} is damaged ({cut(error)}); restore it, or remove it.") from error
