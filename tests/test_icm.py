import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import make_expert
from hypothesis import given, settings
from hypothesis import strategies as st
from models import word_task, write_tiny_encoder
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from loragen.adapters.adapter import Lora
from loragen.adapters.codec import Codec
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.conditions.condition import Condition, ConditionCodec, Conditioner
from loragen.conditions.task_vectors import Reading
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, GeneratorError, TaskError
from loragen.files import atomic_write
from loragen.generators.icm import fit as icm_fit
from loragen.generators.icm.episodes import ICMTrainConfig, Material, episodes, prepare
from loragen.generators.icm.fit import cosines_with, fit_icm, longest_as_good
from loragen.generators.icm.model import ICM, ICMBatch, ICMConfig, ICMNetwork, ICMObjective
from loragen.generators.registry import available, open_generator
from loragen.generators.trained import Gaussian
from loragen.recipes.expert import Start
from loragen.tasks.examples import Support
from loragen.tasks.task_set import TaskSetConfig
from loragen.zoo.card import Imported, expert_files
from loragen.zoo.zoo import Zoo

EVIDENCE = ICMConfig().evidence
ENOUGH = {"epochs": 3, "steps_per_epoch": 40, "batch_size": 16, "learning_rate": 3e-2}  # to tell seven tasks apart
ROWS = 12  # of each task's support in `marked_material`


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the objective --------------------------------------------------------------------------------------------------


class Stub(nn.Module):
    """Decodes to what it is told, whatever it sees, and keeps the z it was given."""

    def __init__(self, decoded: Tensor, posterior: Gaussian | None = None) -> None:
        super().__init__()
        self.decoded = decoded
        self.posterior = posterior or Gaussian.standard(torch.zeros(len(decoded), 3))

    def posterior_of(self, x: Tensor, condition: Tensor) -> Gaussian:
        return self.posterior

    def decode(self, z: Tensor, condition: Tensor) -> Tensor:
        self.z = z
        return self.decoded


def losses(x: Tensor, stub: Stub, *, kl_weight: float = 0.005) -> dict[str, Tensor]:
    return ICMObjective(stub, kl_weight).loss(ICMBatch(x, torch.zeros(len(x), 2)))


def test_a_perfect_reconstruction_scores_zero_and_the_batch_mean_does_not() -> None:
    x = torch.randn(3, 50, generator=seeded())
    averaged = x.mean(0).expand_as(x)
    perfect, mean = (losses(x, Stub(decoded))["reconstruction"] for decoded in (x, averaged))
    assert perfect == 0
    torch.testing.assert_close(mean, x.var(0, correction=0).mean())
    # The published loss, (b, L) against (b, 1, L), has it the other way round.
    published = [float((decoded - x[:, None]).square().mean()) for decoded in (x, averaged)]
    assert published[0] > 1.5 * published[1] > 0.5


def test_each_sample_is_compared_with_its_own_target() -> None:
    x = torch.randn(4, 50, generator=seeded())
    decoded = x + torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None]
    assert float(losses(x, Stub(decoded))["reconstruction"]) == pytest.approx((0 + 1 + 4 + 9) / 4)
    swapped = losses(x, Stub(x[[1, 0, 2, 3]]))["reconstruction"]
    torch.testing.assert_close(swapped, (x[0] - x[1]).square().mean() / 2)


@pytest.mark.parametrize("kl_weight", [0.0, 0.005, 2.0])
def test_the_kl_is_that_to_a_standard_normal_and_enters_by_its_weight(kl_weight: float) -> None:
    rng = seeded()
    x = torch.randn(5, 7, generator=rng)
    posterior = Gaussian(torch.randn(5, 3, generator=rng), torch.randn(5, 3, generator=rng))
    found = losses(x, Stub(x + 1, posterior), kl_weight=kl_weight)
    normal = Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    torch.testing.assert_close(found["kl"], kl_divergence(normal, Normal(0.0, 1.0)).sum(-1).mean())
    torch.testing.assert_close(found["loss"], found["reconstruction"] + kl_weight * found["kl"])
    assert found["reconstruction"] == pytest.approx(1)


def test_z_is_drawn_from_the_posterior() -> None:
    stub = Stub(torch.zeros(20_000, 1), Gaussian(torch.full((20_000, 1), 3.0), torch.full((20_000, 1), 4.0).log()))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        losses(stub.decoded, stub)
    assert float(stub.z.mean()) == pytest.approx(3, abs=0.1)
    assert float(stub.z.std()) == pytest.approx(2, abs=0.1)


# --- the network ----------------------------------------------------------------------------------------------------


def network(size: int, condition_size: int, config: ICMConfig | None = None) -> ICMNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ICMNetwork(size, condition_size, config or ICMConfig()).eval().requires_grad_(False)


def outputs(net: ICMNetwork) -> dict[str, Tensor]:
    """Name of a leaf module → its output in the calls that follow."""
    found: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _module, _inputs, output, name=name: found.update({name: output}))
    return found


