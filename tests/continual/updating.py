"""Small generators of all kinds over zoos of some of the toys, and their updates."""

import shutil
from collections.abc import Collection
from pathlib import Path

from loragen.config import dump_yaml
from loragen.generators.train import read_config, train_generator
from loragen.generators.trained import TrainConfig
from loragen.zoo.card import EXPERTS, ZOO_MANIFEST

OLD = ("cups", "meals", "mugs", "weather")
NEW = ("drinks", "suppers")
LENGTH = {"epochs": 2, "steps_per_epoch": 6, "batch_size": 8, "learning_rate": 5e-3}
KINDS = {
    "sg": {"sg": {"top_k": 2, "components": 6, "latent_size": 4, "hidden_size": 16}},
    "icm": {
        "icm": {"components": 6, "evidence": ["description"], "channels": [4, 4], "kernel_size": 3, "latent_size": 4}
    },
    "hyper": {
        "objective": "weights",
        "weights_steps": 12,
        "judged_on": None,
        "variants": 0,
        "hyper": {"evidence": ["description"], "basis_size": 3, "hidden_size": 16},
    },
}


def zoo_of(toys: Path, names: Collection[str], out: Path) -> Path:
    """A zoo of some of the toys' experts."""
    for name in names:
        shutil.copytree(toys / "zoo" / EXPERTS / name, out / EXPERTS / name)
    shutil.copy(toys / "zoo" / ZOO_MANIFEST, out / ZOO_MANIFEST)
    return out


def config_of(kind: str, toys: Path, zoo: Path, out: Path, **changes: object) -> TrainConfig:
    """Settings of a short training."""
    values = {
        "generator": kind,
        "zoo": str(zoo),
        "encoder": str(toys / "base"),
        "out": str(out),
        **({} if kind == "sg" else {"tasks": str(toys / "tasks.yaml")}),
        **LENGTH,
        **KINDS[kind],
        **changes,
    }
    path = out.with_name(f"{out.name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_yaml(values))
    return read_config(path)


def trained(kind: str, toys: Path, folder: Path) -> Path:
    """A generator of the old experts."""
    out = folder / "old"
    train_generator(config_of(kind, toys, zoo_of(toys, OLD, folder / "before"), out))
    return out
