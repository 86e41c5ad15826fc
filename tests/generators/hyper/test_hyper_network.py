"""The hypernetwork itself: its start, basis and gates."""

import pytest
import torch
from hyper_toys import moved, seeded
from torch import Tensor

from loragen.errors import ConfigError
from loragen.generators.hyper.model import HyperConfig, HyperNetwork
from loragen.generators.trained import compact, network_tensors

WIDTH, SIZES, N, M = 6, (4, 7), 5, 3
QUERY = torch.randn(4, WIDTH, generator=seeded(1))
OFFSETS = torch.randn(N, sum(SIZES), generator=seeded(3)) * torch.tensor([1.0] * 4 + [20.0] * 7)
START = torch.randn(sum(SIZES), generator=seeded(4))
EVERY = torch.ones(4, dtype=torch.bool)


def network(**values: object) -> HyperNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = HyperNetwork(WIDTH, SIZES, HyperConfig(**{"basis_size": M, "hidden_size": 8} | values))
    net.begin(OFFSETS, START)
    return net.eval()


def rows_of(net: HyperNetwork) -> list[Tensor]:
    """V of each site."""
    scales = net.scales.reshape(len(SIZES), -1)
    return [s[:, None] * part for s, part in zip(scales, net.basis.detach().split(SIZES, 1), strict=True)]


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("present", [EVERY, ~EVERY])
@torch.no_grad()
def test_before_training_every_task_gets_the_start(present: Tensor, gated: bool) -> None:
    for start in (START, 2 * START):
        torch.testing.assert_close(network(gated=gated).coordinates(QUERY, present, start), start)


@torch.no_grad()
def test_the_basis_begins_where_the_experts_differ_most_from_the_start() -> None:
    for rows, part in zip(rows_of(network()), OFFSETS.split(SIZES, 1), strict=True):
        codes = part @ torch.linalg.pinv(rows)
        torch.testing.assert_close(codes.square().mean(0), torch.ones(M), rtol=1e-4, atol=0)
        most = torch.linalg.svdvals(part)[:M].square().sum()
        torch.testing.assert_close((codes @ rows).square().sum(), most, rtol=1e-4, atol=0)
        torch.testing.assert_close(rows @ rows.T, torch.diag(rows.square().sum(1)), rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_without_a_start_it_begins_at_the_mean_of_the_experts() -> None:
    net, mean = network(residual=False), START + OFFSETS.mean(0)
    for start in (START, 0 * START):
        torch.testing.assert_close(net.coordinates(QUERY, EVERY, start), mean)
    for rows, part, middle in zip(rows_of(net), OFFSETS.split(SIZES, 1), mean.split(SIZES), strict=True):
        torch.testing.assert_close(rows[0], middle)
        codes = (part - part.mean(0)) @ torch.linalg.pinv(rows[1:])
        torch.testing.assert_close(codes.square().mean(0), torch.ones(M - 1), rtol=1e-4, atol=0)
    assert net.gates is None


@torch.no_grad()
def test_without_a_start_none_is_added_to() -> None:
    net = moved(network(residual=False))
    one, other = (net.coordinates(QUERY, EVERY, start) for start in (START, 9 * START))
    assert torch.equal(one, other)


@pytest.mark.parametrize("gated", [True, False])
@torch.no_grad()
def test_one_gate_a_site_scales_the_start_alone(gated: bool) -> None:
    net = moved(network(gated=gated))
    ungated = network(gated=False)
    ungated.load_state_dict(net.state_dict(), strict=not gated)
    gates = []
    for query in (QUERY, -QUERY):
        with_none = net.coordinates(query, EVERY, 0 * START)
        assert with_none.abs().max() > 0.1
        torch.testing.assert_close(with_none, ungated.coordinates(query, EVERY, 0 * START))
        added = (net.coordinates(query, EVERY, START) - with_none) / START
        for part in added.split(SIZES):
            torch.testing.assert_close(part, part[0].expand_as(part), rtol=1e-3, atol=1e-3)
            gates.append(part[0])
    if gated:
        assert all(0 < gate < 2 for gate in gates)
        assert torch.pdist(torch.stack(gates)[:, None]).min() > 1e-3, "a gate a site and a query"
    else:
        torch.testing.assert_close(torch.stack(gates), torch.ones(4), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_what_is_made_lies_in_the_span_of_the_basis_and_a_site_has_coefficients_of_its_own() -> None:
    net = moved(network())
    codes = []
    for query in (QUERY, -QUERY):
        made = net.coordinates(query, EVERY, 0 * START).split(SIZES)
        found = [part @ torch.linalg.pinv(rows) for part, rows in zip(made, rows_of(net), strict=True)]
        for part, code, rows in zip(made, found, rows_of(net), strict=True):
            torch.testing.assert_close(code @ rows, part, rtol=1e-3, atol=1e-3)
        codes += found
    assert torch.pdist(torch.stack(codes)).min() > 0.01


@torch.no_grad()
def test_what_is_absent_does_not_matter_but_that_it_is_absent_does() -> None:
    net, present = moved(network()), torch.tensor([True, False, True, False])
    query = QUERY.clone()
    query[~present] *= 100
    one, other = (net.coordinates(q, present, START) for q in (QUERY, query))
    torch.testing.assert_close(one, other)
    query[~present] = 0
    assert (one - net.coordinates(query, EVERY, START)).abs().max() > 0.01


@torch.no_grad()
def test_many_are_made_as_one_is() -> None:
    net = moved(network())
    queries = torch.randn(3, 4, WIDTH, generator=seeded(5))
    present = torch.rand(3, 4, generator=seeded(6)) > 0.4
    singly = torch.stack([net.coordinates(q, p, START) for q, p in zip(queries, present, strict=True)])
    torch.testing.assert_close(net.coordinates(queries, present, START), singly)


@pytest.mark.parametrize(("size", "most"), [(6, 4), (5, 4)])
def test_a_basis_of_more_directions_than_there_are_is_refused(size: int, most: int) -> None:
    with pytest.raises(ConfigError, match=f"basis of {size} .* 5 experts of 4 coordinates .* at most {most}; set"):
        network(basis_size=size)
    with pytest.raises(ConfigError, match=r"2 experts .* at most 2; set"):
        HyperNetwork(WIDTH, SIZES, HyperConfig(basis_size=3)).begin(OFFSETS[:2], START)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("present", [EVERY, ~EVERY])
def test_gradients_are_finite_where_experts_are_alike(present: Tensor, residual: bool) -> None:
    net = HyperNetwork(WIDTH, SIZES, HyperConfig(basis_size=M, residual=residual))
    net.begin(0 * OFFSETS, 0 * START)
    made = net.coordinates(QUERY, present, START)
    made.square().sum().backward()
    assert made.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_its_folder_is_small_at_the_size_of_the_shipped_zoo() -> None:
    net = HyperNetwork(384, (1536,) * 12, HyperConfig())
    assert sum(t.nbytes for t in compact(network_tensors(net)).values()) < 2_000_000
