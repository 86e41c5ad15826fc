"""Parts of the lean path against those of the path with torch: encoder, files of tensors, adapters, choice of way."""

import numpy as np
import pytest
import torch
from safetensors.torch import save

from loragen.adapters.adapter import Lora
from loragen.adapters.products import cosine as torch_cosine
from loragen.adapters.products import distance as torch_distance
from loragen.conditions.text_encoder import TextEncoder
from loragen.config import read_yaml
from loragen.generation import ENCODER
from loragen.generators.baselines import TopK
from loragen.generators.registry import DEFAULT
from loragen.generators.sg.model import SG
from loragen.generators.trained import GENERATOR_MANIFEST
from loragen.lean import choose, judge, sg, zoo
from loragen.lean.arrays import arrays_of
from loragen.lean.encoder import LeanEncoder
from loragen.lean.errors import NotLeanError
from loragen.lean.factors import Factors, cosine, distance, from_factors, weighted_sum
from loragen.zoo import card, expert_index
from loragen.zoo.card_table import TABLE
from loragen.zoo.zoo import SPLIT, Zoo, default_zoo


def test_names_are_those_of_the_other_path():
    assert (*(SPLIT, card.EXPERTS, card.CARD, card.MULTITASK_FOLDER),) == (
        zoo.SPLIT,
        zoo.EXPERTS,
        zoo.CARD,
        zoo.MULTITASK,
    )
    assert (zoo.EMBEDDINGS, zoo.MANIFEST, zoo.PACKED) == (expert_index.EMBEDDINGS, card.ZOO_MANIFEST, TABLE)
    assert (sg.MANIFEST, choose.ENCODER, choose.STRAIGHT["generator"]) == (GENERATOR_MANIFEST, ENCODER, DEFAULT)
    assert (TopK.top_k, TopK.temperature) == (judge.TOP_K, judge.TEMPERATURE)
    assert zoo.default_root() == default_zoo()


def test_embeddings_are_those_of_torch():
    texts = ["Sort complaints.", "short", "Which city is meant? " * 20, "Ünïcödé, 中文 and ¿more?", "Sort complaints!"]
    lean, slow = LeanEncoder.load(ENCODER), TextEncoder.load(ENCODER)
    assert (lean.fingerprint, lean.max_tokens) == (slow.fingerprint, slow.max_tokens)
    assert np.abs(lean.encode(texts) - slow.encode(texts).numpy()).max() < 1e-6
    with pytest.raises(NotLeanError):
        lean.encode(["word " * 400])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8])
def test_files_of_tensors_are_read_as_torch_reads_them(dtype):
    value = (torch.arange(24).reshape(2, 3, 4) * 1.7).to(dtype)
    arrays, metadata = arrays_of(save({"a": value, "b": value[0, 0].clone()}, metadata={"told": "this"}))
    assert metadata == {"told": "this"}
    assert np.array_equal(arrays["a"], value.float().numpy() if dtype.is_floating_point else value.numpy())
    assert arrays["b"].shape == (4,)


def test_a_file_that_is_cut_off_is_left_to_torch():
    whole = save({"a": torch.ones(8)})
    for end in (9, len(whole) - 4):
        with pytest.raises((NotLeanError, ValueError)):
            arrays_of(whole[:end])


@pytest.fixture
def pair():
    rng = torch.Generator().manual_seed(2)
    sites = ("layer.2.key", "layer.10.key")
    a = {site: torch.randn(3, 7, generator=rng) for site in sites}
    bs = [{site: torch.randn(5, 3, generator=rng) for site in sites} for _ in range(3)]
    slow = [Lora.from_factors(a, b, base_model_name_or_path="m@v1", task_type="FEATURE_EXTRACTION") for b in bs]
    arrays = [{site: one.numpy() for site, one in each.items()} for each in (a, *bs)]
    lean = [from_factors(arrays[0], b, base="m@v1", task_type="FEATURE_EXTRACTION") for b in arrays[1:]]
    return lean, slow