def kernels(part: nn.Module) -> list[tuple[type[nn.Module], int, int, int]]:
    convolutions = [m for m in part if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]
    return [(type(m), m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolutions]


def test_by_default_it_is_the_published_network() -> None:
    net = network(100, 5)
    channels = [8, 16, 32, 64, 128, 256, 256, 128, 64, 32, 16, 8]
    assert kernels(net.encoder) == [(nn.Conv1d, width, 7, 2) for width in channels]
    up = [(nn.ConvTranspose1d, width, 7, 2) for width in [*channels[1:], 8]]
    assert kernels(net.decoder) == [*up, (nn.Conv1d, 1, 7, 1)]
    assert [type(m) for m in net.encoder[:3]] == [nn.Conv1d, nn.BatchNorm1d, nn.LeakyReLU]
    assert [type(m) for m in net.decoder[:3]] == [nn.ConvTranspose1d, nn.BatchNorm1d, nn.ELU]
    assert ICMConfig().kl_weight == 0.005


@pytest.mark.parametrize(
    ("size", "condition", "millions"),
    [
        (241_241, 768, 3.28),
        (482_482, 768, 3.88),
        (964_964, 768, 5.09),
        (1_929_928, 768, 7.51),
        (3_407_872, 4096, 35.1),
        (6_815_744, 4096, 65.7),
    ],
)
def test_it_has_as_many_parameters_as_the_published_one(size: int, condition: int, millions: float) -> None:
    with torch.device("meta"):
        net = ICMNetwork(size, condition, ICMConfig())
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(1e6 * millions, rel=0.01)


@pytest.mark.parametrize(("size", "padded"), [(1, 4096), (100, 4096), (4096, 4096), (4097, 8192)])
def test_the_encoder_halves_twelve_times_and_the_decoder_gives_the_size_back(size: int, padded: int) -> None:
    net = network(size, 5)
    assert net.padded == padded
    seen, x, c = outputs(net), torch.randn(2, size, generator=seeded()), torch.zeros(2, 5)
    posterior = net.posterior_of(x, c)
    lengths = [seen[f"encoder.{3 * block}"].shape[-1] for block in range(12)]
    assert lengths == [padded // 2**block for block in range(1, 13)]
    assert posterior.mean.shape == posterior.log_variance.shape == (2, 256)
    assert net.decode(posterior.mean, c).shape == (2, size)
    assert seen["seeds"].shape == (2, 8 * padded // 4096)


@settings(max_examples=25)
@given(size=st.integers(1, 70), blocks=st.integers(1, 4), kernel=st.sampled_from([3, 5, 7]))
def test_codes_of_any_size_come_back_in_their_size(size: int, blocks: int, kernel: int) -> None:
    net = network(size, 1, ICMConfig(channels=(3, 2, 4, 2)[:blocks], kernel_size=kernel, latent_size=2))
    assert net.padded % 2**blocks == 0
    assert size <= net.padded < size + 2**blocks
    posterior = net.posterior_of(torch.zeros(2, size), torch.zeros(2, 1))
    assert net.decode(posterior.mean, torch.zeros(2, 1)).shape == (2, size)


def test_the_condition_enters_before_mean_and_variance_and_at_the_decoders_input_only() -> None:
    net = network(100, 5, ICMConfig(channels=(4, 8, 4), latent_size=6))
    assert [net.mean.in_features, net.log_variance.in_features, net.seeds.in_features] == [6 + 5] * 3
    seen, x, z = outputs(net), torch.randn(2, 100, generator=seeded()), torch.randn(2, 6, generator=seeded(1))
    recorded = []
    for c in (torch.zeros(2, 5), torch.ones(2, 5)):
        net.posterior_of(x, c)
        encoded = dict(seen)
        net.decode(z, c)
        recorded.append((encoded, seen["seeds"]))
    (one, seeds), (other, other_seeds) = recorded
    assert {name for name in one if not torch.equal(one[name], other[name])} == {"mean", "log_variance"}
    assert {"encoder.0", "features"} < one.keys()
    assert not torch.equal(seeds, other_seeds)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"icm": {"scale": "target"}}, "'scale: target' goes with 'codec: raw'"),
        ({"icm": {"kernel_size": 4}}, "kernel_size must be odd"),
        ({"icm": {"evidence": []}}, r"icm\.evidence"),
        ({"icm": {"evidence": ["labels"]}}, r"icm\.evidence\.0"),
        ({"icm": {"channel": [8]}}, r"icm\.channel"),
        ({"shots": [4, 0]}, r"shots\.1"),
        ({"evidence_dropout": 1}, "evidence_dropout"),
    ],
)
def test_settings_that_do_not_fit_are_named(values: dict[str, object], named: str) -> None:
    given_too = {"generator": "icm", "zoo": "zoo", "encoder": "e", "out": "out"}
    with pytest.raises(ConfigError, match=named):
        ICMTrainConfig.checked(given_too | values, source="icm.yaml")


# --- the condition --------------------------------------------------------------------------------------------------


