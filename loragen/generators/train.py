"""Training runs from a config to a generator's folder: resumable until done, whole once there."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from loragen.conditions.text_encoder import TextEncoder
from loragen.config import read_yaml
from loragen.errors import ConfigError, GeneratorError, MissingExtraError
from loragen.files import atomic_folder, atomic_write
from loragen.generators.registry import config_type, row_of
from loragen.generators.trained import TrainConfig
from loragen.zoo.zoo import Zoo, default_zoo

LOSSES = "losses.json"
PLOT = "losses.png"
RUN = "run.yaml"


@dataclass(frozen=True)
class TrainingResult:
    """Facts of a finished training run."""

    out: Path
    """Folder of the generator."""
    experts: tuple[str, ...]
    final: dict[str, float]
    """Losses by name, the mean over the last tenth of the steps, of the last training where there were two."""
    plot: Path | None
    """The curves, where matplotlib is installed."""


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a training config of any kind of generator; its ``generator`` says which.

    Args:
        path: a YAML file.
        overrides: ``key.sub=value`` each.

    Raises:
        ConfigError: the file is missing, its ``generator`` is unknown, or values do not fit.
    """
    return config_type(read_yaml(path).get("generator"), path).from_yaml(path, overrides)


def train_generator(
    config: TrainConfig, *, force: bool = False, on_step: Callable[[int], None] | None = None
) -> TrainingResult:
    """Train the generator of a config and write its folder.

    State is kept beside the folder after every epoch. An interrupted run of the same config goes on from there; a run
    of another config, or on other experts, does not touch that state but refuses.

    Args:
        config: settings of the run.
        force: replace a generator that lies at ``config.out``.
        on_step: called with the number of steps done.

    Raises:
        ConfigError: a generator of the bundled zoo, or any without ``force``, would be replaced.
        GeneratorError: an unfinished run with other settings or experts lies there.
        ZooError: the zoo is missing, empty or damaged.
    """
    _refuse_to_replace(config.out, force=force)
    zoo = Zoo.open(config.zoo).select(splits=config.splits)
    state = config.out.with_name(f".{config.out.name}.partial")
    encoder = TextEncoder.load(config.encoder)
    settings = f"{config.to_yaml()}# experts {zoo.fingerprint}, encoder {encoder.fingerprint}\n"
    if any(state.rglob("*.ckpt")) and (state / RUN).read_text() != settings:
        raise GeneratorError(
            f"{state} holds an unfinished run with other settings or experts; finish it with its own, or remove it."
        )
    atomic_write(state / RUN, settings)
    row = row_of(config)
    assert row.fit is not None
    generator, history = row.fit(config, zoo, encoder, checkpoints=state, on_step=on_step)
    with atomic_folder(config.out) as folder:
        for name, content in generator.files().items():
            atomic_write(folder / name, content)
        atomic_write(folder / RUN, config.to_yaml())
        atomic_write(folder / LOSSES, json.dumps(_thinned(history)))
        plotted = _plot(history, folder / PLOT)
    shutil.rmtree(state)
    tail = [row for row in history[-max(1, len(history) // 10) :] if row.keys() == history[-1].keys()]
    final = {name: sum(row[name] for row in tail) / len(tail) for name in tail[0]}
    return TrainingResult(config.out, zoo.ids, final, config.out / PLOT if plotted else None)


def _refuse_to_replace(out: Path, *, force: bool) -> None:
    if not out.exists() or force:
        return
    bundled = out.resolve().is_relative_to(default_zoo().resolve())
    whose = "a generator of the bundled zoo" if bundled else "a folder that is there already"
    raise ConfigError(
        f"The training would replace {out}, {whose}; write elsewhere with --set out=FOLDER (then name that folder "
        "with --generator), or replace it with --force."
    )


def _thinned(history: list[dict[str, float]], *, points: int = 200) -> list[dict[str, float]]:
    """Rows, about ``points``, each the mean of as many consecutive steps of one training, with the step it ends at."""
    width = -(-len(history) // points)
    trainings = [list(rows) for _, rows in groupby(history, key=lambda row: row.keys())]
    chunks = [rows[start : start + width] for rows in trainings for start in range(0, len(rows), width)]
    rows, step = [], 0
    for chunk in chunks:
        step += len(chunk)
        rows.append({"step": step} | {name: round(sum(r[name] for r in chunk) / len(chunk), 5) for name in chunk[0]})
    return rows


def _plot(history: list[dict[str, float]], path: Path) -> bool:
    try:
        from loragen.plotting import loss_curves
    except MissingExtraError:
        return False
    loss_curves(_thinned(history), path)
    return True
