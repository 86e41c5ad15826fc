"""Training runs from a config to a generator's folder: resumable until done, whole once there."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loragen.conditions.text_encoder import TextEncoder
from loragen.config import dump_yaml, read_yaml
from loragen.errors import ConfigError, GeneratorError, MissingExtraError
from loragen.files import atomic_folder, atomic_write, sweep
from loragen.generators.learner import GoingOn
from loragen.generators.listing import RUN as RUN
from loragen.generators.processes import fit_alongside, joined_by_torchrun, launched_rank, training_processes
from loragen.generators.registry import Trained, config_type, row_of
from loragen.generators.trained import HARDWARE, TrainConfig, TrainedGenerator
from loragen.locks import lock
from loragen.progress import Progress, silent
from loragen.zoo.zoo import Zoo, default_zoo

LOSSES = "losses.json"
PLOT = "losses.png"
DESCRIPTIONS = "descriptions.json"
"""File of a generator for the descriptions of the experts that it was trained on: updates may ask for them again."""
MOST_DESCRIBED = 4_096
"""Experts whose descriptions are kept."""


@dataclass(frozen=True)
class TrainingResult:
    """Facts of a finished training run."""

    out: Path
    """Folder of the generator."""
    experts: tuple[str, ...]
    final: dict[str, float]
    """Losses by name, the mean over the last tenth of the steps."""
    plot: Path | None
    """The curves, where matplotlib is installed."""
    rank: int = 0
    """Number of this process, where torchrun started several; 0 alone has written the folder."""


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a training config of any kind of generator; its ``generator`` says which.

    Args:
        path: a YAML file.
        overrides: ``key.sub=value`` each.

    Raises:
        ConfigError: the file is missing, its ``generator`` is unknown, or values do not fit.
    """
    return config_type(read_yaml(path).get("generator"), path).from_yaml(path, overrides)


class Update(GoingOn, Protocol):
    """A training that brings a generator up to date."""

    @property
    def told(self) -> str:
        """A line of the run's record: a run that is resumed has the same."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """What is kept beside the generator for the next update, once it is trained."""

    def signed(self, generator: TrainedGenerator, seconds: float) -> TrainedGenerator:
        """The generator, whose manifest says how it was brought up to date."""


def train_generator(
    config: TrainConfig,
    *,
    force: bool = False,
    on_step: Callable[[int], None] | None = None,
    update: Update | None = None,
) -> TrainingResult:
    """Train the generator of a config and write its folder.

    With several devices the other processes are started here, unless torchrun started all of them.

    State is kept beside the folder after every epoch. An interrupted run of the same config goes on from there; a run
    of another config, or on other experts, does not touch that state but refuses.

    Args:
        config: settings of the run.
        force: replace a generator that lies at ``config.out``.
        on_step: called with the number of steps done.
        update: goes on from a generator that is there, instead of training one from new.

    Raises:
        ConfigError: a generator would be replaced without ``force``, or something that is no generator.
        GeneratorError: an unfinished run with other settings or experts lies there, or the process of a device failed.
        ZooError: the zoo is missing, empty or damaged.
    """
    state = config.out.with_name(f".{config.out.name}.unfinished")
    rank = launched_rank()
    if rank is not None and not rank.is_first:
        with joined_by_torchrun(config):
            zoo, history = fit_alongside(config, state)
        return TrainingResult(config.out, zoo.ids, _last(history), None, rank.number)
    _sweep_finished(config.out, state)
    row = row_of(config)
    _refuse_to_replace(config.out, row.manifest, force=force)
    zoo = Zoo.open(config.zoo).select(splits=config.splits)
    encoder = TextEncoder.load(config.encoder)
    with lock(state):
        _refuse_to_replace(config.out, row.manifest, force=force)  # another run may have ended meanwhile
        state.mkdir(exist_ok=True)
        settings = f"{_told(config)}# experts {zoo.fingerprint}, encoder {encoder.fingerprint}\n"
        settings += "" if update is None else f"# {update.told}\n"
        if any(state.rglob("*.ckpt")) and (state / RUN).read_text() != settings:
            raise GeneratorError(
                f"{state} holds an unfinished run with other settings or experts; finish it with its own, or remove it."
            )
        atomic_write(state / RUN, settings)
        begun = time.monotonic()
        generator, history = _fitted(config, zoo, encoder, state, on_step, update)
        files: dict[str, str | bytes] = dict(generator.files()) | _descriptions(zoo, update)
        if update is not None:
            assert isinstance(generator, TrainedGenerator)
            files |= dict(update.signed(generator, round(time.monotonic() - begun, 1)).files()) | dict(update.files)
        plotted = _write(config, settings, files, history, replace=force)
        shutil.rmtree(state)
    return TrainingResult(config.out, zoo.ids, _last(history), config.out / PLOT if plotted else None)


def _fitted(
    config: TrainConfig,
    zoo: Zoo,
    encoder: TextEncoder,
    state: Path,
    on_step: Callable[[int], None] | None,
    update: Update | None,
) -> tuple[Trained, list[dict[str, float]]]:
    row = row_of(config)
    if update is not None:
        if row.go_on is None:
            raise ConfigError(f"What {row.name} trains is brought up to date by training it anew: --update joint.")
        return row.go_on(config, zoo, encoder, update, checkpoints=state, on_step=on_step)
    assert row.fit is not None
    with training_processes(config, state):
        return row.fit(config, zoo, encoder, checkpoints=state, on_step=on_step)


def _descriptions(zoo: Zoo, update: Update | None) -> dict[str, str | bytes]:
    """The file of the experts' descriptions, those that are gone among them; none where experts are many."""
    if len(zoo) > MOST_DESCRIBED:
        return {}
    known = {} if update is None else dict(update.descriptions)
    found = {name: list(texts) for name, texts in known.items()} | {card.id: list(card.descriptions) for card in zoo}
    return {DESCRIPTIONS: json.dumps(found, ensure_ascii=False, indent=1) + "\n"}