def states(*shapes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    rng = seeded(seed)
    return [torch.randn(shape, generator=rng) * 3 + 2 for shape in shapes]


def test_each_kind_of_evidence_is_centred_and_scaled_by_its_tasks() -> None:
    kinds = [states((2, 4), (5, 4), (1, 4)), states((9, 4), (9, 4), (9, 4), seed=1)]
    codec = ConditionCodec.fit(kinds)
    assert codec.size == 8
    means = torch.stack([torch.stack([task.mean(0) for task in kind]) for kind in kinds], 1)  # (tasks, kinds, h)
    encoded = codec.encode(means, torch.ones(3, 2, dtype=torch.bool)).unflatten(-1, (2, 4))
    torch.testing.assert_close(encoded.mean(0), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.square().mean((0, 2)), torch.ones(2))
    torch.testing.assert_close(codec.centres, means.mean(0))


def test_a_kind_that_says_the_same_of_all_tasks_is_left_unscaled() -> None:
    same = torch.ones(2, 4)
    codec = ConditionCodec.fit([[same, same, same]])
    assert torch.equal(codec.scales, torch.ones(1))
    assert torch.equal(codec.encode(torch.full((1, 4), 3.0), torch.tensor([True])), torch.full((4,), 2.0))


def test_absent_evidence_is_zero_and_touches_nothing_else() -> None:
    codec = ConditionCodec(torch.randn(3, 4, generator=seeded()), torch.tensor([1.0, 2.0, 3.0]))
    vectors = torch.randn(6, 3, 4, generator=seeded(1))
    whole = codec.encode(vectors, torch.ones(6, 3, dtype=torch.bool)).unflatten(-1, (3, 4))
    present = torch.rand(6, 3, generator=seeded(2)) < 0.5
    partial = codec.encode(vectors, present).unflatten(-1, (3, 4))
    assert torch.equal(partial[~present], torch.zeros_like(partial[~present]))
    assert torch.equal(partial[present], whole[present])
    assert whole.abs().min() > 0


@pytest.mark.parametrize("given_kinds", [("description",), ("texts", "examples"), ("examples", "texts", "description")])
def test_a_condition_of_named_vectors_is_the_encoding_of_their_stack(given_kinds: tuple[str, ...]) -> None:
    codec = ConditionCodec(torch.randn(3, 4, generator=seeded()), torch.tensor([1.0, 2.0, 3.0]))
    stacked = torch.randn(3, 4, generator=seeded(1))
    vectors = {kind: stacked[EVIDENCE.index(kind)] for kind in given_kinds}
    present = torch.tensor([kind in given_kinds for kind in EVIDENCE])
    assert torch.equal(codec.of(vectors, EVIDENCE), codec.encode(stacked, present))


# --- episodes -------------------------------------------------------------------------------------------------------


def marked_material(tasks: int = 5, rows: int = ROWS, descriptions: int = 3) -> Material:
    """Every prompt has a place of its own in its state, so that a mean tells which prompts are in it."""
    place = torch.eye(tasks * 20).reshape(tasks, 20, -1)
    kinds = {"description": descriptions, "texts": rows, "examples": rows}
    return Material(
        samples=torch.eye(tasks)[:, None].expand(tasks, 2, tasks),
        space=None,  # type: ignore[arg-type]
        states={kind: tuple(place[task, :number] for task in range(tasks)) for kind, number in kinds.items()},
        reading=Reading(model="unused"),
        embeddings=torch.eye(tasks),
    )


def drawn(material: Material, *, seed: int = 0, codes: Tensor | None = None, **values: object) -> list[ICMBatch]:
    settings = {"steps_per_epoch": 4, "batch_size": 32, "shots": (1, 4, 100), "evidence_dropout": 0.5} | values
    config = ICMTrainConfig(generator="icm", zoo="zoo", encoder="e", out="out", **settings)
    size = next(iter(material.states.values()))[0].shape[1]
    plain = ConditionCodec(torch.zeros(3, size), torch.ones(3))
    experts = range(len(material.samples))
    return episodes(material, experts, material.samples if codes is None else codes, plain, config, rng=seeded(seed))


def parts(batches: list[ICMBatch]) -> tuple[Tensor, Tensor]:
    """Drawn tasks (b,), and which prompts of that task are in each kind of evidence, (b, 3, 20)."""
    condition = torch.cat([batch.condition for batch in batches])
    kinds = condition.reshape(len(condition), 3, -1, 20)
    tasks = kinds.sum((1, 3)).argmax(1)
    of_task = kinds[torch.arange(len(tasks)), :, tasks]
    assert torch.equal((of_task > 0).sum((1, 2)), (kinds > 0).sum((1, 2, 3))), "evidence of one task alone"
    return tasks, of_task


def test_the_adapter_belongs_to_the_task_of_its_condition() -> None:
    batches = drawn(marked_material())
    tasks, _ = parts(batches)
    assert torch.equal(torch.cat([batch.x for batch in batches]).argmax(1), tasks)
    assert all(len(batch.x.argmax(1).unique()) == 5 for batch in batches), "tasks are mixed in a batch"
    assert [len(batch.x) for batch in batches] == [32] * 4


def test_every_point_of_an_experts_training_is_drawn() -> None:
    codes = torch.arange(10.0).reshape(5, 2, 1)
    values = torch.cat([batch.x for batch in drawn(marked_material(), codes=codes)])
    assert set(values.flatten().tolist()) == set(range(10))


@pytest.mark.parametrize("dropout", [0.0, 0.5, 0.95])
def test_there_is_always_some_evidence(dropout: float) -> None:
    _, prompts = parts(drawn(marked_material(), evidence_dropout=dropout))
    present = prompts.sum(2) > 0
    assert present.any(1).all()
    assert float(present.float().mean()) == pytest.approx(max(1 - dropout, 1 / 3), abs=0.1)
    assert (present.float().mean(0) > 0.2).all(), "none of the kinds is preferred"


def test_supports_are_fresh_and_of_the_sizes_asked_for() -> None:
    tasks, prompts = parts(drawn(marked_material(), evidence_dropout=0.0))
    rows = prompts[:, 1] > 0
    assert set(rows.sum(1).tolist()) == {1, 4, ROWS}, "at most as many as there are"
    for task in range(5):
        fours = rows[(tasks == task) & (rows.sum(1) == 4)]
        assert len(fours.unique(dim=0)) > len(fours) // 2 > 1
    torch.testing.assert_close(prompts[:, 1].sum(1), torch.ones(len(tasks)))


def test_texts_and_examples_come_from_the_same_rows() -> None:
    _, prompts = parts(drawn(marked_material(), evidence_dropout=0.0))
    assert torch.equal(prompts[:, 1], prompts[:, 2])


def test_one_description_is_drawn_and_all_are() -> None:
    _, prompts = parts(drawn(marked_material(), evidence_dropout=0.0))
    assert torch.equal(prompts[:, 0].amax(1), torch.ones(len(prompts)))
    assert set(prompts[:, 0].argmax(1).tolist()) == {0, 1, 2}


def test_a_task_may_have_fewer_examples_than_descriptions() -> None:
    _, prompts = parts(drawn(marked_material(rows=2, descriptions=9), evidence_dropout=0.0))
    assert set((prompts[:, 1] > 0).sum(1).tolist()) == {1, 2}
    assert prompts[:, 0].argmax(1).max() == 8


def test_episodes_follow_from_the_random_source() -> None:
    one, same, other = (drawn(marked_material(), seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a.x, b.x) and torch.equal(a.condition, b.condition) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0].condition, other[0].condition)
    assert not torch.equal(one[0].condition, one[1].condition)


