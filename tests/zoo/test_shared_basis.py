"""A zoo whose experts share bases of both sides: built, packed, read by every generator that is trained on it."""

import shutil

import pytest
import torch
from builds import changed, recorded, tensors_of

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.conditions.condition import Condition, Conditioner, Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ZooError
from loragen.evaluation.novelty import Reference
from loragen.files import atomic_write
from loragen.generators.hyper.fit import HyperTrainConfig, fit_hyper
from loragen.generators.hyper.model import Hyper
from loragen.generators.icm.episodes import ICMTrainConfig, reading_of
from loragen.generators.icm.fit import fit_icm
from loragen.generators.icm.model import ICM
from loragen.generators.ridge import Ridge
from loragen.generators.sg.fit import SGTrainConfig, fit_sg, read_experts
from loragen.generators.sg.model import SG
from loragen.recipes.expert import Start
from loragen.recipes.methods.lora_sb import shared_bases
from loragen.tasks.task_set import TaskSet
from loragen.zoo.build import build_zoo
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.import_adapters import brought
from loragen.zoo.pack import pack_zoo
from loragen.zoo.start import START, frame_of, read_start, write_start
from loragen.zoo.zoo import Zoo

pytest_plugins = ("build_fixtures",)
R = 3
SB = {"name": "lora_sb", "basis": "zoo", "r": R, "steps": 12, "batch_size": 8, "learning_rate": 3e-2, "choices": 2}
GRADIENTS = {"frame": "gradients", "start": "zero", "recipe": SB}


@pytest.fixture(scope="module")
def shared_config(zoo_config, tmp_path_factory) -> ZooConfig:
    out = tmp_path_factory.mktemp("shared") / "zoo"
    return changed(zoo_config, out=out, splits=("pool",), pooled="pool", workers=1, **GRADIENTS)


@pytest.fixture(scope="module")
def steps(shared_config):
    """The zoo, built once; its progress meanwhile."""
    steps = []
    build_zoo(shared_config, progress=recorded(steps))
    return steps


@pytest.fixture(scope="module")
def zoo(shared_config, steps) -> Zoo:
    return Zoo.open(shared_config.out)


@pytest.fixture(scope="module")
def encoder(zoo_config) -> TextEncoder:
    return TextEncoder.load(zoo_config.base)


def adapters_of(zoo):
    return [zoo.adapter(expert) for expert in zoo.ids]


def outside(adapter, bases):
    """Share of an adapter's norm outside of the bases, from dense delta weights."""
    total = rest = 0.0
    for site in adapter.sites:
        a, b, delta = bases.lora_A[site].double(), bases.lora_B[site].double(), adapter.delta_weight(site).double()
        held = b @ b.T @ delta @ torch.linalg.pinv(a) @ a
        total, rest = total + float(delta.square().sum()), rest + float((delta - held).square().sum())
    return (rest / total) ** 0.5


# --- building ---


def test_the_bases_come_of_the_pooled_tasks_and_all_experts_share_them(zoo, steps, shared_config):
    assert [step for step in steps if step[0] == "gradients"] == [("gradients", at, 4) for at in (1, 2, 3, 4)]
    bases, base, tasks = read_start(zoo.root), zoo.load_base(), TaskSet.from_yaml(shared_config.tasks)
    random = Start.random(base.sites(("query", "value")), R, rng=torch.Generator().manual_seed(0))
    wanted = shared_bases(list(tasks.split("pool")), base, random, zoo.manifest.recipe)
    for site in bases.lora_B:
        torch.testing.assert_close(bases.lora_A[site], wanted.lora_A[site], rtol=0, atol=1e-2)
        torch.testing.assert_close(bases.lora_B[site], wanted.lora_B[site], rtol=0, atol=1e-4)
    assert zoo.manifest.frame == "gradients"
    for adapter in adapters_of(zoo):
        assert outside(adapter, bases) < 0.005  # what bfloat16 takes
        assert all(torch.equal(adapter.lora_A[site].float(), bases.lora_A[site]) for site in adapter.sites)
    assert not [fault for _, fault in zoo.check() if fault]
    assert not any(card.has_trajectory for card in zoo)


def test_it_is_built_further_without_another_gradient(zoo, shared_config, tmp_path):
    shutil.copytree(zoo.root, tmp_path / "zoo")
    shutil.rmtree(tmp_path / "zoo" / "experts" / "meals")
    steps = []
    build_zoo(changed(shared_config, out=tmp_path / "zoo"), progress=recorded(steps))
    assert {name for name, _, _ in steps} == {"experts"}
    again, before = (tensors_of(root / "experts" / "meals") for root in (tmp_path / "zoo", zoo.root))
    assert again == before