def _last(history: list[dict[str, float]]) -> dict[str, float]:
    tail = history[-max(1, len(history) // 10) :]
    return {name: sum(row[name] for row in tail) / len(tail) for name in tail[0]}


def _told(config: TrainConfig) -> str:
    """A config as it is kept beside what came of it; devices only where they are not the one that there always is."""
    usual = {name for name in HARDWARE if getattr(config, name) == type(config).model_fields[name].default}
    return dump_yaml(config.model_dump(mode="json", exclude=usual))


def _sweep_finished(out: Path, state: Path) -> None:
    """Clear away the state of a run whose generator is there: it was killed between the two."""
    sweep(out.parent)
    runs = (out / RUN, state / RUN)
    if all(run.is_file() for run in runs) and runs[0].read_bytes() == runs[1].read_bytes():
        with suppress(ConfigError), lock(state):
            shutil.rmtree(state)


def _write(
    config: TrainConfig,
    settings: str,
    files: Mapping[str, str | bytes],
    history: list[dict[str, float]],
    *,
    replace: bool,
) -> bool:
    """Write the folder of a generator; returns if the loss curves were drawn."""
    with atomic_folder(config.out, replace=replace) as folder:
        for name, content in files.items():
            atomic_write(folder / name, content)
        atomic_write(folder / RUN, settings)
        atomic_write(folder / LOSSES, json.dumps(_thinned(history)))
        return _plot(history, folder / PLOT)


def _refuse_to_replace(out: Path, manifest: str, *, force: bool) -> None:
    is_generator = (out / manifest).is_file()
    if not out.exists() or (force and (is_generator or (out.is_dir() and not any(out.iterdir())))):
        return
    way_out = "write elsewhere with --set out=FOLDER (then name that folder with --generator)"
    if not is_generator:
        raise ConfigError(f"The training would replace {out}, which is there and holds no generator; {way_out}.")
    bundled = out.resolve().is_relative_to(default_zoo().resolve())
    whose = "a generator of the bundled zoo" if bundled else "a generator that was trained before"
    raise ConfigError(f"The training would replace {out}, {whose}; {way_out}, or replace it with --force.")


def _thinned(history: list[dict[str, float]], *, points: int = 200) -> list[dict[str, float]]:
    """Rows, at most ``points``, each the mean of as many consecutive steps, with the step it ends at."""
    width = -(-len(history) // points)
    rows = []
    for start in range(0, len(history), width):
        chunk = history[start : start + width]
        means = {name: round(sum(row[name] for row in chunk) / len(chunk), 5) for name in chunk[0]}
        rows.append({"step": start + len(chunk)} | means)
    return rows


def _plot(history: list[dict[str, float]], path: Path) -> bool:
    try:
        from loragen.plotting import loss_curves
    except MissingExtraError:
        return False
    loss_curves(_thinned(history), path)
    return True


def train(
    config: Path | TrainConfig, overrides: Sequence[str] = (), *, force: bool = False, progress: Progress = silent
) -> TrainingResult:
    """Train a generator on a zoo; an interrupted run goes on where it was.

    Args:
        config: a YAML file, or settings.
        overrides: ``key.sub=value`` each, for a file.
        force: replace a generator that lies at the config's ``out``.
        progress: called with the stage, the steps done and their total.

    Raises:
        ConfigError: the config does not fit, or a generator would be replaced.
        GeneratorError: an unfinished run with other settings or experts lies there.
        ZooError: the zoo is missing, empty or damaged.
    """
    settings = read_config(config, overrides) if isinstance(config, Path) else config
    return train_generator(settings, force=force, on_step=lambda step: progress("training steps", step, settings.steps))
