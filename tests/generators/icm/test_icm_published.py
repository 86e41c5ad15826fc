"""ICM-LoRA as published: raw factors at the scale of the task's own adapter, read through that adapter."""

import dataclasses

import pytest
import torch
from icm_toys import (
    configured,
    described,
    generated,
    seeded,
)

from loragen.adapters.adapter import Lora
from loragen.adapters.codec import Codec
from loragen.errors import GeneratorError
from loragen.generators.icm.episodes import read_experts
from loragen.generators.icm.fit import fit_icm
from loragen.zoo.card import Imported


def test_the_targets_scale_is_taken_from_its_own_adapter(zoo, model, encoder) -> None:
    config = configured(model, icm={"codec": "raw", "scale": "target"}, epochs=1)
    generator, _ = fit_icm(config, zoo, encoder)
    asked, own = described(generator, encoder, zoo)[0], zoo.adapter(zoo.ids[0])
    with pytest.raises(GeneratorError, match="--own-adapter"):
        generator.generate(asked, rng=seeded())
    adapter = generated(generator, dataclasses.replace(asked, own_adapter=own))
    asked_of_large = dataclasses.replace(asked, own_adapter=scaled(own, 3.0))
    for site in own.sites:
        torch.testing.assert_close(3 * adapter.lora_A[site], generated(generator, asked_of_large).lora_A[site])
        torch.testing.assert_close(3 * adapter.lora_B[site], generated(generator, asked_of_large).lora_B[site])


def scaled(adapter: Lora, factor: float) -> Lora:
    lora_A = {site: factor * a.float() for site, a in adapter.lora_A.items()}
    lora_B = {site: factor * b.float() for site, b in adapter.lora_B.items()}
    return Lora.from_factors(lora_A, lora_B, base_model_name_or_path=None)


def test_with_the_targets_scale_every_point_is_normalised_by_itself(zoo, model, encoder) -> None:
    config = configured(model, icm={"codec": "raw", "scale": "target"})
    data = read_experts(config, zoo, encoder)
    codes = data.codes([2, 0], data.codec([2, 0], config.icm), config.icm)
    assert codes.shape == (2, 4, data.space.size)
    for tensor in torch.split(codes, list(data.space.sizes.values()), dim=-1):
        torch.testing.assert_close(tensor.mean(-1), torch.zeros(2, 4), atol=1e-5, rtol=0)
        torch.testing.assert_close(tensor.std(-1, correction=0), torch.ones(2, 4))
    assert torch.equal(codes[1, 0], Codec.per_tensor(data.samples[0, 0], data.space.sizes).encode(data.samples[0, 0]))


def test_raw_factors_are_the_experts_own_and_their_snapshots_share_their_a(zoo, model, encoder) -> None:
    data = read_experts(configured(model, icm={"codec": "raw"}), zoo, encoder)
    assert data.samples.shape == (7, 4, data.space.size)
    for at, expert in enumerate(zoo.ids):
        own, snapshots = zoo.adapter(expert), zoo.snapshots(expert)
        for point in range(4):
            adapter = data.space.adapter(data.samples[at, point], base=None)
            for site in own.sites:
                assert torch.equal(adapter.lora_A[site], own.lora_A[site].float())
                b = own.lora_B[site] if point == 0 else snapshots[site][point - 1]
                assert torch.equal(adapter.lora_B[site], b.float())


@pytest.mark.parametrize("codec", ["frame", "raw"])
def test_an_expert_from_elsewhere_stands_for_its_own_snapshots(zoo, model, encoder, codec: str) -> None:
    facts = Imported(r=2, lora_alpha=2, use_rslora=False, energy_kept=1.0, missing=())
    foreign = {card.id: card.model_copy(update={"provenance": facts}) for card in zoo}
    config = configured(model, icm={"codec": codec})
    known = read_experts(config, zoo, encoder).samples
    all_foreign = read_experts(config, dataclasses.replace(zoo, cards=foreign), encoder).samples
    assert torch.equal(all_foreign, known[:, :1])
    mixed = read_experts(config, dataclasses.replace(zoo, cards=dict(zoo.cards) | {"card": foreign["card"]}), encoder)
    at = zoo.ids.index("card")
    assert torch.equal(mixed.samples[at], known[at, :1].expand(4, -1))
    assert torch.equal(mixed.samples[at + 1 :], known[at + 1 :])
