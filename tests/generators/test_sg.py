import dataclasses
from collections.abc import Collection

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from loragen.adapters.codec import Codec
from loragen.adapters.frame import Frame
from loragen.conditions.condition import Condition
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, GeneratorError
from loragen.files import atomic_write
from loragen.generators.sg.fit import SGData, SGTrainConfig, fit_sg, read_experts, training_batches
from loragen.generators.sg.model import SG, Mixture, SGBatch, SGConfig, SGLibrary, SGNetwork, SGObjective
from loragen.generators.trained import Gaussian
from loragen.zoo.card import Imported
from loragen.zoo.expert_index import samples_of
from loragen.zoo.zoo import Zoo


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load()


@pytest.fixture(scope="module")
def train_config(tmp_path_factory: pytest.TempPathFactory) -> SGTrainConfig:
    return SGTrainConfig(
        generator="sg",
        zoo=tmp_path_factory.mktemp("unused"),
        encoder="all-MiniLM-L6-v2",
        out=tmp_path_factory.mktemp("sg"),
        sg=SGConfig(top_k=2, components=6, latent_size=4, hidden_size=32),
        epochs=2,
        steps_per_epoch=60,
        batch_size=16,
        learning_rate=5e-3,
    )


@pytest.fixture(scope="module")
def trained(tiny_zoo, encoder, train_config) -> tuple[SG, list[dict[str, float]]]:
    return fit_sg(train_config, tiny_zoo.select(splits={"experts"}), encoder)


def condition(encoder: TextEncoder, text: str = "Route a message to the right desk of a bank.") -> Condition:
    return Condition(text, encoder.encode([text])[0])


# --- a zoo as codes ---


def from_elsewhere(zoo: Zoo, experts: Collection[str]) -> Zoo:
    """The zoo with these experts as though they were imported: nothing is known of their training."""
    facts = Imported(r=2, lora_alpha=2, use_rslora=False, energy_kept=1.0, missing=())
    cards = {card.id: card.model_copy(update={"provenance": facts}) if card.id in experts else card for card in zoo}
    return dataclasses.replace(zoo, cards=cards)


@pytest.mark.parametrize("components", [None, 4, 100])
def test_codes_are_those_of_all_points_and_variances_at_once(tiny_zoo, encoder, components: int | None) -> None:
    data = read_experts(tiny_zoo, encoder, components=components)
    adapters = [tiny_zoo.adapter(expert) for expert in tiny_zoo.ids]
    frame = Frame.fit(adapters)
    means = torch.stack([frame.coordinates(adapter) for adapter in adapters])
    snapshots = torch.stack([frame.flatten(tiny_zoo.snapshots(expert)) for expert in tiny_zoo.ids])
    variances = torch.stack([frame.flatten(tiny_zoo.variance(expert)) for expert in tiny_zoo.ids])
    samples = torch.cat([means[:, None], snapshots], dim=1)
    codec = Codec.fit(samples.flatten(0, 1), frame.sizes, components=components)
    torch.testing.assert_close(data.samples, codec.encode(samples))
    torch.testing.assert_close(data.library.means, codec.encode(means))
    torch.testing.assert_close(data.library.variances, codec.encode_variance(variances))
    assert data.library.variances.min() > 0


def test_codes_are_those_of_the_directions_as_they_are_stored(tiny_zoo, encoder) -> None:
    whole, data = (read_experts(tiny_zoo, encoder, components=4, eight_bits=small) for small in (False, True))
    assert data.codec.eight_bits
    samples = samples_of(tiny_zoo, data.frame, [tiny_zoo.adapter(name) for name in tiny_zoo.ids])
    assert torch.equal(data.samples, data.codec.encode(samples))
    assert not torch.equal(data.samples, whole.samples)
    assert torch.allclose(data.samples, whole.samples, atol=0.1)


