"""Updates of generators: what each strategy promises, for every kind of generator."""

import shutil

import pytest
import torch
from updating import KINDS, NEW, OLD, config_of, trained, zoo_of

from loragen.conditions.text_encoder import TextEncoder
from loragen.continual.registry import ROWS
from loragen.continual.update import update_generator
from loragen.errors import ConfigError, GeneratorError
from loragen.generators.registry import open_generator, rows
from loragen.generators.train import train_generator
from loragen.zoo.zoo import Zoo

UPDATES = [row.name for row in ROWS if row.settings is not None]


@pytest.fixture(scope="module")
def generators(toys, tmp_path_factory):
    """Kind → a generator that has seen the old experts."""
    return {kind: trained(kind, toys, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def grown(toys, tmp_path_factory):
    """The zoo of old and new experts."""
    return zoo_of(toys, (*OLD, *NEW), tmp_path_factory.mktemp("grown") / "zoo")


def state_of(kind, folder):
    return rows()[kind].load(folder).network.state_dict()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", UPDATES)
def test_an_update_learns_the_new_experts_and_signs_itself(kind, strategy, generators, grown, toys, tmp_path):
    config = config_of(kind, toys, grown, tmp_path / "new")
    options = {"solved": 0.01} if strategy == "stages" else {}
    before = {path.name: path.read_bytes() for path in generators[kind].iterdir() if path.is_file()}
    result = update_generator(config, strategy, options=options, start=generators[kind])
    assert {path.name: path.read_bytes() for path in generators[kind].iterdir() if path.is_file()} == before
    made = rows()[kind].load(result.out)
    record = made.manifest.updated
    assert (record.strategy, record.no_longer_there) == (strategy, ())
    assert set(made.manifest.experts) == {*OLD, *NEW}
    old, new = state_of(kind, generators[kind]), state_of(kind, result.out)
    assert old.keys() == new.keys()
    assert any(not torch.equal(old[name], new[name]) for name in old)
    zoo = Zoo.open(grown)
    assert open_generator(str(result.out), zoo, TextEncoder.load(str(toys / "base"))).manifest.zoo_hash


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["l2", "ewc", "l2+distill"])
def test_a_strong_pull_leaves_the_network_where_it_was(kind, strategy, generators, grown, toys, tmp_path):
    config = config_of(kind, toys, grown, tmp_path / "new", learning_rate=1e-5)
    options = {"pull": 1e7} if strategy == "l2+distill" else {"weight": 1e7}
    pulled = update_generator(config, strategy, options=options, start=generators[kind]).out
    free = config_of(kind, toys, grown, tmp_path / "free", learning_rate=1e-3)
    naive = update_generator(free, "naive", start=generators[kind]).out
    old = rows()[kind].load(generators[kind]).network
    moved = {
        folder: sum(
            float((own - value).square().sum())
            for (name, own), value in zip(
                rows()[kind].load(folder).network.named_parameters(), old.parameters(), strict=True
            )
        )
        for folder in (pulled, naive)
    }
    assert moved[pulled] < 0.01 * moved[naive]


@pytest.mark.parametrize("kind", KINDS)
def test_distilling_needs_no_old_expert_on_the_disk(kind, generators, toys, tmp_path):
    only_new = zoo_of(toys, (*NEW, "words"), tmp_path / "zoo")
    config = config_of(kind, toys, only_new, tmp_path / "new", epochs=10, learning_rate=3e-3)
    distilled = update_generator(config, "distill", options={"weight": 5.0}, start=generators[kind]).out
    assert set(rows()[kind].load(distilled).manifest.updated.no_longer_there) == set(OLD)
    other = config_of(kind, toys, only_new, tmp_path / "naive", epochs=10, learning_rate=3e-3)
    naive = update_generator(other, "naive", start=generators[kind]).out
    with pytest.raises(ConfigError, match="no expert that the generator has seen"):
        update_generator(config_of(kind, toys, only_new, tmp_path / "r"), "replay", start=generators[kind])
    if kind == "sg":
        return  # its conditions are the library's, which no longer holds the old experts
    old = rows()[kind].load(generators[kind])
    condition = _conditions(kind, old, toys)
    drift = {}
    for folder in (distilled, naive):
        new = rows()[kind].load(folder)
        drift[folder] = float((_outputs(kind, new, condition) - _outputs(kind, old, condition)).square().mean())
    assert drift[distilled] < drift[naive]


def _conditions(kind, generator, toys):
    from loragen.conditions.task_vectors import Reader

    reader, zoo = Reader.load(generator.reading), Zoo.open(toys / "zoo")
    vectors = [reader.descriptions([zoo.card(name).description])[0] for name in OLD]
    return torch.stack([generator.conditions.of({"description": v}, generator.evidence) for v in vectors])


@torch.no_grad()
def _outputs(kind, generator, conditions):
    if kind == "icm":
        return generator.network.decode(torch.zeros(len(conditions), generator.config.latent_size), conditions)
    query = conditions.reshape(len(conditions), 1, -1)
    return generator.network.coordinates(query, torch.ones(len(query), 1, dtype=torch.bool), generator.start)


def test_joint_is_training_anew(generators, grown, toys, tmp_path):
    out = tmp_path / "joint"
    shutil.copytree(generators["sg"], out)
    joint = update_generator(config_of("sg", toys, grown, out), "joint").out
    anew = train_generator(config_of("sg", toys, grown, tmp_path / "anew")).out
    names = [path.name for path in anew.iterdir() if path.suffix == ".safetensors"]
    assert names
    assert all((joint / name).read_bytes() == (anew / name).read_bytes() for name in names)


def test_an_update_replaces_its_own_generator_and_no_other(generators, grown, toys, tmp_path):
    out = tmp_path / "own"
    shutil.copytree(generators["sg"], out)
    update_generator(config_of("sg", toys, grown, out), "naive")
    assert rows()["sg"].load(out).manifest.updated.strategy == "naive"
    with pytest.raises(ConfigError, match="seen every expert"):
        update_generator(config_of("sg", toys, grown, out), "naive")
    with pytest.raises(ConfigError, match="would replace"):
        update_generator(config_of("sg", toys, grown, out), "naive", start=generators["sg"])
    with pytest.raises(GeneratorError, match="no generator"):
        update_generator(config_of("sg", toys, grown, tmp_path / "none"), "naive")


def test_an_interrupted_update_goes_on(generators, grown, toys, tmp_path):
    whole = update_generator(config_of("sg", toys, grown, tmp_path / "whole"), "ilora", start=generators["sg"]).out
    config, steps = config_of("sg", toys, grown, tmp_path / "part"), []

    def stop(_stage, step, _total):
        steps.append(step)
        if len(steps) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update_generator(config, "ilora", start=generators["sg"], progress=stop)
    assert not config.out.exists()
    part = update_generator(config, "ilora", start=generators["sg"]).out
    one, other = state_of("sg", whole), state_of("sg", part)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


@pytest.mark.parametrize("strategy", UPDATES)
def test_options_are_checked(strategy, generators, grown, toys, tmp_path):
    config = config_of("sg", toys, grown, tmp_path / "new")
    with pytest.raises(ConfigError, match="nonsense"):
        update_generator(config, strategy, options={"nonsense": 1}, start=generators["sg"])
    assert not config.out.exists()


def test_unknown_strategies_are_named(generators, grown, toys, tmp_path):
    with pytest.raises(ConfigError, match="known: joint, naive"):
        update_generator(config_of("sg", toys, grown, tmp_path / "new"), "osmosis", start=generators["sg"])
