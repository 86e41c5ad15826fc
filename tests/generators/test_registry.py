"""Names, messages and loading follow from the rows, and a new generator is one class and one row."""

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pytest
import torch
from safetensors.torch import load_file, save

from loragen.adapters.adapter import Lora
from loragen.conditions.condition import Condition
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, GeneratorError, ZooError
from loragen.generators import registry
from loragen.generators.base import DescriptionGenerator, Generation
from loragen.generators.registry import (
    ROWS,
    Row,
    available,
    default_generator,
    help_text,
    merges,
    open_generator,
    reading,
)
from loragen.generators.sg.model import SG
from loragen.generators.train import read_config, train_generator
from loragen.generators.trained import GENERATOR_MANIFEST, Provenance, TrainConfig, TrainedGenerator, reading_folder
from loragen.zoo.expert_index import ExpertIndex, Neighbour
from loragen.zoo.zoo import Zoo, default_zoo

UNTRAINED = ("ridge", "topk", "uniform", "nearest", "mean")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def asked(encoder: TextEncoder, text: str = "Route a message to the right desk of a bank.") -> Condition:
    return Condition(text, encoder.encode([text])[0])


def with_generator(zoo: Zoo, source: Path, name: str, folder: Path) -> Zoo:
    """A copy of the zoo that has a trained generator."""
    shutil.copytree(zoo.root, folder)
    shutil.copytree(source, folder / "generators" / name)
    return Zoo.open(folder)


# --- names ----------------------------------------------------------------------------------------------------------


def test_rows_are_known_by_distinct_names_and_by_one_way_to_open_them() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert merges() == UNTRAINED
    for row in ROWS:
        parts = (row.config, row.fit, row.load)
        assert row.is_trained == (None not in parts) == (row.make is None)
        assert row.is_trained or not any(parts)
        assert row.restrict is not None or not row.is_trained or not (row.takes_top_k or row.takes_licences)


def test_an_unknown_generator_is_named_with_the_known_ones(tiny_zoo, encoder) -> None:
    with pytest.raises(GeneratorError, match=r"'sgg'; this zoo has ridge, topk, uniform, nearest, mean\.$"):
        open_generator("sgg", tiny_zoo, encoder)
    assert available(tiny_zoo) == UNTRAINED


def test_a_generator_that_is_yet_to_be_trained_is_named_with_the_way_to_train_it(tiny_zoo, encoder) -> None:
    with pytest.raises(GeneratorError, match=r"this zoo has .*mean\. To train it .*loragen train .* 'generator: icm'"):
        open_generator("icm", tiny_zoo, encoder)


def test_a_generator_opens_by_its_folder_and_by_the_name_of_that_in_its_zoo(encoder) -> None:
    zoo = Zoo.open(default_zoo())
    assert available(zoo) == ("icm", "sg", *UNTRAINED)
    for name in ("sg", str(zoo.root / "generators" / "sg")):
        assert isinstance(open_generator(name, zoo, encoder), SG)


def test_where_none_is_named_it_is_sg_or_the_one_that_was_trained_on_the_zoo(tiny_zoo, tmp_path) -> None:
    shipped = default_zoo() / "generators"
    assert default_generator(Zoo.open(default_zoo())) == "sg"
    assert default_generator(tiny_zoo) == "sg", "whose message says how to train it"
    alone = with_generator(tiny_zoo, shipped / "icm", "own", tmp_path / "zoo")
    assert default_generator(alone) == "own"
    shutil.copytree(shipped / "icm", alone.root / "generators" / "second")
    assert default_generator(alone) == "sg", "which of the two is not known"
    manifest = alone.manifest.model_copy(update={"generator": "second"})
    (alone.root / "zoo.yaml").write_text(manifest.to_yaml())
    assert default_generator(Zoo.open(alone.root)) == "second", "which the zoo's manifest says"


@pytest.mark.parametrize("text", ["kind: oracle\n", "zoo: tiny\n", "kind: [icm]\n"])
def test_an_unknown_kind_of_generator_is_refused(tiny_zoo, encoder, tmp_path, text: str) -> None:
    (tmp_path / GENERATOR_MANIFEST).write_text(text)
    with pytest.raises(GeneratorError, match=r"of the kind .*; known are sg, icm, hyper\.$"):
        open_generator(str(tmp_path), tiny_zoo, encoder)


def test_a_folder_without_a_manifest_is_no_generator(tiny_zoo, encoder, tmp_path) -> None:
    with pytest.raises(GeneratorError, match="There is no generator"):
        open_generator(str(tmp_path), tiny_zoo, encoder)


def test_a_folder_with_a_damaged_manifest_holds_no_generator(tiny_zoo, encoder, tmp_path) -> None:
    (tmp_path / GENERATOR_MANIFEST).write_text("kind: [")
    with pytest.raises(GeneratorError, match=r"(?s)holds no generator .*train it again"):
        open_generator(str(tmp_path), tiny_zoo, encoder)