def test_of_experts_from_elsewhere_only_the_adapter_is_known(tiny_zoo, encoder) -> None:
    zoo = from_elsewhere(tiny_zoo, tiny_zoo.ids)
    data = read_experts(zoo, encoder, components=100)
    assert data.samples.shape == (8, 1, 7), "centred, eight adapters span seven directions"
    assert not data.library.variances.any()
    for sample, expert in zip(data.samples[:, 0], zoo.ids, strict=True):
        met = data.frame.adapter(data.codec.decode(sample), base=None)
        for site in met.sites:
            wanted = zoo.adapter(expert).delta_weight(site)
            torch.testing.assert_close(met.delta_weight(site), wanted, atol=1e-4, rtol=1e-4)


def test_experts_from_elsewhere_stand_beside_trained_ones(tiny_zoo, encoder) -> None:
    mixed = read_experts(from_elsewhere(tiny_zoo, ["bank", "news"]), encoder, components=100)
    assert mixed.samples.shape[:2] == (8, 4)
    for at, expert in enumerate(tiny_zoo.ids):
        spread = (mixed.samples[at] - mixed.samples[at, 0]).abs().max()
        assert (spread == 0, not mixed.library.variances[at].any()) == (expert in ("bank", "news"),) * 2


# --- the mixture: law of total variance ---


def test_mixture_of_one_expert_is_that_expert() -> None:
    mean, variance = torch.randn(1, 5, generator=seeded()), torch.rand(1, 5, generator=seeded(1))
    mixture = Mixture.of(torch.tensor([1.0]), mean, variance)
    torch.testing.assert_close(mixture.mean, mean[0])
    torch.testing.assert_close(mixture.variance, variance[0])


def test_two_certain_experts_at_plus_and_minus_a_give_variance_a_squared() -> None:
    a = torch.tensor([0.5, 2.0, 3.0])
    mixture = Mixture.of(torch.tensor([0.5, 0.5]), torch.stack([a, -a]), torch.zeros(2, 3))
    torch.testing.assert_close(mixture.mean, torch.zeros(3))
    torch.testing.assert_close(mixture.variance, a.square())