def test_another_zoo_can_take_its_bases_for_tasks_that_they_have_not_seen(zoo, shared_config, zoo_config):
    out = shared_config.out.parent / "left_out"
    build_zoo(changed(shared_config, out=out, start_of=zoo.root, only=("weather",)))
    assert (out / START).read_bytes() == (zoo.root / START).read_bytes()
    assert outside(Zoo.open(out).adapter("weather"), read_start(zoo.root)) < 0.005
    plain = out.parent / "plain"
    write_start(plain, read_start(zoo.root).from_zero())
    with pytest.raises(ZooError, match="does not hold bases of both sides, and 'frame: gradients'"):
        build_zoo(changed(shared_config, out=out.parent / "third", start_of=plain))
    with pytest.raises(ZooError, match="holds bases of both sides, and 'frame: random'"):
        build_zoo(changed(zoo_config, out=out.parent / "third", start_of=zoo.root, workers=1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frame": "random"}, "'lora_sb' trains within bases of the zoo; give 'start: zero' and 'frame: gradients'"),
        ({"start": "multitask"}, "'lora_sb' trains within bases of the zoo; give 'start: zero' and 'frame: gradients'"),
        ({"recipe": {"name": "lora_sb"}}, "begins at factors of its own; give 'start: zero' and 'frame: random'"),
        ({"recipe": {}}, "'frame: gradients' makes bases for the recipe 'lora_sb' with 'basis: zoo'"),
        ({"folds": {"number": 3}}, "folds are trained outside of the bases of 'frame: gradients'; leave 'folds' out"),
    ],
)
def test_the_frame_and_the_recipe_go_together(values, message):
    given = {"name": "z", "out": "o", "base": "b", "tasks": "t", **GRADIENTS}
    ZooConfig.model_validate(given)
    with pytest.raises(ValueError, match=message):
        ZooConfig.model_validate(given | values)
    ZooConfig.model_validate(given | {"frame": "random", "recipe": {"name": "lora_sb"}})


# --- experts as coordinates ---


def test_an_expert_is_r_squared_numbers_a_site(zoo):
    adapters = adapters_of(zoo)
    frame, sites = frame_of(zoo, adapters), len(adapters[0].sites)
    assert frame.size == sites * R * R
    assert list(frame.lora_A) == list(adapters[0].sites)
    for adapter in adapters:
        again = frame.adapter(frame.coordinates(adapter), base=None)
        distance = sum(float((again.delta_weight(s) - adapter.delta_weight(s)).square().sum()) for s in again.sites)
        assert distance**0.5 < 0.005 * adapter.norm()
        assert frame.energy_kept(adapter) > 0.9999
    mixture = weighted_sum(adapters, [0.25] * 4)
    mean = torch.stack([frame.coordinates(adapter) for adapter in adapters]).mean(0)
    torch.testing.assert_close(frame.coordinates(mixture), mean, rtol=1e-3, atol=1e-4)


def stranger(zoo, seed=1, *, own_a=False):
    like, rng = adapters_of(zoo)[0], torch.Generator().manual_seed(seed)
    a = {site: torch.randn(a.shape, generator=rng) if own_a else a.float() for site, a in like.lora_A.items()}
    b = {site: torch.randn(b.shape, generator=rng) for site, b in like.lora_B.items()}
    return Lora.from_factors(a, b, base_model_name_or_path=zoo.manifest.base, task_type=like.settings.task_type)


@pytest.mark.parametrize("own_a", [True, False])
def test_of_a_foreign_adapter_a_part_is_held(zoo, own_a):
    frame, adapter = frame_of(zoo, adapters_of(zoo)), stranger(zoo, own_a=own_a)
    share = 1 - outside(adapter, read_start(zoo.root)) ** 2
    assert frame.energy_kept(adapter) == pytest.approx(share, abs=1e-3)
    assert 0 < share < 0.8
    held = brought(adapter, frame, zoo.manifest.base)
    assert held.norm() ** 2 == pytest.approx(share * adapter.norm() ** 2, rel=0.02)
    assert outside(held, read_start(zoo.root)) < 0.005


@pytest.mark.parametrize("own_a", [True, False])
def test_distances_of_novelty_are_those_of_dense_delta_weights(zoo, own_a):
    def dense(adapter):
        return torch.cat([adapter.delta_weight(site).flatten() for site in adapter.sites]).double()

    reference, adapter = Reference.of(zoo), stranger(zoo, own_a=own_a)
    experts = torch.stack([dense(one) for one in adapters_of(zoo)])
    spread = (experts - experts.mean(0)).square().sum(1).mean().sqrt()
    met = reference.novelty(adapter)
    assert met.to_mean == pytest.approx(float((dense(adapter) - experts.mean(0)).norm() / spread), rel=1e-3)
    assert met.to_nearest == pytest.approx(float((dense(adapter) - experts).norm(dim=1).min() / spread), rel=1e-3)
    own = reference.novelty(zoo.adapter("meals"))
    assert own.is_replay
    assert own.nearest == "meals"