# --- the length of the training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curves", "epochs"),
    [
        ([[0.1, 0.3, 0.2]], 2),  # one task gives no error: the best
        ([[0.1, 0.3, 0.3]], 3),  # equal: the longest
        ([[0.1, 0.2, 0.3]], 3),
        ([[0.3, 0.2, 0.1]], 1),
        ([[0.0, 0.6, 0.5, 0.1], [0.0, 0.2, 0.3, 0.1]], 3),  # 0.4 ± 0.2 is met by 0.4, not by 0.1
        ([[0.0, 0.6, 0.3, 0.1], [0.0, 0.2, 0.3, 0.1]], 3),  # and by 0.3
        ([[0.0, 0.6, 0.1, 0.21], [0.0, 0.2, 0.1, 0.21]], 4),  # and by 0.21, though what lies between misses it
        ([[0.0, 0.4, 0.39], [0.0, 0.4, 0.39]], 2),  # no error: no leeway
    ],
)
def test_the_longest_within_a_standard_error_of_the_best(curves: list[list[float]], epochs: int) -> None:
    assert longest_as_good(torch.tensor(curves)) == epochs


def test_more_tasks_leave_less_leeway() -> None:
    curves = torch.tensor([[0.6, 0.3], [0.2, 0.2]])
    assert longest_as_good(curves) == 2
    assert longest_as_good(curves.repeat(8, 1)) == 1


# --- training from descriptions -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny", seed=1)


@pytest.fixture(scope="module")
def encoder(model) -> TextEncoder:
    return TextEncoder.load(str(model))


@pytest.fixture(scope="module")
def zoo(tiny_zoo) -> Zoo:
    return tiny_zoo.select(splits={"experts"})


def configured(model: Path, *, icm: dict[str, object] | None = None, **values: object) -> ICMTrainConfig:
    small = {"evidence": ["description"], "channels": [4, 8, 4], "latent_size": 4, "components": 6}
    settings = {"epochs": 3, "steps_per_epoch": 2, "batch_size": 8, "learning_rate": 1e-2} | values
    paths = {"zoo": "zoo", "encoder": str(model), "reading_model": str(model), "out": "out"}
    return ICMTrainConfig(generator="icm", icm=small | (icm or {}), **paths, **settings)


@pytest.fixture(scope="module")
def trained(zoo, model, encoder) -> tuple[ICM, list[dict[str, float]]]:
    return fit_icm(configured(model, **ENOUGH), zoo, encoder)


@pytest.fixture(scope="module")
def trained_raw(zoo, model, encoder) -> tuple[ICM, list[dict[str, float]]]:
    return fit_icm(configured(model, icm={"codec": "raw"}, **ENOUGH), zoo, encoder)


@pytest.fixture(scope="module")
def briefly(zoo, model, encoder) -> ICM:
    return fit_icm(configured(model, epochs=1), zoo, encoder)[0]


def update(adapter: Lora) -> Tensor:
    """All delta weights of an adapter as one vector."""
    return torch.cat([adapter.delta_weight(site).flatten() for site in sorted(adapter.sites)])


def made(generator: ICM, condition: Condition, *, seed: int = 0, scale: float = 0.0) -> Lora:
    return generator.with_prior_scale(scale).generate(condition, rng=seeded(seed))[0].adapter


def distances(generator: ICM, conditions: list[Condition], zoo: Zoo) -> Tensor:
    """From what is made under each condition to each expert; 1 is an expert's distance from their mean, (n, n)."""
    experts = torch.stack([update(zoo.adapter(expert)) for expert in zoo.ids])
    spread = (experts - experts.mean(0)).norm(dim=1).mean()
    return torch.cdist(torch.stack([update(made(generator, asked)) for asked in conditions]), experts) / spread


def described(generator: ICM, encoder: TextEncoder, zoo: Zoo) -> list[Condition]:
    conditioner = Conditioner.of(generator, encoder)
    return [conditioner.condition(card.description) for card in zoo]


@pytest.mark.parametrize("codec", ["frame", "raw"])
def test_each_description_brings_its_own_experts_adapter_back(codec: str, request, zoo, encoder) -> None:
    generator, history = request.getfixturevalue("trained" if codec == "frame" else "trained_raw")
    found = distances(generator, described(generator, encoder, zoo), zoo)
    assert torch.equal(found.argmin(1), torch.arange(len(zoo)))
    assert found.diag().mean() < 0.6, "nearer than the mean of the experts is"
    assert found.roll(1, 0).diag().min() > 0.9, "and not under another task's description"
    assert sum(row["reconstruction"] for row in history[-10:]) < 0.3 * sum(
        row["reconstruction"] for row in history[:10]
    )
    assert history[0].keys() == {"loss", "reconstruction", "kl"}


def test_one_conditional_generator_makes_adapters_of_the_zoos_layout(trained, zoo, encoder) -> None:
    generator, _ = trained
    (asked, *_), reference = described(generator, encoder, zoo), zoo.adapter(zoo.ids[0])
    adapter = made(generator, asked, scale=1.0)
    assert adapter.spec == reference.spec
    assert adapter.settings.base_model_name_or_path == "tiny-base"
    (generation,) = generator.generate(asked, rng=seeded())
    assert {n.id for n in generation.neighbours} == set(zoo.ids)
    assert generation.neighbours[0].id == zoo.ids[0]
    assert [n.weight for n in generation.neighbours] == pytest.approx([1 / 7] * 7)


