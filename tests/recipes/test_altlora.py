"""AltLoRA: steps that do not depend on how an update is split into factors, and stable ones from B = 0."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loragen.recipes.alt_optimizer import AltLoRA
from loragen.recipes.expert import Start
from loragen.recipes.methods.altlora import AltLoRARecipe, train_altlora
from loragen.recipes.setting import Setting


def problem(seed, *, out=9, inside=8, r=3):
    """Factors, another split of their product, and a loss of the product."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    a, b, target, mix = normal(r, inside), normal(out, r), normal(out, inside), normal(r, r)
    m = mix @ mix.T + 0.5 * torch.eye(r, dtype=torch.float64) + 0.3 * normal(r, r).tril(-1)

    def loss(product):
        return ((product - target) ** 2).mean() + 0.1 * product.sin().mean()

    return a, b, m, loss


def after(optimizer_of, a, b, loss, steps=1):
    """B A after some steps."""
    a, b = nn.Parameter(a.clone()), nn.Parameter(b.clone())
    optimizer = optimizer_of(a, b)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(b @ a).backward()
        optimizer.step()
    return (b @ a).detach()


def altlora(**options):
    return lambda a, b: AltLoRA([(a, b)], lr=0.05, **options)


def adamw(a, b):
    return torch.optim.AdamW([a, b], lr=0.05)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 6]))
def test_the_split_into_factors_does_not_matter(seed, steps):
    a, b, m, loss = problem(seed)
    optimizer_of = altlora(damping=0.0)
    one, other = (after(optimizer_of, *pair, loss, steps) for pair in ((a, b), (m @ a, b @ torch.linalg.inv(m))))
    assert (one - b @ a).abs().max() > 1e-4
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("optimizer_of", [adamw, altlora(damping=0.0, second_moment=True)], ids=["AdamW", "AltLoRA+"])
def test_to_those_that_work_by_entries_it_does(optimizer_of):
    a, b, m, loss = problem(1)
    one, other = (after(optimizer_of, *pair, loss) for pair in ((a, b), (m @ a, b @ torch.linalg.inv(m))))
    assert (one - other).abs().max() > 1e-2


def test_two_steps_are_the_equations():
    a, b, _, loss = problem(2)
    lr, d, beta = 0.05, 1e-2, 0.7
    met = after(lambda x, y: AltLoRA([(x, y)], lr=lr, damping=d, betas=(beta, 0.9)), a, b, loss, steps=2)
    eye = torch.eye(3, dtype=torch.float64)
    m_a, m_b, old_b = torch.zeros_like(a), torch.zeros_like(b), b
    for _ in range(2):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        g_a, g_b = torch.autograd.grad(loss(y @ x), (x, y))
        p_b = torch.linalg.inv(b.T @ b + d * eye)
        m_a = beta * p_b @ b.T @ old_b @ m_a + (1 - beta) * p_b @ g_a
        new_a = a - lr * m_a
        p_a = torch.linalg.inv(new_a @ new_a.T + d * eye)
        m_b = beta * m_b @ a @ new_a.T @ p_a + (1 - beta) * g_b @ p_a
        old_b, a, b = b, new_a, b - lr * m_b
    torch.testing.assert_close(met, b @ a)


