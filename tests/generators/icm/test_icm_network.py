"""The network and the objective of ICM-LoRA, and settings that do not fit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from icm_toys import seeded
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from loragen.errors import ConfigError
from loragen.generators.icm.episodes import ICMTrainConfig
from loragen.generators.icm.model import ICMBatch, ICMConfig, ICMNetwork, ICMObjective
from loragen.generators.trained import Gaussian

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