# --- experts and the encoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ridge", "nearest", "mean"])
def test_top_k_is_refused_where_it_means_nothing(tiny_zoo, encoder, name: str) -> None:
    with pytest.raises(GeneratorError, match=f"--top-k does not apply to '{name}'; it applies to sg, topk, uniform"):
        open_generator(name, tiny_zoo, encoder, top_k=3)


@pytest.mark.parametrize("name", UNTRAINED)
def test_merges_draw_on_experts_of_the_licences_asked_for(tiny_zoo, encoder, name: str) -> None:
    (generation,) = open_generator(name, tiny_zoo, encoder, licences=["mit"]).generate(asked(encoder), rng=seeded())
    assert {tiny_zoo.card(n.id).licence for n in generation.neighbours} == {"MIT"}
    with pytest.raises(ZooError, match=r"holds: CC BY 4\.0; MIT"):
        open_generator(name, tiny_zoo, encoder, licences=["GPL-3.0"])


def test_sg_draws_on_as_many_experts_and_of_such_licences_as_are_asked_for(encoder) -> None:
    zoo = Zoo.open(default_zoo())
    licence = "MIT"
    whole, few, free = (open_generator("sg", zoo, encoder, **o) for o in ({}, {"top_k": 3}, {"licences": [licence]}))
    of_whole, of_few, of_free = (g.generate(asked(encoder), rng=seeded())[0].neighbours for g in (whole, few, free))
    assert [n.id for n in of_few] == [n.id for n in of_whole[:3]]
    assert len(of_whole) == len(of_free) == 8
    assert {zoo.card(n.id).licence for n in of_free} == {licence} != {zoo.card(n.id).licence for n in of_whole}


# --- one more generator ---------------------------------------------------------------------------------------------


class EchoManifest(Provenance):
    kind: Literal["echo"] = "echo"
    strength: float


class EchoTrainConfig(TrainConfig):
    generator: Literal["echo"]
    strength: float = 1.0

    @property
    def steps(self) -> int:
        return self.steps_of_a_training


@dataclass(frozen=True, eq=False)
class Echo(DescriptionGenerator, TrainedGenerator):
    """An expert at some strength, whatever it is asked."""

    manifest: EchoManifest
    adapter: Lora
    name: ClassVar[str] = "echo"
    is_stochastic: ClassVar[bool] = False

    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        b = {site: self.manifest.strength * value for site, value in self.adapter.lora_B.items()}
        return [Generation(dataclasses.replace(self.adapter, lora_B=b), ())] * num_samples

    def files(self) -> dict[str, str | bytes]:
        a, b = self.adapter.lora_A, self.adapter.lora_B
        factors = {f"A.{site}": a[site] for site in a} | {f"B.{site}": b[site] for site in b}
        return {GENERATOR_MANIFEST: self.manifest.to_yaml(), "factors.safetensors": save(factors)}

    @classmethod
    def load(cls, folder: Path) -> Self:
        with reading_folder(folder, "echo"):
            manifest = EchoManifest.from_yaml(folder / GENERATOR_MANIFEST)
            factors = load_file(folder / "factors.safetensors")
            a, b = ({n[2:]: t for n, t in factors.items() if n.startswith(which)} for which in ("A.", "B."))
            return cls(manifest, Lora.from_factors(a, b, base_model_name_or_path=manifest.base))


def fit_echo(
    config: EchoTrainConfig,
    zoo: Zoo,
    encoder: TextEncoder,
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Echo, list[dict[str, float]]]:
    for step in range(1, config.steps + 1):
        if on_step is not None:
            on_step(step)
    manifest = EchoManifest(**EchoManifest.facts(zoo, encoder), strength=config.strength)
    return Echo(manifest, zoo.adapter(zoo.ids[0])), [{"loss": 1 / step} for step in range(1, config.steps + 1)]


@dataclass(frozen=True, eq=False)
class First(DescriptionGenerator):
    """The first experts in the order of their ids, as a merge."""

    experts: ExpertIndex
    number: int
    name: ClassVar[str] = "first"
    is_stochastic: ClassVar[bool] = False

    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        first, *_ = ids = self.experts.zoo.ids[: self.number]
        neighbours = tuple(Neighbour(expert, 0.0, 1 / len(ids)) for expert in ids)
        return [Generation(self.experts.zoo.adapter(first), neighbours)] * num_samples


ECHO = Row(
    "echo",
    "one expert, louder",
    config=EchoTrainConfig,
    fit=fit_echo,
    load=Echo.load,
    evidence=("texts",),
    takes_licences=False,
)
FIRST = Row("first", "the first of all", make=lambda experts, k: First(experts, k or 2), takes_top_k=True)


@pytest.fixture
def more(monkeypatch) -> None:
    monkeypatch.setattr(registry, "ROWS", (*ROWS, ECHO, FIRST))


