import json
import sys
from pathlib import Path

import pytest
import torch

from loragen.zoo.zoo import Zoo

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import big_zoo_stages
import big_zoos


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("big") / "zoo"
    big_zoo_stages.write(root, 12)
    return root


def test_synthetic_experts_are_near_to_real_ones_and_all_different(root) -> None:
    zoo, real = Zoo.open(root), Zoo.open().select(splits={"experts"})
    assert len({card.description for card in zoo}) == len(zoo) == 12
    norms = sorted(real.adapter(name).norm() for name in real.ids[::20])
    for name in zoo.ids[::4]:
        assert norms[0] / 2 < zoo.adapter(name).norm() < 2 * norms[-1]
    assert not torch.equal(*(zoo.adapter(name).lora_B[zoo.adapter(name).sites[0]] for name in zoo.ids[:2]))
    assert {fault for _, fault in zoo.check()} == {None}


def test_the_same_seed_draws_the_same(root) -> None:
    card, adapter, embedding = next(iter(big_zoo_stages.experts(1, seed=0)))
    assert Zoo.open(root).card(card.id) == card
    assert Zoo.open(root).adapter(card.id).files() == adapter.files()
    assert float(embedding.norm()) == pytest.approx(1)


def test_figures_are_kept_told_and_drawn(root, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(big_zoos, "ROOT", tmp_path)
    for size, seconds in ((1000, 0.1), (10000, 0.2)):
        for stage, (name, _, _) in big_zoos.TARGETS.items():
            file = tmp_path / str(size) / "stages" / f"{stage}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({name: seconds}))
    figures = big_zoos.kept()
    assert list(figures["experts"]) == ["1000", "10000"]
    assert "| add: add_s (at most 2 s) | 0.1 | 0.2 |" in big_zoos.table(figures)
    big_zoos.draw(figures, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