@given(seed=st.integers(0, 1000), n=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_mixture_equals_the_two_terms_of_the_law_of_total_variance(seed: int, n: int) -> None:
    rng = seeded(seed)
    weights = torch.softmax(torch.randn(n, generator=rng), 0)
    means, variances = torch.randn(n, 4, generator=rng), torch.rand(n, 4, generator=rng)
    mixture = Mixture.of(weights, means, variances)
    mu = sum(w * m for w, m in zip(weights, means, strict=True))
    within = sum(w * v for w, v in zip(weights, variances, strict=True))
    between = sum(w * (m - mu) ** 2 for w, m in zip(weights, means, strict=True))
    torch.testing.assert_close(mixture.mean, mu)
    torch.testing.assert_close(mixture.variance, within + between, atol=1e-5, rtol=1e-4)


def test_condition_features_carry_mean_and_variance() -> None:
    one = Mixture(torch.zeros(3), torch.ones(3))
    assert not torch.equal(one.features(), Mixture(torch.ones(3), torch.ones(3)).features())
    assert not torch.equal(one.features(), Mixture(torch.zeros(3), 2 * torch.ones(3)).features())


# --- the CVAE ---


def test_kl_is_that_of_two_gaussians() -> None:
    rng = seeded()
    q, p = (Gaussian(torch.randn(7, 3, generator=rng), torch.randn(7, 3, generator=rng)) for _ in range(2))
    reference = kl_divergence(
        Normal(q.mean, (0.5 * q.log_variance).exp()), Normal(p.mean, (0.5 * p.log_variance).exp())
    ).sum(-1)
    torch.testing.assert_close(q.kl(p), reference)
    torch.testing.assert_close(q.kl(q), torch.zeros(7))


def objective(size: int, **settings: object) -> SGObjective:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SGObjective(SGNetwork(size, SGConfig(latent_size=3, hidden_size=16, **settings)), 1.0)


def test_a_perfect_reconstruction_scores_zero_and_the_batch_mean_does_not() -> None:
    # An untrained residual decoder returns μ*, so the mean of the condition is the reconstruction.
    x = torch.randn(4, 5, generator=seeded())
    network = objective(5, decoder="residual")
    assert network.loss(SGBatch(x, Mixture(x, torch.ones_like(x))))["reconstruction"] == 0
    averaged = x.mean(0).expand_as(x)
    loss = network.loss(SGBatch(x, Mixture(averaged, torch.ones_like(x))))["reconstruction"]
    torch.testing.assert_close(loss, (x - averaged).square().sum(1).mean())


def test_the_prior_is_learned_and_depends_on_the_condition() -> None:
    x = torch.randn(8, 5, generator=seeded())
    network = objective(5, decoder="direct")
    network.loss(SGBatch(x, Mixture(x, torch.ones_like(x))))["kl"].backward()
    gradients = [p.grad for p in network.network.prior.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    with torch.no_grad():
        priors = network.network.prior_of(Mixture(x, torch.ones_like(x)))
    assert priors.mean.std(0).min() > 1e-4


def test_both_decoders_read_latent_and_condition() -> None:
    for decoder in ("direct", "residual"):
        network = objective(5, decoder=decoder).network
        torch.nn.init.normal_(network.decoder[-1].weight, generator=seeded())
        z, other_z = torch.zeros(3), torch.ones(3)
        one, other = Mixture(torch.zeros(5), torch.ones(5)), Mixture(torch.ones(5), torch.ones(5))
        assert not torch.equal(network.decode(z, one), network.decode(other_z, one))
        assert not torch.equal(network.decode(z, one), network.decode(z, other))


# --- training conditions ---


def one_hot_data(n: int = 6, points: int = 3) -> SGData:
    """Experts whose codes are unit vectors: the mean of a condition then shows the weight of each expert."""
    codes = torch.eye(n)
    embeddings = torch.nn.functional.normalize(torch.randn(n, 4, generator=seeded()), dim=1)
    library = SGLibrary(tuple("abcdefgh"[:n]), codes, torch.zeros(n, n), embeddings)
    samples = codes[:, None].expand(n, points, n)
    return SGData(library, tuple(e[None] for e in embeddings), samples, codec=None, frame=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.9])
def test_an_expert_never_serves_its_own_condition(dropout: float) -> None:
    config = SGConfig(top_k=3, expert_dropout=dropout)
    for batch in training_batches(one_hot_data(), config, steps=5, batch_size=32, rng=seeded()):
        own = (batch.condition.mean * batch.x).sum(1)
        assert own.abs().max() == 0
        torch.testing.assert_close(batch.condition.mean.sum(1), torch.ones(32))
        assert ((batch.condition.mean > 0).sum(1) == 3).all()


def test_with_leave_one_out_off_the_own_expert_leads() -> None:
    config = SGConfig(top_k=3, expert_dropout=0.0, leave_one_out=False)
    (batch,) = training_batches(one_hot_data(), config, steps=1, batch_size=64, rng=seeded())
    assert torch.equal(batch.condition.mean.argmax(1), batch.x.argmax(1))


def test_expert_dropout_gives_one_task_many_conditions() -> None:
    def conditions(dropout: float) -> int:
        config = SGConfig(top_k=2, expert_dropout=dropout)
        (batch,) = training_batches(one_hot_data(), config, steps=1, batch_size=256, rng=seeded())
        return len({tuple(row.tolist()) for row in batch.condition.mean})

    assert conditions(0.0) == 6  # one a task
    assert conditions(0.3) > 20


def test_weights_are_a_softmax_over_the_k_nearest() -> None:
    library = one_hot_data(4).library
    similarities = torch.tensor([[0.9, 0.1, 0.5, float("-inf")]])
    weights = library.weights(similarities, top_k=2, temperature=0.1)
    expected = torch.softmax(torch.tensor([9.0, 5.0]), 0)
    torch.testing.assert_close(weights, torch.tensor([[expected[0], 0.0, expected[1], 0.0]]))


# --- the trained generator ---


def test_training_lowers_the_loss_and_learns_more_than_the_mixture(trained, tiny_zoo, encoder, train_config) -> None:
    generator, history = trained
    early = sum(row["loss"] for row in history[:10]) / 10
    late = sum(row["loss"] for row in history[-10:]) / 10
    assert late < 0.8 * early
    assert len(history) == train_config.steps
    data = read_experts(tiny_zoo.select(splits={"experts"}), encoder, components=6)
    (batch,) = training_batches(data, train_config.sg, steps=1, batch_size=256, rng=seeded(9))
    posterior = generator.network.posterior_of(batch.x, batch.condition)
    error = (generator.network.decode(posterior.mean, batch.condition) - batch.x).square().sum(1).mean()
    of_mixture = (batch.condition.mean - batch.x).square().sum(1).mean()
    assert error < 0.7 * of_mixture


def test_same_seed_same_adapter_other_seed_another(trained, encoder) -> None:
    generator, _ = trained
    first, again, other = (generator.generate(condition(encoder), rng=seeded(seed))[0].adapter for seed in (0, 0, 1))
    for site in first.sites:
        assert torch.equal(first.delta_weight(site), again.delta_weight(site))
    assert any(not torch.equal(first.delta_weight(site), other.delta_weight(site)) for site in first.sites)


def test_samples_differ_and_the_prior_mean_does_not(trained, encoder) -> None:
    generator, _ = trained
    drawn = generator.generate(condition(encoder), rng=seeded(), num_samples=2)
    site = drawn[0].adapter.sites[0]
    assert not torch.equal(drawn[0].adapter.delta_weight(site), drawn[1].adapter.delta_weight(site))
    still = generator.manifest.model_copy(update={"config": generator.config.model_copy(update={"prior_scale": 0.0})})
    means = dataclasses.replace(generator, manifest=still).generate(condition(encoder), rng=seeded(), num_samples=2)
    assert torch.equal(means[0].adapter.delta_weight(site), means[1].adapter.delta_weight(site))


def test_neighbours_are_the_nearest_experts_and_respect_exclusion(trained, encoder) -> None:
    generator, _ = trained
    asked = condition(encoder)
    neighbours = generator.neighbours(asked)
    similarity = generator.library.embeddings @ asked.embedding
    best = [generator.library.ids[i] for i in similarity.argsort(descending=True)[:2]]
    assert [n.id for n in neighbours] == best
    assert sum(n.weight for n in neighbours) == pytest.approx(1)
    without = dataclasses.replace(generator, exclude=frozenset(best)).neighbours(asked)
    assert not {n.id for n in without} & set(best)


@pytest.mark.parametrize("eight_bits", [False, True])
def test_saved_and_loaded_it_generates_the_same_from_its_own_folder_alone(
    eight_bits, trained, encoder, tmp_path
) -> None:
    generator, _ = trained
    if eight_bits:
        generator = dataclasses.replace(generator, codec=generator.codec.in_eight_bits())
    for name, content in generator.files().items():
        atomic_write(tmp_path / "sg" / name, content)
    loaded = SG.load(tmp_path / "sg")  # no zoo, no expert and no data of any task is within reach here
    one, two = (g.generate(condition(encoder), rng=seeded())[0].adapter for g in (generator, loaded))
    assert one.spec == two.spec
    for site in one.sites:
        assert torch.equal(one.delta_weight(site), two.delta_weight(site))


@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_a_damaged_generator_is_refused(trained, tmp_path, damage: str) -> None:
    for name, content in trained[0].files().items():
        atomic_write(tmp_path / name, content)
    tensors = tmp_path / "generator.safetensors"
    match damage:
        case "missing":
            tensors.unlink()
        case "truncated":
            tensors.write_bytes(tensors.read_bytes()[:-10])
        case "other":
            manifest = tmp_path / "generator.yaml"
            manifest.write_text(manifest.read_text().replace("hidden_size: 32", "hidden_size: 33"))
    with pytest.raises(GeneratorError, match="train it again"):
        SG.load(tmp_path)


def test_training_is_deterministic(trained, tiny_zoo, encoder, train_config) -> None:
    again, history = fit_sg(train_config, tiny_zoo.select(splits={"experts"}), encoder)
    assert history == trained[1]
    for one, two in zip(trained[0].network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_one_expert_alone_has_no_others_to_be_told_by(tiny_zoo, tmp_path):
    (name, *_) = tiny_zoo.ids
    alone = tiny_zoo.select(without=set(tiny_zoo.ids) - {name})
    config = SGTrainConfig(generator="sg", zoo=alone.root, encoder="unread", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="one expert alone"):
        fit_sg(config, alone, None)