def test_an_adapter_of_equal_values_is_written_in_equal_bytes(pair):
    lean, slow = pair
    assert [one.files() for one in lean] == [one.files() for one in slow]


def test_norms_and_products_are_those_of_torch(pair):
    lean, slow = pair
    assert lean[0].norm() == pytest.approx(slow[0].norm(), rel=1e-12)
    assert lean[0].spec == slow[0].spec
    assert distance(lean[0], lean[1]) == pytest.approx(torch_distance(slow[0], slow[1]), rel=1e-12)
    wanted = torch_cosine(slow[0], slow[1], centre=slow[2])
    assert cosine(lean[0], lean[1], centre=lean[2]) == pytest.approx(wanted, rel=1e-9)


def test_a_merge_has_the_weighted_sum_of_delta_weights(pair):
    lean, slow = pair
    merged = weighted_sum(lean, [0.5, 0.3, 0.2])
    for site in merged.sites:
        wanted = sum(w * one.delta_weight(site) for one, w in zip(slow, [0.5, 0.3, 0.2], strict=True))
        assert np.abs(merged.lora_B[site] @ merged.lora_A[site] - wanted.numpy()).max() < 1e-6


def test_a_folder_is_read_as_torch_reads_it(pair, tmp_path):
    _, slow = pair
    slow[0].save(tmp_path / "a")
    read = Factors.load(tmp_path / "a")
    assert (read.settings, read.spec) == (slow[0].settings, slow[0].spec)
    assert all(np.array_equal(read.lora_B[site], slow[0].lora_B[site].numpy()) for site in read.sites)


def test_the_zoo_has_the_same_hashes_and_neighbours():
    lean, slow = zoo.LeanZoo.open(default_zoo()), Zoo.open()
    chosen = slow.select(splits={SPLIT})
    assert (lean.ids, lean.fingerprint, lean.whole_fingerprint) == (chosen.ids, chosen.fingerprint, slow.fingerprint)
    fast, encoder = LeanEncoder.load(ENCODER), TextEncoder.load(ENCODER)
    index = expert_index.ExpertIndex.of(chosen, encoder)
    embeddings = zoo.mean_directions(lean.descriptions(fast))
    assert np.abs(embeddings - index.index.vectors.numpy()).max() < 1e-6
    query = encoder.encode(["Sort requests to a bank."])[0]
    wanted = index.neighbours(query, top_k=6, temperature=0.1)
    found = zoo.neighbours_in(lean.ids, embeddings, query.numpy(), 6, temperature=0.1)
    assert [one.id for one in found] == [one.id for one in wanted]
    assert [one.weight for one in found] == pytest.approx([one.weight for one in wanted], abs=1e-5)


def test_the_generator_reads_the_settings_that_are_checked_elsewhere():
    folder = default_zoo() / "generators" / "sg"
    config = read_yaml(folder / GENERATOR_MANIFEST)["config"]
    checked = SG.load(folder).manifest.config.model_dump()
    assert {key: checked[key] for key in config} == config


def test_the_straight_way_is_taken_by_default_options_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = dict(choose.STRAIGHT)
    assert choose.is_lean(options)
    others = {"texts": tmp_path, "zoo": tmp_path, "fit": True, "merge": True, "generator": "topk", "top_k": 3}
    others |= {"licence": ["MIT"], "encoder": "x", "examples": tmp_path, "own_adapter": tmp_path, "best_of": 2}
    others |= {"shares": ".5,.5", "history": tmp_path, "clip_rows": 2.0}
    assert others.keys() == options.keys()
    assert not any(choose.is_lean(options | {key: value}) for key, value in others.items())
    monkeypatch.setenv(choose.SWITCH, "0")
    assert not choose.is_lean(options)
    monkeypatch.delenv(choose.SWITCH)
    (tmp_path / "sg").mkdir()
    (tmp_path / "sg" / GENERATOR_MANIFEST).write_text("kind: sg\n")
    assert not choose.is_lean(options)
