"""The gold standard of forgetting: the generator trained anew, as it was, on a zoo without the expert."""

from collections.abc import Callable, Collection
from pathlib import Path

from loragen.conditions.text_encoder import TextEncoder
from loragen.config import read_yaml
from loragen.errors import ConfigError, GeneratorError, cut
from loragen.generators.base import Generator
from loragen.generators.registry import config_type, row_of
from loragen.generators.train import RUN
from loragen.generators.trained import TrainConfig
from loragen.zoo.zoo import Zoo

OLDER = ("objective", "polish")
"""Keys of runs of older versions, which trained in other ways too."""


def run_config(folder: Path, zoo: Zoo) -> TrainConfig:
    """The settings that a generator was trained with, for its zoo wherever that lies now, on one device.

    Raises:
        GeneratorError: its folder does not keep them, or not whole.
    """
    try:
        values = read_yaml(folder / RUN)
        kind = config_type(values.get("generator"), folder / RUN)
        kept = {key: value for key, value in values.items() if key not in OLDER or key in kind.model_fields}
        return kind.checked(kept | {"zoo": str(zoo.root), "devices": 1}, source=str(folder / RUN))
    except ConfigError as error:
        raise GeneratorError(
            f"The generator in {cut(folder)} cannot be trained anew as it was ({cut(error, 400)}); leave --gold out."
        ) from error


def train_without(
    folder: Path,
    zoo: Zoo,
    experts: Collection[str],
    encoder: TextEncoder,
    *,
    on_step: Callable[[int, int], None] | None = None,
) -> Generator:
    """Train a generator as the one in a folder was, on the zoo without some experts; nothing is written.

    Args:
        folder: of the generator.
        zoo: the whole zoo.
        experts: to leave out.
        encoder: of descriptions.
        on_step: called with the number of steps done and their total.

    Raises:
        GeneratorError: the folder does not say how it was trained.
        ZooError: no expert is left.
        TaskError: tasks that the training reads are not there.
    """
    config = run_config(folder, zoo)
    fit = row_of(config).fit
    assert fit is not None
    left = zoo.select(splits=config.splits, without=experts)

    def told(step: int) -> None:
        if on_step is not None:
            on_step(step, config.steps)

    generator, _ = fit(config, left, encoder, on_step=told)
    assert isinstance(generator, Generator)
    return generator
