"""The length of the training of ICM-LoRA, chosen on tasks that are left out."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from icm_toys import (
    ENOUGH,
    configured,
    seeded,
    with_another_expert,
)
from torch import Tensor

from loragen.adapters.codec import Codec
from loragen.errors import ConfigError
from loragen.generators.icm import fit as icm_fit
from loragen.generators.icm.episodes import ICMTrainConfig
from loragen.generators.icm.fit import cosines_with, fit_icm, longest_as_good
from loragen.generators.icm.model import ICM
from loragen.zoo.zoo import Zoo

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


@pytest.mark.parametrize("codec", ["frame", "raw"])
def test_a_left_out_task_takes_no_part(zoo, model, encoder, tmp_path, codec: str) -> None:
    config = configured(model, icm={"codec": codec}, folds=2, epochs=1)

    def networks(of: Zoo, folder: Path) -> list[dict[str, Tensor]]:
        fit_icm(config, of, encoder, checkpoints=folder)
        files = [folder / name / "state.ckpt" for name in ("fold-0", "fold-1", "all")]
        return [torch.load(file, weights_only=True)["state_dict"] for file in files]

    before = networks(zoo, tmp_path / "before")
    after = networks(with_another_expert(zoo, "mood", tmp_path / "zoo"), tmp_path / "after")
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
