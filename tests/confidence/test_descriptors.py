"""Auto-encoders of experts' texts: the closed form against training, distances against their definitions, files."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from loragen.confidence.descriptors import (
    DESCRIPTORS,
    Descriptor,
    Descriptors,
    distance,
    principal,
    squared_errors,
)
from loragen.errors import ZooError


def cloud(seed, n=60, d=12, shift=0.0):
    """Rows with a few strong directions; seeds give clouds of other places and directions."""
    of_cloud, of_rows = (torch.Generator().manual_seed(value) for value in (seed % 100, seed))
    axes = torch.randn(3, d, generator=of_cloud)
    centre = torch.randn(d, generator=of_cloud) + shift
    return centre + torch.randn(n, 3, generator=of_rows) @ axes + 0.2 * torch.randn(n, d, generator=of_rows)


def trained(rows, width, steps=400):
    """Error of a linear auto-encoder with biases that gradient descent has trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        down, up = torch.nn.Linear(rows.shape[1], width), torch.nn.Linear(width, rows.shape[1])
    optimizer = torch.optim.Adam([*down.parameters(), *up.parameters()], lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (up(down(rows)) - rows).square().sum(1).mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_principal_directions_are_what_a_linear_auto_encoder_learns():
    rows = cloud(1)
    best = float(squared_errors(rows, *principal(rows, 2)).mean())
    assert best <= trained(rows, 2) <= 1.02 * best
    assert best < 0.8 * float(squared_errors(rows, *principal(rows, 1)).mean())


def test_errors_are_distances_from_what_is_given_back():
    rows = cloud(2)
    centre, directions = principal(rows, 2)
    back = centre + (rows - centre) @ directions.T @ directions
    torch.testing.assert_close(squared_errors(rows, centre, directions), (rows - back).square().sum(1))
    torch.testing.assert_close(directions @ directions.T, torch.eye(2), atol=1e-5, rtol=0)


def test_errors_of_a_descriptor_are_those_of_texts_not_fitted_to():
    rows = cloud(3, n=24)
    made = Descriptor.fit(rows, components=8)
    seen = squared_errors(rows, made.centre, made.directions)
    one, other = rows[:12], rows[12:]
    unseen = torch.cat([squared_errors(b, *principal(a, 8)) for a, b in ((one, other), (other, one))])
    assert made.mean == pytest.approx(float(unseen.mean()))
    assert made.deviation == pytest.approx(float(unseen.std()))
    assert made.mean > 1.3 * float(seen.mean())


def test_the_distance_of_means_is_nothing_for_draws_of_the_same_texts_whatever_their_number():
    made = Descriptor.fit(cloud(4, n=400))
    for n in (5, 50):
        apart = [distance(cloud(4 + 100 * draw, n=n), made, "means") for draw in range(1, 200)]
        assert abs(sum(apart) / len(apart)) < (0.1 / n + 3 / 400) * made.spread  # the last is of the fit's own draw
        assert max(apart) > made.spread / n
    assert distance(cloud(104, n=50, shift=1.0), made, "means") == pytest.approx(12, rel=0.6)


def test_the_distance_of_errors_is_the_mean_z_score():
    made, rows = Descriptor.fit(cloud(5), components=2), cloud(105)
    z = [abs(float(e) - made.mean) / made.deviation for e in squared_errors(rows, made.centre, made.directions)]
    assert distance(rows, made, "errors") == pytest.approx(sum(z) / len(z), rel=1e-4)
    assert distance(cloud(6), made, "errors") > 5 * distance(rows, made, "errors")


FAMILIES = {"a": "x", "b": "x", "c": "y", "d": "z", "e": "u", "f": "v"}


@pytest.fixture(scope="module")
def made():
    seen = {name: cloud(at) for at, name in enumerate(FAMILIES, 10)}
    held_out = {name: cloud(100 + at, n=20) for at, name in enumerate(FAMILIES, 10)}
    return Descriptors.fit(seen, held_out, FAMILIES, "hash"), held_out


@pytest.mark.parametrize("rule", ["means", "errors"])
def test_own_and_left_out_distances_are_measured_on_held_out_texts(made, rule):
    descriptors, held_out = made
    for name, rows in held_out.items():
        each = {other: distance(rows, one, rule) for other, one in descriptors.of.items()}
        assert descriptors.own[rule][name] == min(each.values()) == each[name]
        others = [value for other, value in each.items() if FAMILIES[other] != FAMILIES[name]]
        assert descriptors.left_out[rule][name] == min(others)


@pytest.mark.parametrize("rule", ["means", "errors"])
def test_texts_of_an_expert_are_covered_and_those_of_none_are_new(made, rule):
    descriptors, _ = made
    covered = descriptors.coverage(cloud(213), tuple(FAMILIES), rule=rule)
    assert (covered.state, covered.nearest[0].id, covered.knows) == ("covered", "d", "texts")
    assert [one.value for one in covered.nearest] == sorted(one.value for one in covered.nearest)
    assert descriptors.coverage(cloud(1, shift=9.0), tuple(FAMILIES), rule=rule).state == "new"


def test_experts_that_are_gone_or_not_described_are_left_out(made):
    descriptors, _ = made
    few = descriptors.coverage(cloud(213), ("a", "b", "new"))
    assert {one.id for one in few.nearest} == {"a", "b"}
    assert few.undescribed == 1


def test_few_families_are_refused():
    rows = {name: cloud(at) for at, name in enumerate("abcde")}
    with pytest.raises(ZooError, match="of 4 families; at least 5"):
        Descriptors.fit(rows, rows, dict(zip("abcde", "xxyzu", strict=True)), "hash")


def test_they_are_read_back_as_they_were_written(made, tmp_path):
    descriptors, held_out = made
    descriptors.save(tmp_path)
    read = Descriptors.load(tmp_path)
    assert read.base_hash == "hash"
    assert list(read.of) == list(FAMILIES)
    for rule in ("means", "errors"):
        assert read.own[rule] == pytest.approx(descriptors.own[rule], rel=1e-5)
        assert read.left_out[rule] == pytest.approx(descriptors.left_out[rule], rel=1e-5)
        for name, rows in held_out.items():
            wanted = distance(rows, descriptors.of[name], rule)
            assert distance(rows, read.of[name], rule) == pytest.approx(wanted, rel=0.02, abs=0.05)


def test_a_zoo_without_them_says_how_to_make_them(tmp_path):
    with pytest.raises(ZooError, match="loragen zoo describe"):
        Descriptors.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors, metadata: tensors.pop("facts"),
        lambda tensors, metadata: tensors.update(own=torch.zeros(6, 3)),
        lambda tensors, metadata: tensors.update(directions=torch.zeros(6, 12)),
        lambda tensors, metadata: tensors.update(centres=torch.zeros(())),
        lambda tensors, metadata: metadata.update(of="["),
        lambda tensors, metadata: metadata.update(of=metadata["of"].replace('"b"', '"a"')),
        lambda tensors, metadata: metadata.update(of='{"a": 1}'),
        lambda tensors, metadata: metadata.pop("of"),
        lambda tensors, metadata: tensors.update(centres=torch.full((6, 12), torch.nan)),
    ],
)
def test_damaged_files_are_refused(made, tmp_path, damage):
    made[0].save(tmp_path)
    file = tmp_path / DESCRIPTORS
    tensors = load_file(file)
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        metadata = dict(opened.metadata())
    damage(tensors, metadata)
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(ZooError, match=DESCRIPTORS):
        Descriptors.load(tmp_path)
