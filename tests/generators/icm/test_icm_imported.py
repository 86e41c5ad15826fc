"""ICM-LoRA on adapters from elsewhere, whose base is not at hand: the config names a zoo and an encoder, no more."""

import dataclasses

import pytest
import torch
from icm_toys import conditioner_of, configured, generated, seeded, update

from loragen.adapters.adapter import Lora
from loragen.conditions.condition import Evidence
from loragen.config import dump_yaml
from loragen.errors import ConfigError
from loragen.generators.icm.episodes import ICMTrainConfig, reading_of
from loragen.generators.icm.model import ICM
from loragen.generators.registry import open_generator
from loragen.generators.train import RUN, read_config, train_generator
from loragen.zoo.import_adapters import import_adapters
from loragen.zoo.zoo import Zoo

BASE = "nobody/a-base-too-large-to-run"
DESCRIPTIONS = {"bread": "Is the bread warm?", "soup": "cold soup, or warm?", "tea": "Tea. Say which tea."}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Three language-model adapters, imported from folders."""
    root = tmp_path_factory.mktemp("imported")
    sites = [f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]
    for seed, name in enumerate(DESCRIPTIONS):
        rng = seeded(seed)
        a, b = ({site: torch.randn(*shape, generator=rng) for site in sites} for shape in ((2, 8), (6, 2)))
        Lora.from_factors(a, b, base_model_name_or_path=BASE, task_type="CAUSAL_LM").save(root / name)
    folders = [str(root / name) for name in DESCRIPTIONS]
    import_adapters(folders, root / "zoo", descriptions=list(DESCRIPTIONS.values()))
    return Zoo.open(root / "zoo")


@pytest.fixture
def config(zoo, model, tmp_path) -> ICMTrainConfig:
    path = tmp_path / "icm.yaml"
    path.write_text(dump_yaml({"generator": "icm", "zoo": str(zoo.root), "encoder": str(model)}))
    read = read_config(path, [f"out={tmp_path / 'icm'}", "epochs=1", "steps_per_epoch=2", "batch_size=4"])
    assert isinstance(read, ICMTrainConfig)
    return read


def test_it_trains_and_generates_without_any_other_setting(config, zoo, encoder, model) -> None:
    result = train_generator(config)
    assert result.experts == tuple(sorted(DESCRIPTIONS))
    generator = open_generator(str(config.out), zoo, encoder)
    assert isinstance(generator, ICM)
    assert (generator.reading.model, generator.reading.objective) == (str(model), "label_text")
    assert generator.evidence == ("description",)
    one, other = (
        generated(generator, conditioner_of(generator, encoder).condition(Evidence(text)))
        for text in ("Is it warm soup?", "bread")
    )
    assert one.spec == zoo.adapter("tea").spec
    assert one.settings.base_model_name_or_path == BASE
    assert one.settings.task_type == "CAUSAL_LM"
    assert not torch.equal(update(one), update(other))


def test_the_run_that_is_written_down_is_the_same_again(config, tmp_path) -> None:
    train_generator(config)
    first = (config.out / "generator.safetensors").read_bytes()
    again = read_config(config.out / RUN, [f"out={tmp_path / 'again'}"])
    train_generator(again)
    assert (tmp_path / "again" / "generator.safetensors").read_bytes() == first


def test_evidence_that_is_asked_for_stays_asked_for(config) -> None:
    values = config.model_dump(exclude={"icm"})
    assert ICMTrainConfig(**values).icm.evidence == ("description",)
    assert ICMTrainConfig(**values, icm={"kl_weight": 0.1}).icm.evidence == ("description",)
    assert ICMTrainConfig(**values, icm={"evidence": ["texts"]}).icm.evidence == ("texts",)
    with_tasks = ICMTrainConfig(**values | {"tasks": "tasks.yaml"})
    assert with_tasks.icm.evidence == ("description", "texts", "examples")


def test_texts_that_are_asked_for_still_want_tasks(config) -> None:
    values = config.model_dump(exclude={"icm"})
    with pytest.raises(ConfigError, match=r"evidence description, texts is read .* names no 'tasks'"):
        train_generator(ICMTrainConfig(**values, icm={"evidence": ["description", "texts"]}))


def test_the_model_that_is_read_with_follows_from_the_zoo_and_the_config(zoo, tiny_zoo, model) -> None:
    def read(of: Zoo, **values: object) -> tuple[str, str]:
        reading = reading_of(configured(model, **{"reading_model": None} | values), of)
        return reading.model, reading.objective

    assert read(zoo) == (str(model), "label_text")
    assert read(zoo, reading_model="another/encoder") == ("another/encoder", "label_text")
    assert read(zoo, reading_model=BASE) == (BASE, "causal_lm"), "the base by its name, as the kind of model it is"
    assert read(zoo, through="own_adapter") == (BASE, "causal_lm"), "an adapter needs its base"
    assert read(tiny_zoo) == ("tiny-base", "label_text")
    imported, trained = zoo.card("tea"), tiny_zoo.card("cook")
    mixed = dataclasses.replace(tiny_zoo, cards={"cook": trained, "tea": imported})
    assert read(mixed) == ("tiny-base", "label_text"), "some were trained, so the base is at hand"
    assert read(dataclasses.replace(mixed, cards={"tea": imported})) == (str(model), "label_text")