def test_z_is_drawn_from_the_random_source_and_scaled(trained, zoo, encoder) -> None:
    generator, _ = trained
    asked = described(generator, encoder, zoo)[0]
    one, same, other = (update(made(generator, asked, seed=seed, scale=1.0)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    several = generator.generate(asked, rng=seeded(1), num_samples=2)
    assert torch.equal(update(several[0].adapter), one)
    assert not torch.equal(update(several[1].adapter), one)
    assert torch.equal(*(update(made(generator, asked, seed=seed)) for seed in (1, 2)))


def test_training_is_deterministic_and_leaves_the_random_state_alone(trained, zoo, encoder, model) -> None:
    def run(**values: object) -> tuple[ICM, list[dict[str, float]]]:
        return fit_icm(configured(model, **values), zoo, encoder)

    torch.manual_seed(7)
    before = torch.get_rng_state()
    (one, history), (same, same_history), (other, _) = run(), run(), run(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert history == same_history
    assert equal_states(one.network, same.network)
    assert not equal_states(one.network, other.network)


def test_the_seed_and_the_epoch_say_what_is_drawn(zoo, model, encoder, monkeypatch) -> None:
    drawn_x = []

    def watched(*args: object, **options: object) -> list[ICMBatch]:
        batches = episodes(*args, **options)
        drawn_x.append(batches[0].x)
        return batches

    monkeypatch.setattr(icm_fit, "episodes", watched)
    one, other = (fit_icm(configured(model, seed=seed, learning_rate=1e-9), zoo, encoder)[0] for seed in (0, 1))
    assert len({tuple(x.flatten().tolist()) for x in drawn_x}) == 2 * 3, "every epoch of either has its own episodes"
    assert (one.network.features.weight - other.network.features.weight).abs().max() > 0.01, "and its own start"


def equal_states(one: nn.Module, other: nn.Module) -> bool:
    values = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in values)


def saved(generator: ICM, folder: Path) -> Path:
    for name, content in generator.files().items():
        atomic_write(folder / name, content)
    return folder


@pytest.mark.parametrize("codec", ["frame", "raw"])
def test_saved_and_loaded_it_makes_the_same_from_its_own_folder_alone(codec, request, zoo, encoder, tmp_path) -> None:
    generator, _ = request.getfixturevalue("trained" if codec == "frame" else "trained_raw")
    loaded = ICM.load(saved(generator, tmp_path / "icm"))
    assert loaded.manifest == generator.manifest
    assert (tmp_path / "icm" / "frame.safetensors").exists() == (codec == "frame")
    for asked in described(generator, encoder, zoo):
        one, two = (made(g, asked, seed=5, scale=1.0) for g in (generator, loaded))
        assert one.spec == two.spec
        assert all(torch.equal(one.lora_A[site], two.lora_A[site]) for site in one.sites)
        assert all(torch.equal(one.lora_B[site], two.lora_B[site]) for site in one.sites)
        neighbours = [g.generate(asked, rng=seeded())[0].neighbours for g in (generator, loaded)]
        assert neighbours[0] == neighbours[1]


@pytest.mark.parametrize("damage", ["none there", "missing", "truncated", "part", "other", "kind", "frame"])
def test_a_damaged_generator_is_refused(briefly, tmp_path, damage: str) -> None:
    folder = saved(briefly, tmp_path / "icm")
    tensors, manifest = folder / "generator.safetensors", folder / "generator.yaml"
    match damage:
        case "none there":
            shutil.rmtree(folder)
        case "missing":
            tensors.unlink()
        case "truncated":
            tensors.write_bytes(tensors.read_bytes()[:-10])
        case "part":
            save_file({n: t for n, t in load_file(tensors).items() if n != "conditions.scales"}, tensors)
        case "other":
            manifest.write_text(manifest.read_text().replace("latent_size: 4", "latent_size: 5"))
        case "kind":
            manifest.write_text(manifest.read_text().replace("kind: icm", "kind: sg"))
        case "frame":
            (folder / "frame.safetensors").unlink()
    with pytest.raises(GeneratorError, match=r"(?s)does not hold a whole ICM-LoRA .*train it again"):
        ICM.load(folder)


def test_the_manifest_says_what_was_read_and_from_whom(trained, zoo, model) -> None:
    manifest = trained[0].manifest
    assert manifest.reading.model == str(model)
    assert manifest.reading.model_hash == LabelTextEncoder.load(str(model)).fingerprint
    assert manifest.experts == zoo.ids
    assert manifest.zoo_hash == zoo.fingerprint
    assert (manifest.epochs, manifest.left_out, manifest.factors) == (3, (), None)


def test_a_condition_without_evidence_is_refused(briefly, encoder) -> None:
    embedding = encoder.encode(["soup"])[0]
    with pytest.raises(GeneratorError, match="reads description, but the condition holds no task vector"):
        briefly.generate(Condition("soup", embedding), rng=seeded())
    unread = Condition("soup", embedding, {"texts": torch.zeros(16)})
    with pytest.raises(GeneratorError, match="reads description, but the condition holds texts"):
        briefly.generate(unread, rng=seeded())


def test_what_it_does_not_read_is_refused(briefly, encoder) -> None:
    conditioner = Conditioner.of(briefly, encoder)
    with pytest.raises(GeneratorError, match="reads description, but not the names of the labels"):
        conditioner.condition("soup", labels=("warm", "cold"))
    with pytest.raises(GeneratorError, match="reads description, but no texts of the task"):
        conditioner.condition("soup", support=Support(("warm soup",)))


# --- as published: raw factors at the scale of the task's own adapter -----------------------------------------------


def test_the_targets_scale_is_taken_from_its_own_adapter(zoo, model, encoder) -> None:
    config = configured(model, icm={"codec": "raw", "scale": "target"}, epochs=1)
    generator, _ = fit_icm(config, zoo, encoder)
    asked, own = described(generator, encoder, zoo)[0], zoo.adapter(zoo.ids[0])
    with pytest.raises(GeneratorError, match="--own-adapter"):
        generator.generate(asked, rng=seeded())
    adapter = made(generator, dataclasses.replace(asked, own_adapter=own))
    asked_of_large = dataclasses.replace(asked, own_adapter=scaled(own, 3.0))
    for site in own.sites:
        torch.testing.assert_close(3 * adapter.lora_A[site], made(generator, asked_of_large).lora_A[site])
        torch.testing.assert_close(3 * adapter.lora_B[site], made(generator, asked_of_large).lora_B[site])


def scaled(adapter: Lora, factor: float) -> Lora:
    lora_A = {site: factor * a.float() for site, a in adapter.lora_A.items()}
    lora_B = {site: factor * b.float() for site, b in adapter.lora_B.items()}
    return Lora.from_factors(lora_A, lora_B, base_model_name_or_path=None)


def test_with_the_targets_scale_every_point_is_normalised_by_itself(zoo, model, encoder) -> None:
    config = configured(model, icm={"codec": "raw", "scale": "target"})
    material = prepare(config, zoo, encoder)
    codes = material.codes([2, 0], material.codec([2, 0], config.icm), config.icm)
    assert codes.shape == (2, 4, material.space.size)
    for tensor in torch.split(codes, list(material.space.sizes.values()), dim=-1):
        torch.testing.assert_close(tensor.mean(-1), torch.zeros(2, 4), atol=1e-5, rtol=0)
        torch.testing.assert_close(tensor.std(-1, correction=0), torch.ones(2, 4))
    assert torch.equal(
        codes[1, 0], Codec.per_tensor(material.samples[0, 0], material.space.sizes).encode(material.samples[0, 0])
    )


def test_raw_factors_are_the_experts_own_and_their_snapshots_share_their_a(zoo, model, encoder) -> None:
    material = prepare(configured(model, icm={"codec": "raw"}), zoo, encoder)
    assert material.samples.shape == (7, 4, material.space.size)
    for at, expert in enumerate(zoo.ids):
        own, snapshots = zoo.adapter(expert), zoo.snapshots(expert)
        for point in range(4):
            adapter = material.space.adapter(material.samples[at, point], base=None)
            for site in own.sites:
                assert torch.equal(adapter.lora_A[site], own.lora_A[site].float())
                b = own.lora_B[site] if point == 0 else snapshots[site][point - 1]
                assert torch.equal(adapter.lora_B[site], b.float())


@pytest.mark.parametrize("codec", ["frame", "raw"])
def test_an_expert_from_elsewhere_stands_for_its_own_snapshots(zoo, model, encoder, codec: str) -> None:
    facts = Imported(r=2, lora_alpha=2, use_rslora=False, energy_kept=1.0, missing=())
    foreign = {card.id: card.model_copy(update={"imported": facts}) for card in zoo}
    config = configured(model, icm={"codec": codec})
    known = prepare(config, zoo, encoder).samples
    all_foreign = prepare(config, dataclasses.replace(zoo, cards=foreign), encoder).samples
    assert torch.equal(all_foreign, known[:, :1])
    mixed = prepare(config, dataclasses.replace(zoo, cards=dict(zoo.cards) | {"card": foreign["card"]}), encoder)
    at = zoo.ids.index("card")
    assert torch.equal(mixed.samples[at], known[at, :1].expand(4, -1))
    assert torch.equal(mixed.samples[at + 1 :], known[at + 1 :])


# --- tasks left out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["all coordinates", "directions", "directions as they are stored"])
def test_cosines_in_codes_are_those_in_coordinates(kind: str) -> None:
    samples, own = torch.randn(8, 30, generator=seeded()), torch.randn(5, 30, generator=seeded(1))
    codec = Codec.fit(samples, {"a": 20, "b": 10}, components=None if kind == "all coordinates" else 4)
    if kind == "directions as they are stored":  # no longer quite orthonormal
        codec = dataclasses.replace(codec, basis=(1.3 * codec.basis).bfloat16().float())
    codes = torch.randn(5, codec.size, generator=seeded(2))
    made = (codec.decode(codes) - codec.centre) / codec.scale
    wanted = torch.cosine_similarity(made, (own - codec.centre) / codec.scale)
    torch.testing.assert_close(cosines_with(codec, own)(codes), wanted, atol=1e-5, rtol=1e-5)
    assert not cosines_with(codec, own)(torch.zeros_like(codes)).any(), "what is made at the centre has no direction"


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def folded(model) -> ICMTrainConfig:
    return configured(model, folds=2)


@pytest.fixture(scope="module")
def whole(folded, zoo, encoder) -> tuple[ICM, list[dict[str, float]]]:
    return fit_icm(folded, zoo, encoder)


def test_left_out_tasks_choose_the_number_of_epochs(whole, folded, zoo, encoder, model, monkeypatch) -> None:
    seen = []

    def two(curves: Tensor) -> int:
        seen.append(curves)
        return 2

    monkeypatch.setattr(icm_fit, "longest_as_good", two)
    steps: list[int] = []
    generator, history = fit_icm(folded, zoo, encoder, on_step=steps.append)
    (curves,) = seen
    assert curves.shape == (7, 3)
    assert curves.abs().max() <= 1
    assert generator.manifest.left_out == pytest.approx(curves.mean(0).tolist(), abs=1e-4)
    assert generator.manifest.epochs == 2
    # Both folds to their end, then two epochs of the training that would have had three.
    assert steps == list(range(1, 17))
    _, three = fit_icm(configured(model), zoo, encoder)
    assert history == three[:4]
    assert whole[0].manifest.left_out == generator.manifest.left_out
    assert whole[0].manifest.epochs == longest_as_good(curves)


def test_left_out_tasks_are_met_where_a_twin_was_learnt_and_missed_where_nothing_was_like_them(
    zoo, model, encoder, tmp_path
) -> None:
    shutil.copytree(zoo.root, tmp_path / "zoo")
    for expert in ("bank", "card"):
        twin = shutil.copytree(zoo.folder(expert), tmp_path / "zoo" / "experts" / f"{expert}-twin") / "card.yaml"
        twin.write_text(twin.read_text().replace(f"id: {expert}\n", f"id: {expert}-twin\n"))
    five = Zoo.open(tmp_path / "zoo").select(without={"mood", "news", "rain", "rude", "shop"})
    assert five.ids == ("bank", "bank-twin", "card", "card-twin", "cook")
    # Each of the two folds happens to leave out one of either pair, and one of them "cook" as well.
    config = configured(model, icm={"components": None}, folds=2, **ENOUGH | {"epochs": 1})
    fit_icm(config, five, encoder, checkpoints=tmp_path / "state")
    kept = [json.loads((tmp_path / "state" / f"fold-{fold}" / "alignment.json").read_text()) for fold in (0, 1)]
    cook, *paired = sorted(alignment for epochs in kept for alignment in epochs["1"])
    assert cook < 0.5
    assert len(paired) == 4
    assert min(paired) > 0.9


def changed(zoo: Zoo, expert: str, folder: Path) -> Zoo:
    """The zoo with another adapter and another description for one of its experts."""
    shutil.copytree(zoo.root, folder)
    for file in (zoo.root / "experts" / "shop").glob("*.safetensors"):
        shutil.copy(file, folder / "experts" / expert)
    card = folder / "experts" / expert / "card.yaml"
    card.write_text(card.read_text().replace(zoo.card(expert).description, "Warm soup, or cold tea?"))
    other = Zoo.open(folder).select(splits={"experts"})
    assert other.card(expert).description != zoo.card(expert).description
    return other


@pytest.mark.parametrize("codec", ["frame", "raw"])
def test_a_left_out_task_takes_no_part(zoo, model, encoder, tmp_path, codec: str) -> None:
    config = configured(model, icm={"codec": codec}, folds=2, epochs=1)

    def networks(of: Zoo, folder: Path) -> list[dict[str, Tensor]]:
        fit_icm(config, of, encoder, checkpoints=folder)
        files = [folder / name / "state.ckpt" for name in ("fold-0", "fold-1", "all")]
        return [torch.load(file, weights_only=True)["state_dict"] for file in files]

    before = networks(zoo, tmp_path / "before")
    after = networks(changed(zoo, "mood", tmp_path / "zoo"), tmp_path / "after")
    same = [all(torch.equal(a[name], b[name]) for name in a) for a, b in zip(before, after, strict=True)]
    assert sorted(same[:2]) == [False, True], "one fold leaves it out"
    assert not same[2], "and in the end it is learnt"


@pytest.mark.parametrize("at", [1, 4, 6, 9, 13, 14])
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    whole, folded, zoo, encoder, tmp_path, at: int
) -> None:
    def stop(step: int) -> None:
        if step == at:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit_icm(folded, zoo, encoder, checkpoints=tmp_path, on_step=stop)
    steps: list[int] = []
    generator, history = fit_icm(folded, zoo, encoder, checkpoints=tmp_path, on_step=steps.append)
    # The epoch that was broken off begins again, and nothing that was done before it.
    assert steps == list(range(1 + (at - 1) // 2 * 2, 13 + 2 * generator.manifest.epochs))
    assert history == whole[1]
    assert generator.files() == whole[0].files()


@pytest.mark.parametrize(("folds", "experts"), [(1, 7), (5, 1)])
def test_folds_that_leave_nothing_to_learn_from_are_refused(zoo, model, encoder, folds: int, experts: int) -> None:
    few = zoo.select(without=zoo.ids[experts:])
    with pytest.raises(ConfigError, match=rf"'folds: {folds}' and {experts} experts"):
        fit_icm(configured(model, folds=folds), few, encoder)


# --- training from texts and examples -------------------------------------------------------------------------------

WORDS = ("soup", "bread", "cold", "warm", "tea")


@pytest.fixture(scope="module")
def supports(zoo, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Support]]:
    """A task file, the folder of its data, and for each expert labelled examples that no training sees."""
    folder = tmp_path_factory.mktemp("tasks")
    data, file = folder / "data", folder / "tasks.yaml"
    pairs = [(one, other) for at, one in enumerate(WORDS) for other in WORDS[at + 1 :]]
    tasks = [word_task(data, name, words=pair) for name, pair in zip(zoo.ids, pairs, strict=False)]
    fresh = {task.id: Support.of(task, task.load_test()) for task in tasks}
    relative = [
        task.model_copy(
            update={"source": task.source.model_copy(update={"train": f"{task.id}.train.jsonl", "test": None})}
        )
        for task in tasks
    ]
    file.write_text(TaskSetConfig(tasks=tuple(relative)).to_yaml())
    return file, data, fresh


def reading_all(model: Path, supports: tuple[Path, Path, dict[str, Support]], **values: object) -> ICMTrainConfig:
    file, data, _ = supports
    return configured(model, icm={"evidence": EVIDENCE}, **{"tasks": file, "tasks_root": data} | values)


@pytest.fixture(scope="module")
def trained_on_all(zoo, model, encoder, supports) -> ICM:
    many = {"pool": 200, "shots": (32, 64), "evidence_dropout": 0.5, "steps_per_epoch": 50}  # for letters are noise
    return fit_icm(reading_all(model, supports, **ENOUGH | many), zoo, encoder)[0]


@pytest.mark.parametrize("kind", EVIDENCE)
def test_fresh_evidence_of_any_kind_tells_a_task(trained_on_all, zoo, encoder, supports, kind: str) -> None:
    conditioner, conditions = Conditioner.of(trained_on_all, encoder), []
    for card in zoo:
        asked = conditioner.condition(card.description, support=supports[2][card.id])
        assert set(asked.task_vectors) == set(EVIDENCE)
        conditions.append(dataclasses.replace(asked, task_vectors={kind: asked.task_vectors[kind]}))
    found = distances(trained_on_all, conditions, zoo)
    assert (found.argmin(1) == torch.arange(7)).sum() >= 6
    assert found.diag().mean() < 0.75
    assert found.roll(1, 0).diag().mean() > 1


def test_the_pool_is_a_seeded_part_of_the_training_examples(zoo, model, encoder, supports) -> None:
    one, same, other = (prepare(reading_all(model, supports, pool=40, seed=seed), zoo, encoder) for seed in (0, 0, 1))
    assert {kind: {tuple(s.shape) for s in found} for kind, found in one.states.items()} == {
        "description": {(2, 16)},
        "texts": {(40, 16)},
        "examples": {(40, 16)},
    }
    assert torch.equal(one.states["texts"][3], same.states["texts"][3])
    assert not torch.equal(one.states["texts"][3], other.states["texts"][3])
    assert not torch.equal(one.states["texts"][3], one.states["examples"][3]), "labels are read in examples alone"
    vectors = one.task_vectors(3, shots=5)
    torch.testing.assert_close(vectors["texts"], one.states["texts"][3][:5].mean(0))
    assert torch.equal(vectors["description"], one.states["description"][3][0])


def test_texts_without_tasks_to_read_them_from_are_refused(zoo, model, encoder, supports) -> None:
    with pytest.raises(ConfigError, match=r"names no 'tasks'; name the file .* or set 'icm\.evidence"):
        prepare(reading_all(model, supports, tasks=None), zoo, encoder)


def test_an_expert_without_a_task_is_named(zoo, model, encoder, supports, tmp_path) -> None:
    values = yaml.safe_load(supports[0].read_text())
    values["tasks"] = [task for task in values["tasks"] if task["id"] != "mood"]
    (tmp_path / "tasks.yaml").write_text(json.dumps(values))
    with pytest.raises(TaskError, match="no task 'mood'"):
        prepare(reading_all(model, supports, tasks=tmp_path / "tasks.yaml"), zoo, encoder)


def test_the_papers_task_vectors_are_read_through_each_tasks_own_adapter(tiny_zoo, model, encoder, tmp_path) -> None:
    shutil.copytree(tiny_zoo.root, tmp_path / "zoo")
    backbone = LabelTextEncoder.load(str(model))
    start = Start.random(backbone.sites(("query", "value")), 2, rng=seeded())
    for seed, card in enumerate(tiny_zoo):
        adapter, files = expert_files(make_expert(start, seed=seed), card)
        adapter.save(tmp_path / "zoo" / "experts" / card.id, extra_files=files)
    zoo = Zoo.open(tmp_path / "zoo").select(splits={"experts"})
    own, base = (prepare(configured(model, through=through), zoo, encoder) for through in ("own_adapter", "base"))
    ids = backbone.tokenize(zoo.card("card").descriptions, max_length=64)
    torch.testing.assert_close(base.states["description"][1], backbone.encode_states(ids))
    with backbone.adapted(zoo.adapter("card")):
        torch.testing.assert_close(own.states["description"][1], backbone.encode_states(ids))
    assert (own.states["description"][1] - base.states["description"][1]).abs().max() > 0.01
    assert own.reading.through == "own_adapter"


# --- opened by name -------------------------------------------------------------------------------------------------


def test_it_opens_by_its_folder_and_by_its_name(briefly, tiny_zoo, encoder, tmp_path) -> None:
    folder = saved(briefly, tmp_path / "icm")
    assert isinstance(open_generator(str(folder), tiny_zoo, encoder), ICM)
    shutil.copytree(tiny_zoo.root, tmp_path / "zoo")
    zoo = Zoo.open(tmp_path / "zoo")
    with pytest.raises(GeneratorError, match="no generator 'told'"):
        open_generator("told", zoo, encoder)
    shutil.copytree(folder, zoo.root / "generators" / "told")
    assert isinstance(open_generator("told", zoo, encoder), ICM)
    assert available(zoo)[-1] == "told"


def test_what_does_not_apply_to_it_is_refused(briefly, tiny_zoo, encoder, tmp_path) -> None:
    folder = str(saved(briefly, tmp_path / "icm"))
    with pytest.raises(GeneratorError, match="--top-k does not apply"):
        open_generator(folder, tiny_zoo, encoder, top_k=3)
    with pytest.raises(GeneratorError, match="--licence does not apply"):
        open_generator(folder, tiny_zoo, encoder, licences=["MIT"])
    all_of_them = open_generator(folder, tiny_zoo, encoder, licences=["MIT", "CC BY 4.0"])
    assert isinstance(all_of_them, ICM)


def test_it_serves_only_the_experts_and_the_encoder_it_was_trained_with(briefly, tiny_zoo, encoder, tmp_path) -> None:
    folder = str(saved(briefly, tmp_path / "icm"))
    other = changed(tiny_zoo, "mood", tmp_path / "zoo")
    with pytest.raises(GeneratorError, match="trained on other experts"):
        open_generator(folder, Zoo.open(other.root), encoder)
    stranger = dataclasses.replace(encoder, fingerprint="0" * 16)
    with pytest.raises(GeneratorError, match="trained with the text encoder"):
        open_generator(folder, tiny_zoo, stranger)


@pytest.mark.parametrize("text", ["kind: oracle\n", "zoo: tiny\n", "kind: [icm]\n"])
def test_an_unknown_kind_of_generator_is_refused(tiny_zoo, encoder, tmp_path, text: str) -> None:
    (tmp_path / "generator.yaml").write_text(text)
    with pytest.raises(GeneratorError, match=r"of the kind .*; known are .*icm"):
        open_generator(str(tmp_path), tiny_zoo, encoder)


def test_a_folder_without_a_manifest_is_no_generator(tiny_zoo, encoder, tmp_path) -> None:
    with pytest.raises(GeneratorError, match="holds no generator"):
        open_generator(str(tmp_path), tiny_zoo, encoder)
