"""Training runs from a config to a generator's folder: resumable until done, whole once there."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from loragen.config import read_yaml
from loragen.embedding import TextEncoder
from loragen.errors import ConfigError, GeneratorError, MissingExtraError
from loragen.files import atomic_folder, atomic_write
from loragen.generators.attention_fit import AttentionTrainConfig, fit_attention
from loragen.generators.hyper_fit import HyperTrainConfig, fit_hyper
from loragen.generators.icm_episodes import ICMTrainConfig
from loragen.generators.icm_fit import fit_icm
from loragen.generators.sg_fit import SGTrainConfig, fit_sg
from loragen.generators.trained import TrainedGenerator
from loragen.zoo import Zoo

LOSSES = "losses.json"
PLOT = "losses.png"
RUN = "run.yaml"


@dataclass(frozen=True)
class Trained:
    """What a training run left."""

    experts: tuple[str, ...]
    final: dict[str, float]
    """Losses by name, the mean over the last tenth of the steps, of the last training where there were two."""
    plot: Path | None
    """The curves, where matplotlib is installed."""


GeneratorConfig = SGTrainConfig | ICMTrainConfig | AttentionTrainConfig | HyperTrainConfig
KINDS: dict[str, type[GeneratorConfig]] = {
    "sg": SGTrainConfig,
    "icm": ICMTrainConfig,
    "attention": AttentionTrainConfig,
    "hyper": HyperTrainConfig,
}


def read_config(path: Path, overrides: Sequence[str] = (), *, objective: str | None = None) -> GeneratorConfig:
    """Read a training config of any kind of generator; its ``generator`` says which.

    Args:
        path: a YAML file.
        overrides: ``key.sub=value`` each.
        objective: in place of the config's own, for generators that have a choice.

    Raises:
        ConfigError: the file is missing, its ``generator`` is unknown, or values do not fit.
    """
    kind = read_yaml(path).get("generator")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{path} trains the generator {kind!r}; known are {', '.join(KINDS)}.")
    if objective is None:
        return KINDS[kind].from_yaml(path, overrides)
    if "objective" not in KINDS[kind].model_fields:
        choice = ", ".join(name for name, config in KINDS.items() if "objective" in config.model_fields)
        raise ConfigError(
            f"--objective does not apply to {kind!r}, which {path} trains and which has one objective alone; it "
            f"applies to {choice}."
        )
    return KINDS[kind].from_yaml(path, [*overrides, f"objective={objective}"])


def train_generator(config: GeneratorConfig, *, on_step: Callable[[int], None] | None = None) -> Trained:
    """Train the generator of a config and write its folder.

    State is kept beside the folder after every epoch. An interrupted run of the same config goes on from there; a run
    of another config, or on other experts, does not touch that state but refuses.

    Raises:
        GeneratorError: an unfinished run with other settings or experts lies there.
        ZooError: the zoo is missing, empty or damaged.
    """
    zoo = Zoo.open(config.zoo).select(splits=config.splits)
    state = config.out.with_name(f".{config.out.name}.partial")
    encoder = TextEncoder.load(config.encoder)
    settings = f"{config.to_yaml()}# experts {zoo.fingerprint}, encoder {encoder.fingerprint}\n"
    if any(state.rglob("*.ckpt")) and (state / RUN).read_text() != settings:
        raise GeneratorError(
            f"{state} holds an unfinished run with other settings or experts; finish it with its own, or remove it."
        )
    atomic_write(state / RUN, settings)
    generator, history = _fit(config, zoo, encoder, state, on_step)
    with atomic_folder(config.out) as folder:
        for name, content in generator.files().items():
            atomic_write(folder / name, content)
        atomic_write(folder / RUN, config.to_yaml())
        atomic_write(folder / LOSSES, json.dumps(_thinned(history)))
        plotted = _plot(history, folder / PLOT)
    shutil.rmtree(state)
    tail = [row for row in history[-max(1, len(history) // 10) :] if row.keys() == history[-1].keys()]
    final = {name: sum(row[name] for row in tail) / len(tail) for name in tail[0]}
    return Trained(zoo.ids, final, config.out / PLOT if plotted else None)


def _fit(
    config: GeneratorConfig, zoo: Zoo, encoder: TextEncoder, state: Path, on_step: Callable[[int], None] | None
) -> tuple[TrainedGenerator, list[dict[str, float]]]:
    if isinstance(config, ICMTrainConfig):
        return fit_icm(config, zoo, encoder, checkpoints=state, on_step=on_step)
    if isinstance(config, AttentionTrainConfig):
        return fit_attention(config, zoo, encoder, checkpoints=state, on_step=on_step)
    if isinstance(config, HyperTrainConfig):
        return fit_hyper(config, zoo, encoder, checkpoints=state, on_step=on_step)
    return fit_sg(config, zoo, encoder, checkpoints=state, on_step=on_step)


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