def test_the_second_moment_is_adam_s_of_the_preconditioned_gradient():
    a, b, _, loss = problem(3)
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    g_a, g_b = torch.autograd.grad(loss(y @ x), (x, y))
    eye = torch.eye(3, dtype=torch.float64)
    lr = 0.05
    new_a = a - lr * (torch.linalg.inv(b.T @ b + 1e-3 * eye) @ g_a).sign()  # Adam's first step is the sign
    new_b = b - lr * (g_b @ torch.linalg.inv(new_a @ new_a.T + 1e-3 * eye)).sign()
    torch.testing.assert_close(after(altlora(second_moment=True), a, b, loss), new_b @ new_a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("second_moment", [False, True])
def test_from_a_zero_b_the_first_step_is_b_s_and_all_stay_small(second_moment):
    rng = torch.Generator().manual_seed(0)
    a = nn.Parameter(torch.linalg.qr(torch.randn(8, 3, generator=rng))[0].T.contiguous())
    b, start = nn.Parameter(torch.zeros(9, 3)), a.detach().clone()
    lr, d = 0.1, 1e-3
    optimizer = AltLoRA([(a, b)], lr=lr, damping=d, second_moment=second_moment)
    for number in range(30):
        gradient = torch.randn(9, 8, generator=rng)
        before = a.detach().clone()
        a.grad, b.grad = b.detach().T @ gradient, gradient @ a.detach().T
        optimizer.step()
        if number == 0:
            assert torch.equal(a, start)
            assert b.abs().max() > 0
        # |(BᵀB + dI)⁻¹ Bᵀ G| ≤ |G| / (2 √d), and what is carried over of the momentum does not grow
        bound = 4 * lr * a.numel() ** 0.5 if second_moment else 1.5 * lr * 9 / (2 * d**0.5)
        assert (a - before).norm() < bound
        assert torch.isfinite(a).all()
        assert torch.isfinite(b).all()


def test_a_pair_without_gradients_stays_and_a_closure_is_called():
    a, b, _, _ = problem(0)
    pairs = [(nn.Parameter(a.clone()), nn.Parameter(b.clone())) for _ in range(2)]

    def closure():
        loss = (pairs[0][1] @ pairs[0][0]).square().sum()
        loss.backward()
        return loss.item()

    assert (AltLoRA(pairs, lr=0.1).step(closure) or 0) > 0
    assert not torch.equal(pairs[0][0], a)
    assert torch.equal(pairs[1][0], a)


def test_its_state_can_be_saved_and_restored():
    a, b, _, loss = problem(5)
    whole = after(altlora(), a, b, loss, steps=4)
    x, y = nn.Parameter(a.clone()), nn.Parameter(b.clone())
    optimizer = altlora()(x, y)
    for number in range(4):
        if number == 2:
            state = optimizer.state_dict()
            optimizer = altlora()(x, y)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        loss(y @ x).backward()
        optimizer.step()
    torch.testing.assert_close((y @ x).detach(), whole)


@pytest.mark.parametrize("options", [{}, {"second_moment": False, "learning_rate": 2.0}], ids=["AltLoRA+", "AltLoRA"])
def test_an_expert_is_trained_with_the_schedule_and_clipping(base, task, options, monkeypatch):
    from loragen.recipes import alt_optimizer

    seen = []
    step = alt_optimizer.AltLoRA._step

    def watched(self, group, *parts):
        seen.append((group["lr"], sum(float(g.square().sum()) for g in parts[2:])))
        step(self, group, *parts)

    monkeypatch.setattr(alt_optimizer.AltLoRA, "_step", watched)
    recipe = AltLoRARecipe(
        r=3, steps=20, batch_size=16, max_length=32, held_out=20, **({"learning_rate": 2e-2} | options)
    )
    start = Start.random(base.sites(("query", "value")), 3, rng=torch.Generator().manual_seed(0))
    setting = Setting.of(task, base, start, recipe)
    with torch.no_grad():
        before = base.held_out_loss(setting.held_out, contrast_weight=0.0)
    expert = train_altlora(setting, recipe)
    assert expert.held_out_losses[expert.steps] < 0.9 * before
    sites = len(start.lora_B)
    rates = [lr for lr, _ in seen[::sites]]
    assert len(rates) == 20
    assert rates[0] < rates[1] == max(rates)
    assert rates[-1] < 0.1 * rates[1]
    norms = [sum(square for _, square in seen[i * sites : (i + 1) * sites]) ** 0.5 for i in range(20)]
    assert max(norms) <= 1.0 + 1e-4
    assert any(not torch.equal(a, start.lora_A[site]) for site, a in expert.lora_A.items())
