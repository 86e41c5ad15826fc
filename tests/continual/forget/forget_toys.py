"""Tiny zoos with trained generators, one of each kind."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from hyper_toys import changed, config_of, with_multitask
from models import write_tiny_encoder

from loragen.adapters.adapter import Lora
from loragen.conditions.text_encoder import TextEncoder
from loragen.continual.forget.described import Conditions
from loragen.continual.forget.probe import generated
from loragen.continual.forget.report import Forgotten
from loragen.continual.forget.settings import ForgetSettings
from loragen.generators.icm.episodes import ICMTrainConfig
from loragen.generators.registry import open_generator
from loragen.generators.sg.fit import SGTrainConfig
from loragen.generators.sg.model import SGConfig
from loragen.generators.train import train_generator
from loragen.zoo.zoo import Zoo

FORGOTTEN = {"sg": "card", "icm": "card", "hyper": "mugs"}
"""Generator → the expert that it is to forget."""
PENALTIES = {"sg": 0.3, "icm": 1.0, "hyper": 1.0}
"""With which some layers stay as they were, and others do not."""
SETTINGS = {kind: ForgetSettings(steps=50, rank=4, penalty=penalty) for kind, penalty in PENALTIES.items()}


@dataclass(frozen=True)
class Case:
    """One kind of generator."""

    kind: str
    zoo: Zoo
    encoder: TextEncoder
    expert: str
    before: list[Lora]
    found: Forgotten

    @property
    def folder(self) -> Path:
        return self.zoo.root / "generators" / self.kind


def given(kind: str, zoo: Zoo, encoder: TextEncoder, expert: str) -> list[Lora]:
    """What a generator gives, as it is now, for an expert's descriptions."""
    generator = open_generator(kind, zoo, encoder)
    return generated(generator, Conditions(generator, zoo, encoder).of(expert))


def write_zoo(kind: str, tiny_zoo: Zoo, toys: Path, folder: Path) -> tuple[Zoo, str]:
    """A zoo of its own with one trained generator, called by its kind; and the encoder of its descriptions."""
    if kind == "hyper":
        zoo, encoder = with_multitask(Zoo.open(toys / "zoo"), folder / "zoo"), str(toys / "base")
        config = changed(
            config_of(toys),
            zoo=zoo.root,
            out=zoo.root / "generators" / "hyper",
            objective="weights",
            hyper={"basis_size": 6, "hidden_size": 32, "evidence": ["description"], "dropout": 0.0},
            weights_steps=100,
            steps_per_epoch=50,
            condition_dropout=0.0,
            variants=0,
        )
        train_generator(config)
        return zoo, encoder
    encoder = str(write_tiny_encoder(folder / "encoder", seed=1))
    root = shutil.copytree(tiny_zoo.root, folder / "zoo")
    shared = {"zoo": root, "encoder": encoder, "out": root / "generators" / kind, "seed": 0}
    if kind == "sg":
        sg = SGConfig(top_k=2, components=6, latent_size=4, hidden_size=32, kl_weight=0.1)
        train_generator(
            SGTrainConfig(
                generator="sg", sg=sg, epochs=1, steps_per_epoch=150, batch_size=16, learning_rate=1e-2, **shared
            )
        )
    else:
        icm = {"evidence": ["description"], "channels": [4, 8, 4], "latent_size": 4, "components": 6}
        train_generator(
            ICMTrainConfig(
                generator="icm",
                icm=icm,
                reading_model=encoder,
                epochs=1,
                steps_per_epoch=120,
                batch_size=16,
                learning_rate=3e-2,
                **shared,
            )
        )
    return Zoo.open(root), encoder