@pytest.fixture
def config(tiny_zoo, tmp_path) -> EchoTrainConfig:
    values: dict[str, Any] = {"zoo": tiny_zoo.root, "encoder": TextEncoder.load().name, "out": tmp_path / "louder"}
    return EchoTrainConfig(generator="echo", strength=3.0, epochs=2, steps_per_epoch=5, **values)


@pytest.mark.usefixtures("more")
def test_a_new_merge_opens_by_its_row(tiny_zoo, encoder) -> None:
    opened = {k: open_generator("first", tiny_zoo, encoder, top_k=k) for k in (None, 3)}
    for k, generator in opened.items():
        (generation,) = generator.generate(asked(encoder), rng=seeded())
        assert [n.id for n in generation.neighbours] == list(tiny_zoo.ids[: k or 2])
    assert available(tiny_zoo) == (*UNTRAINED, "first")
    assert merges() == (*UNTRAINED, "first")
    free = open_generator("first", tiny_zoo, encoder, licences=["mit"]).generate(asked(encoder), rng=seeded())
    assert {tiny_zoo.card(n.id).licence for n in free[0].neighbours} == {"MIT"}


@pytest.mark.usefixtures("more")
def test_messages_and_help_know_the_new_ones(tiny_zoo, encoder, tmp_path) -> None:
    assert "echo: one expert, louder; first: the first of all; or a generator's folder" in help_text()
    known = ["hyper", "icm or hyper or echo", "icm or hyper"]
    assert [reading(kind) for kind in ("labels", "texts", "examples")] == known
    with pytest.raises(GeneratorError, match=r"'sgg'; this zoo has .*mean, first\.$"):
        open_generator("sgg", tiny_zoo, encoder)
    with pytest.raises(GeneratorError, match=r"To train it .* 'generator: echo'"):
        open_generator("echo", tiny_zoo, encoder)
    with pytest.raises(GeneratorError, match=r"'mean'; it applies to sg, topk, uniform, first\.$"):
        open_generator("mean", tiny_zoo, encoder, top_k=3)
    (tmp_path / GENERATOR_MANIFEST).write_text("kind: oracle\n")
    with pytest.raises(GeneratorError, match=r"known are sg, icm, hyper, echo\.$"):
        open_generator(str(tmp_path), tiny_zoo, encoder)
    (tmp_path / "train.yaml").write_text("generator: oracle\n")
    with pytest.raises(ConfigError, match=r"generators that are trained: sg, icm, hyper, echo\.$"):
        read_config(tmp_path / "train.yaml")


@pytest.mark.usefixtures("more")
def test_a_new_generator_is_trained_from_its_config_and_opens_by_name(tiny_zoo, encoder, config, tmp_path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(config.to_yaml())
    settings = read_config(path, ["strength=2"])
    assert settings == config.model_copy(update={"strength": 2.0})
    steps: list[int] = []
    result = train_generator(settings, on_step=steps.append)
    assert steps == list(range(1, 11))
    assert result.final == {"loss": pytest.approx(1 / 10)}
    zoo = with_generator(tiny_zoo, config.out, "louder", tmp_path / "zoo")
    assert available(zoo) == ("louder", *UNTRAINED, "first")
    expert = tiny_zoo.adapter(tiny_zoo.ids[0])
    for name in ("louder", str(config.out)):
        opened = open_generator(name, zoo, encoder)
        assert isinstance(opened, Echo)
        adapter = opened.generate(asked(encoder), rng=seeded())[0].adapter
        for site in expert.sites:
            torch.testing.assert_close(adapter.delta_weight(site), 2 * expert.delta_weight(site))


@pytest.mark.usefixtures("more")
def test_what_its_row_does_not_allow_is_refused(tiny_zoo, encoder, config, tmp_path) -> None:
    train_generator(config)
    folder = str(config.out)
    with pytest.raises(GeneratorError, match=r"--top-k does not apply to .*louder'"):
        open_generator(folder, tiny_zoo, encoder, top_k=3)
    with pytest.raises(GeneratorError, match=r"--licence does not apply .*choose one of sg, ridge, .*first, or train"):
        open_generator(folder, tiny_zoo, encoder, licences=["MIT"])
    stranger = dataclasses.replace(encoder, fingerprint="0" * 16)
    with pytest.raises(GeneratorError, match="trained with the text encoder"):
        open_generator(folder, tiny_zoo, stranger)
    shutil.copytree(tiny_zoo.root, tmp_path / "zoo")
    shutil.rmtree(tmp_path / "zoo" / "experts" / "rain")
    with pytest.raises(GeneratorError, match="trained on other experts"):
        open_generator(folder, Zoo.open(tmp_path / "zoo"), encoder)
    (config.out / "factors.safetensors").unlink()
    with pytest.raises(GeneratorError, match=r"does not hold a whole echo generator .*train it again"):
        open_generator(folder, tiny_zoo, encoder)
