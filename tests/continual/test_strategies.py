"""The algebra that strategies promise, on networks small enough to check by hand."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from loragen.continual.registry import ROWS, row_of, strategy_of
from loragen.continual.session import Session, UpdateBatch, UpdateObjective
from loragen.continual.stages import StagedLinear, StagesFile, strength
from loragen.continual.strategies.ilora import SlowMemory
from loragen.continual.strategies.nullspace import protected_inputs
from loragen.continual.strategies.pulled import fisher
from loragen.continual.strategies.replay import buffered
from loragen.continual.strategies.stages import FILE, Stages
from loragen.continual.strategy import reservoir
from loragen.errors import ConfigError
from loragen.generators.learner import Learner
from loragen.training.devices import ONE_DEVICE
from loragen.training.objective import Objective
from loragen.training.schedule import Schedule

SIZE = 6


class Pair:
    """Inputs and what is wanted of them."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def to(self, device):
        return Pair(self.x.to(device), self.y.to(device))


class Squares(Objective):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def loss(self, batch):
        return {"loss": (self.network(batch.x) - batch.y).square().mean()}


def learner_of(*, epochs=4, seen=(0, 1, 2, 3), unseen=(4, 5), errors=None, rank_of_old=2):
    """A linear network of two layers that was right on old inputs, which lie in a plane; new ones lie elsewhere."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh(), nn.Linear(SIZE, SIZE))
    plane = torch.linalg.qr(torch.randn(SIZE, rank_of_old)).Q.T
    old = torch.randn(20, rank_of_old) @ plane
    with torch.no_grad():
        answers = network(old)

    def draw(rows, rng):
        x = torch.randn(5, 8, SIZE, generator=rng)
        return [Pair(one, one.roll(1, 1) * (1 + 0.1 * rows[0])) for one in x]

    def imagine(rng, noise):
        at = [torch.randint(20, (8,), generator=rng) for _ in range(5)]
        return [Pair(old[i], answers[i] + noise * torch.randn(8, SIZE, generator=rng)) for i in at]

    objective = Squares(network)
    learner = Learner(
        network=network,
        objective=objective,
        imitation=objective,
        unseen=unseen,
        seen=seen,
        draw=draw,
        imagine=imagine,
        errors=errors or (lambda rows: torch.ones(len(rows))),
        bytes_of_one=100,
        schedule=Schedule(epochs, 5, 1e-2, weight_decay=0.1),
        seed=3,
        devices=ONE_DEVICE,
    )
    return learner, old


def run(name, learner, kept=(), **options):
    strategy = strategy_of(name, options)
    assert strategy is not None
    begun = strategy.begin(learner, dict(kept))
    begun.session.fit()
    return begun


def weights(network):
    return {
        name: layer.weight.detach().clone() for name, layer in network.named_modules() if isinstance(layer, nn.Linear)
    }


def test_the_slow_memory_is_the_closed_form_of_an_exponential_mean():
    network = nn.Linear(1, 1, bias=False)
    objective = Squares(network)
    nn.init.constant_(network.weight, 1.0)
    memory = SlowMemory(SimpleNamespace(objective=objective, network=network), alpha=0.75)
    slow = 1.0
    for step, value in enumerate((2.0, -1.0, 4.0, 0.5, 3.0), 1):
        nn.init.constant_(network.weight, value)
        memory.follow()
        inertia = min(1 - 1 / (step + 1), 0.75)
        slow = inertia * slow + (1 - inertia) * value
    assert float(memory.network.weight) == pytest.approx(slow, abs=1e-6)
    memory.recall()
    assert float(network.weight.detach()) == pytest.approx(slow, abs=1e-6)


def test_the_slow_memory_draws_to_the_larger_of_both():
    network = nn.Linear(1, 1, bias=False)
    objective = Squares(network)
    nn.init.constant_(network.weight, 1.0)
    memory = SlowMemory(SimpleNamespace(objective=objective, network=network), alpha=0.5)
    nn.init.constant_(network.weight, 3.0)
    x = torch.tensor([[2.0], [-2.0]])  # fast gives 6 and -6, slow 2 and -2: the larger are 6 and -2
    assert float(memory.difference(Pair(x, x)).detach()) == pytest.approx((0 + 16) / 2)


def test_what_osf_protects_stays():
    learner, _ = learner_of()
    before = weights(learner.network)
    run("osf", learner, share=0.5)
    after = weights(learner.network)
    for name, weight in before.items():
        change = after[name] - weight
        u, _, v = torch.linalg.svd(weight)
        assert float(change.norm()) > 1e-3
        assert float((u[:, :3].T @ change @ v[:3].T).norm()) <= 1e-4 * float(change.norm())
    assert all(isinstance(learner.network[at], nn.Linear) for at in (0, 2)), "plain layers again"
    assert all(type(learner.network[at]) is nn.Linear for at in (0, 2))


def test_the_null_space_keeps_what_layers_give_for_old_inputs():
    learner, old = learner_of()
    first = learner.network[0]
    with torch.no_grad():
        before, elsewhere = first(old), first(torch.eye(SIZE))
    protected = protected_inputs(learner, 1.0)
    assert protected["0"].shape == (SIZE, 2)
    run("nullspace", learner, energy=1.0)
    with torch.no_grad():
        assert torch.allclose(first(old), before, rtol=1e-4, atol=1e-4 * float(before.norm()))
        assert not torch.allclose(first(torch.eye(SIZE)), elsewhere, atol=1e-2), "and yet it has learnt"


def test_fisher_is_larger_where_old_inputs_are():
    learner, old = learner_of(rank_of_old=1)
    found = fisher(learner, 20)
    mean = sum(float(value.sum()) for value in found.values()) / sum(value.numel() for value in found.values())
    assert mean == pytest.approx(1, abs=1e-4)
    direction = old[0] / old[0].norm()
    by_input = found["0.weight"].mean(0)
    assert int(by_input.argmax()) == int(direction.abs().argmax())


@pytest.mark.parametrize(("budget", "number"), [(250, 2), (399, 3), (10_000, 4)])
def test_a_buffer_keeps_to_its_bytes(budget, number):
    learner, _ = learner_of()
    rows = buffered(learner, budget)
    assert len(rows) == number
    assert set(rows) <= set(learner.seen)


def test_a_buffer_of_nothing_is_refused():
    learner, _ = learner_of()
    with pytest.raises(ConfigError, match="holds no expert"):
        buffered(learner, 99)
    learner, _ = learner_of(seen=())
    with pytest.raises(ConfigError, match="no expert that the generator has seen"):
        buffered(learner, 10_000)


@given(st.integers(1, 30), st.integers(1, 10))
def test_a_reservoir_holds_what_it_can(passed, capacity):
    rows = tuple(range(passed))
    kept = reservoir(rows, capacity, rng=torch.Generator().manual_seed(1))
    assert len(kept) == min(passed, capacity)
    assert len(set(kept)) == len(kept)
    assert set(kept) <= set(rows)


def test_every_row_is_as_likely_to_stay_in_a_reservoir():
    rng, counts = torch.Generator().manual_seed(2), torch.zeros(6)
    for _ in range(2000):
        for row in reservoir(tuple(range(6)), 2, rng=rng):
            counts[row] += 1
    assert torch.allclose(counts / 2000, torch.full((6,), 1 / 3), atol=0.05)


def solved_after(epochs):
    """Errors of two tasks, both solved once they were looked at so often."""
    looked = iter(range(1000))

    def errors(rows):
        return torch.full((len(rows),), 1.0 if next(looked) < epochs else 0.1)

    return errors


def test_no_stage_is_opened_where_all_is_solved():
    learner, _ = learner_of(errors=lambda rows: torch.zeros(len(rows)))
    before = weights(learner.network)
    begun = run("stages", learner)
    assert all(torch.equal(before[name], value) for name, value in weights(learner.network).items())
    assert all(not factors for factors in StagesFile.from_bytes(begun.files[FILE]).factors.values())


@pytest.mark.parametrize(
    ("errors", "patience", "stages"),
    [
        (lambda rows: torch.ones(len(rows)), 100, 1),  # nothing is solved, and time is not up
        (lambda rows: torch.ones(len(rows)), 2, 2),  # time is up
        (solved_after(3), 100, 1),  # all is solved: no further one is wanted
    ],
)
def test_the_next_stage_waits_for_its_trigger(errors, patience, stages):
    learner, _ = learner_of(errors=errors)
    begun = run("stages", learner, most=2, patience=patience, rank=2)
    found = StagesFile.from_bytes(begun.files[FILE])
    assert {len(factors) for factors in found.factors.values()} == {stages}


def test_half_of_the_tasks_solved_open_the_next_stage():
    looked = iter(range(1000))

    def errors(rows):  # one of two is solved from the third look on
        late = next(looked) >= 2
        return torch.tensor([0.1 if late and row == rows[0] else 1.0 for row in rows])

    learner, _ = learner_of(errors=errors)
    begun = run("stages", learner, most=2, patience=100, rank=2)
    assert {len(one) for one in StagesFile.from_bytes(begun.files[FILE]).factors.values()} == {2}


def test_earlier_updates_can_be_had_again_to_the_bit():
    learner, _ = learner_of()
    first = run("stages", learner, most=1, rank=2)
    then = weights(learner.network)
    second = run("stages", learner, kept=first.files.items(), most=1, rank=2)
    now = weights(learner.network)
    found = StagesFile.from_bytes(second.files[FILE])
    assert all(torch.equal(value, then[name]) for name, value in found.weights_at(0).items())
    assert all(torch.equal(value, now[name]) for name, value in found.weights_at(1).items())
    assert any(not torch.equal(then[name], now[name]) for name in then)
    kept = StagesFile.from_bytes(first.files[FILE]).factors
    assert all(torch.equal(kept[name][0][at], found.factors[name][0][at]) for name in kept for at in (0, 1))


def test_a_staged_layer_is_its_formula():
    torch.manual_seed(0)
    weight, factors = torch.randn(3, 4), [(torch.randn(2, 4), torch.randn(3, 2)) for _ in range(2)]
    layer = StagedLinear(weight, torch.ones(3), factors, 2)
    with torch.no_grad():
        layer.logits.copy_(torch.tensor([0.3, -2.0, 9.0]))
    (a1, b1), (a2, b2) = factors
    wanted = strength(torch.tensor(0.3)) * weight + strength(torch.tensor(-2.0)) * (b1 @ a1) + b2 @ a2
    x = torch.randn(5, 4)
    assert torch.allclose(layer(x), x @ wanted.T + 1, atol=1e-6)
    assert 0.8 <= float(strength(torch.tensor(-50.0))) <= 0.8 + 1e-6


def test_only_the_newest_stage_and_strengths_are_trained():
    layer = StagedLinear(torch.randn(3, 4), None, [(torch.randn(2, 4), torch.randn(3, 2)) for _ in range(3)], 2)
    layer(torch.randn(5, 4)).square().sum().backward()
    assert layer.lora_A[0].grad is None
    assert layer.lora_A[1].grad is not None
    assert layer.lora_A[2].grad is None
    assert layer.logits.grad[:2].abs().min() > 0
    assert layer.logits.grad[2:].abs().max() == 0


def test_distillation_forgets_less_than_going_on_alone():
    lost = {}
    for name in ("naive", "distill", "l2+distill"):
        learner, old = learner_of(epochs=10)
        with torch.no_grad():
            before = learner.network(old)
        run(name, learner)
        with torch.no_grad():
            lost[name] = float((learner.network(old) - before).square().mean())
    assert max(lost["distill"], lost["l2+distill"]) < 0.75 * lost["naive"]


def test_the_parts_of_the_loss_add_up():
    learner, _ = learner_of()
    rng = torch.Generator().manual_seed(0)
    new, old = learner.draw((4,), rng)[0], learner.imagine(rng, 0.0)[0]
    session = Session(learner, imitates=True, weight=2.0, penalty=lambda: torch.tensor(0.5))
    with torch.no_grad():
        losses = UpdateObjective(session).loss(UpdateBatch(new, old))
        alone = float(learner.objective.loss(old)["loss"])
    assert float(losses["penalty"]) == 0.5
    assert float(losses["old"]) == pytest.approx(2 * alone)
    assert float(losses["loss"]) == pytest.approx(sum(float(losses[name]) for name in ("new", "old", "penalty")))


def test_rows_name_their_settings():
    for row in ROWS:
        if row.settings is not None:
            assert row.settings.model_fields["name"].default == row.name
        assert row_of(row.name) is row
        assert row.needs in ("experts", "descriptions", "nothing")
    with pytest.raises(ConfigError, match="has no options"):
        strategy_of("joint", {"weight": 1})
    assert isinstance(strategy_of("stages", {}), Stages)
