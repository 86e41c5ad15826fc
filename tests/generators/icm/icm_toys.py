"""Small ICM-LoRAs over the tiny zoo, and what is asked of them."""

import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from loragen.adapters.adapter import Lora
from loragen.conditions.condition import Condition, Conditioner, Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.files import atomic_write
from loragen.generators.icm.episodes import ICMTrainConfig
from loragen.generators.icm.model import ICM
from loragen.zoo.zoo import Zoo

ENOUGH = {"epochs": 3, "steps_per_epoch": 40, "batch_size": 16, "learning_rate": 3e-2}
"""To tell seven tasks apart."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def configured(model: Path, *, icm: dict[str, object] | None = None, **values: object) -> ICMTrainConfig:
    small = {"evidence": ["description"], "channels": [4, 8, 4], "latent_size": 4, "components": 6}
    settings = {"epochs": 3, "steps_per_epoch": 2, "batch_size": 8, "learning_rate": 1e-2} | values
    paths = {"zoo": "zoo", "encoder": str(model), "reading_model": str(model), "out": "out"}
    return ICMTrainConfig(generator="icm", icm=small | (icm or {}), **paths | settings)


def update(adapter: Lora) -> Tensor:
    """All delta weights of an adapter as one vector."""
    return torch.cat([adapter.delta_weight(site).flatten() for site in sorted(adapter.sites)])


def generated(generator: ICM, condition: Condition, *, seed: int = 0, scale: float = 0.0) -> Lora:
    return generator.with_prior_scale(scale).generate(condition, rng=seeded(seed))[0].adapter


def distances(generator: ICM, conditions: list[Condition], zoo: Zoo) -> Tensor:
    """From what is generated under each condition to each expert; 1 is an expert's distance from their mean, (n, n)."""
    experts = torch.stack([update(zoo.adapter(expert)) for expert in zoo.ids])
    spread = (experts - experts.mean(0)).norm(dim=1).mean()
    return torch.cdist(torch.stack([update(generated(generator, asked)) for asked in conditions]), experts) / spread


def conditioner_of(generator: ICM, encoder: TextEncoder) -> Conditioner:
    return Conditioner(encoder, generator.reading, generator.evidence)


def described(generator: ICM, encoder: TextEncoder, zoo: Zoo) -> list[Condition]:
    conditioner = conditioner_of(generator, encoder)
    return [conditioner.condition(Evidence(card.description)) for card in zoo]


def saved(generator: ICM, folder: Path) -> Path:
    for name, content in generator.files().items():
        atomic_write(folder / name, content)
    return folder


def equal_states(one: nn.Module, other: nn.Module) -> bool:
    values = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in values)


def with_another_expert(zoo: Zoo, expert: str, folder: Path) -> Zoo:
    """The zoo with another adapter and another description for one of its experts."""
    shutil.copytree(zoo.root, folder)
    for file in (zoo.root / "experts" / "shop").glob("*.safetensors"):
        shutil.copy(file, folder / "experts" / expert)
    card = folder / "experts" / expert / "card.yaml"
    card.write_text(card.read_text().replace(zoo.card(expert).description, "Warm soup, or cold tea?"))
    other = Zoo.open(folder).select(splits={"experts"})
    assert other.card(expert).description != zoo.card(expert).description
    return other
