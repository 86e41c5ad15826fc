"""ALLoRA: gradients of the factors scaled by row, and of nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loragen.recipes.expert import Start
from loragen.recipes.methods.allora import ALLoRA, ScaledFactors, ScaledUpdate, row_scales


def drawn(*, out=7, inside=5, r=3, seed=0, size=1.0, of_b=1.0):
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    x, a, b, g = normal(2, 4, inside), size * normal(r, inside), of_b * normal(out, r), normal(2, 4, out)
    return x.requires_grad_(), a.requires_grad_(), b.requires_grad_(), g


def gradients(y, g, *inputs):
    return torch.autograd.grad(y, inputs, grad_outputs=g)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 100), st.sampled_from([0.0, 1e-6, 1.0, 100.0]))
def test_row_scales_are_those_of_the_whole_product(seed, eta, of_b):
    _, a, b, _ = drawn(seed=seed, of_b=of_b)
    wanted = 1 / ((b @ a).norm(dim=1) + 1 / eta**2).sqrt()
    torch.testing.assert_close(row_scales(a, b, eta), wanted, rtol=1e-5, atol=0)


def test_the_scale_is_eta_where_b_is_zero_and_less_elsewhere():
    _, a, b, _ = drawn()
    b = torch.cat([torch.zeros(1, 3, dtype=torch.float64), b.detach()])
    scales = row_scales(a, b, 4.0).detach()
    assert float(scales[0]) == pytest.approx(4.0)
    assert (scales[1:] < 4.0).all()


def test_outputs_and_the_gradient_of_the_input_are_plain_lora_s():
    x, a, b, g = drawn()
    ours, plain = ScaledUpdate(a, b, row_scales(a, b, 4.0).detach())(x), x @ a.T @ b.T
    assert torch.equal(ours, plain)
    assert torch.equal(gradients(ours, g, x)[0], gradients(plain, g, x)[0])


def test_gradients_of_the_factors_are_those_of_scaled_rows():
    x, a, b, g = drawn(seed=3)
    s = row_scales(a, b, 2.0).detach()
    of_a, of_b = gradients(ScaledUpdate(a, b, s)(x), g, a, b)
    plain_a, plain_b = gradients(x @ a.T @ b.T, g, a, b)
    rows, flat = g.flatten(0, 1).T, x.flatten(0, 1).T  # G (out, n) and x (in, n)
    torch.testing.assert_close(of_a, b.T @ torch.diag(s) @ rows @ flat.T)
    torch.testing.assert_close(of_b, torch.diag(s) @ rows @ (a @ flat).T)
    torch.testing.assert_close(of_b / plain_b, s[:, None].expand_as(of_b))
    assert not torch.allclose(of_a, plain_a)


def test_they_are_those_of_dense_autograd_on_a_scaled_delta():
    x, a, b, g = drawn(seed=4)
    s = row_scales(a, b, 2.0).detach()
    delta = (b @ a).detach().requires_grad_()
    (of_delta,) = gradients(x @ delta.T, g, delta)
    wanted = gradients(b @ a, s[:, None] * of_delta, a, b)
    for met, want in zip(gradients(ScaledUpdate(a, b, s)(x), g, a, b), wanted, strict=True):
        torch.testing.assert_close(met, want)


def test_with_equal_scales_gradcheck_passes():
    x, a, b, _ = drawn()
    ones = torch.ones(7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *parts: ScaledUpdate(*parts[1:], ones)(parts[0]), (x, a, b))


def test_over_a_whole_model_only_the_sites_own_gradients_change(base, task):
    sites = base.sites(("query", "value"))
    rng = torch.Generator().manual_seed(0)
    start = Start.random(sites, 3, rng=rng)
    start = Start(start.lora_A, {site: 0.3 * torch.randn(b.shape, generator=rng) for site, b in start.lora_B.items()})
    trainee = ScaledFactors(start, eta=3.0)
    data = base.prepare(task.load_train(), max_length=32).first(16)
    own = [*trainee.free.lora_A, *trainee.free.lora_B]
    found = {}
    for name, updates in (("ours", trainee.updates()), ("plain", trainee.factors())):
        with base.using(updates):
            loss = base.losses(data, contrast_weight=0.0)["loss"]
        found[name] = loss.detach(), torch.autograd.grad(loss, own)
    torch.testing.assert_close(found["ours"][0], found["plain"][0])
    pairs = zip(trainee.free.lora_A, trainee.free.lora_B, strict=True)
    scales = [row_scales(a.detach(), b.detach(), 3.0) for a, b in pairs]
    assert len({round(float(one), 4) for each in scales for one in each}) > 10
    for s, met, plain in zip(scales, found["ours"][1][len(scales) :], found["plain"][1][len(scales) :], strict=True):
        torch.testing.assert_close(met, s[:, None] * plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, -1.0, 1e9])
def test_eta_has_bounds(eta):
    with pytest.raises(ValueError, match="eta"):
        ALLoRA(eta=eta)
