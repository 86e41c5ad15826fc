"""Random experts over three small sites, in folders and packed, with what begins with thousands beginning with some."""

import pytest
import torch
from models import write_tiny_encoder
from tiny_experts import SITES

from loragen.adapters.adapter import Lora
from loragen.conditions.condition import Conditioner, Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.recipes.expert import Start
from loragen.zoo.card import CARD, EXPERTS, ZOO_MANIFEST, Card, Imported
from loragen.zoo.pack import pack_zoo
from loragen.zoo.zoo import Zoo

NUMBER = 60
TEXT = "Say which soup is hot."
WORDS = ("soup", "tea", "bread", "warm", "cold", "rain", "bank", "card", "news", "shop", "hot", "red", "late", "sharp")


def made_expert(number: int) -> tuple[Card, Lora]:
    """A random expert over the A that all share; every tenth is there for validation."""
    rng = torch.Generator().manual_seed(number)
    lora_a = Start.random(SITES, 2, rng=torch.Generator().manual_seed(0)).lora_A
    lora_b = {site: torch.randn(out, 2, generator=rng).bfloat16() for site, (_, out) in SITES.items()}
    adapter = Lora.from_factors(
        {site: a.bfloat16() for site, a in lora_a.items()},
        lora_b,
        base_model_name_or_path="tiny-base",
        task_type="FEATURE_EXTRACTION",
    )
    words = [WORDS[at] for at in torch.randint(len(WORDS), (4,), generator=rng).tolist()]
    card = Card(
        id=f"e{number * 7919 % 100_003:06}",  # no order of making
        split="experts" if number % 10 else "validation",
        description=f"Sort {' '.join(words)}.",
        paraphrases=tuple(f"{word}?" for word in words[: number % 3]),
        labels=("yes", "no"),
        licence="MIT" if number % 2 else "CC BY 4.0",
        base="tiny-base",
        base_hash="0" * 64,
        provenance=Imported(r=2, lora_alpha=2, use_rslora=False, energy_kept=1.0, missing=()),
        versions={},
    )
    return card, adapter


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> TextEncoder:
    return TextEncoder.load(str(write_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_zoo) -> Zoo:
    root = tmp_path_factory.mktemp("many") / "zoo"
    root.mkdir()
    (root / ZOO_MANIFEST).write_bytes((tiny_zoo.root / ZOO_MANIFEST).read_bytes())
    for number in range(NUMBER):
        card, adapter = made_expert(number)
        folder = root / EXPERTS / card.id
        folder.mkdir(parents=True)
        for name, content in {**adapter.files(), CARD: card.to_yaml().encode()}.items():
            (folder / name).write_bytes(content)
    return Zoo.open(root)


@pytest.fixture
def many(monkeypatch) -> None:
    """What else begins with thousands of experts begins with some."""
    for name in ("zoo.expert_index", "conditions.inverted_lists", "generators.sg.library"):
        monkeypatch.setattr(f"loragen.{name}.MOST_FLAT", 20)
    monkeypatch.setattr("loragen.generators.sg.fit.MOST_FITTED", NUMBER - 1)
    monkeypatch.setattr("loragen.generators.registry.MOST_EXACT", 20)
    monkeypatch.setattr("loragen.conditions.inverted_lists.PROBES", NUMBER)
    monkeypatch.setattr("loragen.zoo.shards.MOST_ROWS", 25)
    monkeypatch.setattr("loragen.zoo.embedding_table._AT_ONCE", 32)


@pytest.fixture
def packed(folders, tmp_path, many) -> Zoo:
    return pack_zoo(folders, tmp_path / "packed")


def asked(encoder: TextEncoder, text: str = TEXT):
    return Conditioner(encoder).condition(Evidence(text))


def coordinates(zoo: Zoo, adapter: Lora) -> torch.Tensor:
    return torch.cat([adapter.delta_weight(site).flatten() for site in adapter.sites])