def test_a_zoo_whose_bases_are_lost_or_replaced_is_refused(zoo, tmp_path):
    other = Zoo.open(shutil.copytree(zoo.root, tmp_path / "zoo"))
    (other.root / START).unlink()
    with pytest.raises(ZooError, match=r"start\.safetensors.*restore it"):
        frame_of(other, adapters_of(other))
    bases = read_start(zoo.root)
    write_start(other.root, Start(bases.lora_A, {site: torch.ones(5, R) for site in bases.lora_B}))
    with pytest.raises(ZooError, match=r"start\.safetensors does not fit the experts at "):
        frame_of(other, adapters_of(other))


def test_a_packed_zoo_has_its_bases(zoo, tmp_path):
    small = pack_zoo(zoo, tmp_path / "packed")
    one, other = (frame_of(opened, adapters_of(opened)) for opened in (zoo, small))
    assert one.to_bytes() == other.to_bytes()


# --- generators ---


def asked_of(generator, encoder, text="Is it soup or tea?"):
    reads = isinstance(generator, ICM | Hyper)
    if not reads:
        return Condition(text, encoder.encode([text])[0])
    return Conditioner(encoder, generator.reading, generator.evidence).condition(Evidence(text))


@pytest.fixture(scope="module")
def configs(zoo, zoo_config, shared_config):
    common = {"zoo": zoo.root, "encoder": zoo_config.base, "out": zoo.root.parent / "out"}
    common |= {"epochs": 2, "steps_per_epoch": 5, "batch_size": 8, "learning_rate": 1e-2}
    small = {"evidence": ["description"], "channels": [4, 8, 4], "latent_size": 4, "components": 3}
    network = {"evidence": ["description"], "basis_size": 3, "hidden_size": 16}
    through = {"tasks": shared_config.tasks, "judged_on": None, "pool": 20, "shots": (4,), "dtype": "float32"}
    sg = {"top_k": 2, "components": 3, "latent_size": 4, "hidden_size": 16}
    return {
        "sg": SGTrainConfig(generator="sg", sg=sg, **common),
        "icm": ICMTrainConfig(generator="icm", icm=small, **common),
        "hyper": HyperTrainConfig(generator="hyper", hyper=network, **common, **through),
        "hyper on weights": HyperTrainConfig(
            generator="hyper", hyper=network, objective="weights", weights_steps=10, **common, **through
        ),
    }


FITS = {"sg": (fit_sg, SG), "icm": (fit_icm, ICM), "hyper": (fit_hyper, Hyper), "hyper on weights": (fit_hyper, Hyper)}


@pytest.mark.parametrize("name", FITS)
def test_what_a_generator_makes_lies_in_the_bases_and_is_its_coordinates(zoo, encoder, configs, name, tmp_path):
    fit, kind = FITS[name]
    generator, history = fit(configs[name], zoo, encoder)
    assert history[-1]["loss"] > 0
    frame, bases = frame_of(zoo, adapters_of(zoo)), read_start(zoo.root)
    condition = asked_of(generator, encoder)
    (made,) = generator.generate(condition, rng=torch.Generator().manual_seed(0))
    assert made.adapter.norm() > 0
    assert outside(made.adapter, bases) < 1e-5
    assert all(site.r == R for site in made.adapter.spec.sites)
    again = frame.adapter(frame.coordinates(made.adapter), base=None)
    for site in again.sites:
        torch.testing.assert_close(again.delta_weight(site), made.adapter.delta_weight(site), rtol=1e-3, atol=1e-5)
    for file, content in generator.files().items():
        atomic_write(tmp_path / file, content)
    (loaded,) = kind.load(tmp_path).generate(condition, rng=torch.Generator().manual_seed(0))
    for site in again.sites:
        torch.testing.assert_close(loaded.adapter.delta_weight(site), made.adapter.delta_weight(site))


def test_codes_are_of_the_cores(zoo, encoder):
    data = read_experts(zoo, encoder, components=None)
    adapters = adapters_of(zoo)
    assert data.samples.shape == (4, 1, len(adapters[0].sites) * R * R)
    decoded = data.codec.decode(data.samples[:, 0])
    bases = read_start(zoo.root)
    for adapter, cores in zip(adapters, decoded, strict=True):
        for site, core in data.frame.unflatten(cores).items():
            wanted = bases.lora_B[site].T @ adapter.lora_B[site].float()
            torch.testing.assert_close(core, wanted, rtol=1e-3, atol=1e-5)
    assert not data.library.variances.any()  # nothing is kept of the way


def test_task_vectors_of_a_zoo_that_was_trained_here_are_read_by_its_base(zoo, configs):
    assert reading_of(configs["icm"], zoo).model == zoo.manifest.base


def test_a_regression_over_the_cores_mixes_experts(zoo, encoder):
    ridge = Ridge.fit(ExpertIndex.of(zoo, encoder))
    (made,) = ridge.generate(asked_of(ridge, encoder), rng=torch.Generator())
    assert outside(made.adapter, read_start(zoo.root)) < 0.005
