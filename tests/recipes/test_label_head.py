"""Frozen label texts: in training, in scoring, and wherever an adapter that was trained so is used."""

import asyncio
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.causal_lm import CausalLM
from loragen.bases.linear_sites import updates_are_left_out, without_updates
from loragen.bases.losses import LOGIT_SCALE
from loragen.bases.text_encoder import with_label_targets
from loragen.combination import combine
from loragen.config import StrictModel
from loragen.errors import ConfigError, TaskError
from loragen.files import atomic_write
from loragen.inference import Adapter
from loragen.recipes.expert import ExpertRecipe, Start
from loragen.recipes.methods.label_head import LabelHead
from loragen.recipes.multitask import MultitaskRecipe
from loragen.recipes.train import train_expert
from loragen.zoo.card import ZOO_MANIFEST, Card, Manifest, expert_files
from loragen.zoo.zoo import Zoo

SITES = ("query", "value")
RECIPE = LabelHead(r=3, steps=16, batch_size=16, learning_rate=3e-2, max_length=32, held_out=20, window=4)
LABELS = ("soup", "tea")


@pytest.fixture
def frozen(base):
    return with_label_targets(base, "frozen")


@pytest.fixture
def data(base, task):
    return base.prepare(task.load_train(), max_length=32).first(24)


def factors_of(base, seed=0):
    rng = torch.Generator().manual_seed(seed)
    start = Start.random(base.sites(SITES), 3, rng=rng)
    return {site: (a, 0.5 * torch.randn(len(start.lora_B[site]), 3, generator=rng)) for site, a in start.lora_A.items()}


def lora_of(base, factors):
    parts = {site: a for site, (a, _) in factors.items()}, {site: b for site, (_, b) in factors.items()}
    return Lora.from_factors(*parts, base_model_name_or_path=base.name, task_type="FEATURE_EXTRACTION")


def by_hand(base, data, factors, *, frozen):
    """Logits from two passes, one text at a time and without batches, caches or contexts but `using`."""
    with torch.no_grad():
        bare = torch.cat([base.embed([row]) for row in data.label_ids])
        with base.using(factors):
            texts = torch.cat([base.embed([row]) for row in data.ids])
            under = torch.cat([base.embed([row]) for row in data.label_ids])
    return LOGIT_SCALE * texts @ (bare if frozen else under).T


def test_scores_and_losses_are_those_of_labels_by_the_base_alone(base, frozen, data):
    factors = factors_of(base)
    wanted = by_hand(base, data, factors, frozen=True)
    assert (wanted - by_hand(base, data, factors, frozen=False)).abs().max() > 0.5
    torch.testing.assert_close(frozen.read(data, lora_of(base, factors)).logits, wanted, rtol=1e-5, atol=1e-5)
    loss = float(F.cross_entropy(wanted, data.targets))
    with frozen.using(factors):
        assert frozen.held_out_loss(data, contrast_weight=0.0) == pytest.approx(loss, rel=1e-5)
        assert float(frozen.losses(data, contrast_weight=0.0)["loss"]) == pytest.approx(loss, rel=1e-5)


def test_moving_targets_stay_as_they_were_bit_for_bit(base, data):
    factors = factors_of(base)
    torch.testing.assert_close(
        base.read(data, lora_of(base, factors)).logits, by_hand(base, data, factors, frozen=False), rtol=1e-5, atol=1e-5
    )
    with base.using(factors):
        texts, labels = base.encode(data.ids), base.encode(data.label_ids)
    assert torch.equal(base.read(data, lora_of(base, factors)).logits, LOGIT_SCALE * texts @ labels.T)
    assert with_label_targets(base, "moving") is base
    assert not base._frozen_labels


@pytest.mark.parametrize("way", ["using", "rows", "inference"])
def test_labels_first_asked_for_under_factors_are_still_the_base_s(base, data, way):
    fresh = with_label_targets(base, "frozen")
    assert not fresh._frozen_labels
    wanted, factors = base.encode(data.label_ids), factors_of(base)
    if way == "rows":
        with fresh.adapted_rows([factors, factors_of(base, seed=1), None]):
            met = fresh.frozen_labels(data.label_ids)
    elif way == "using":
        with fresh.using(factors):
            met = fresh.frozen_labels(data.label_ids)
    else:
        with torch.inference_mode(), fresh.using(factors):
            met = fresh.frozen_labels(data.label_ids)
    assert torch.equal(met, wanted)
    assert not met.is_inference()
    assert not met.requires_grad


def test_after_held_out_scores_a_loss_still_has_gradients(frozen, data):
    factors = {site: (a, b.requires_grad_()) for site, (a, b) in factors_of(frozen).items()}
    with torch.inference_mode(), frozen.using(factors):
        frozen.held_out_loss(data, contrast_weight=0.0)
    with frozen.using(factors):
        frozen.losses(data, contrast_weight=0.0)["loss"].backward()
    assert all(b.grad is not None and b.grad.abs().max() > 0 for _, b in factors.values())


def test_labels_are_embedded_once_and_few_sets_are_kept(frozen, data, monkeypatch):
    monkeypatch.setattr("loragen.bases.text_encoder._MOST_KEPT", 2)
    calls, encode = [], Base.encode
    monkeypatch.setattr(Base, "encode", lambda self, ids, **how: (calls.append(len(ids)), encode(self, ids, **how))[1])
    for _ in range(3):
        frozen.frozen_labels(data.label_ids)
    assert len(calls) == 1
    for number in range(5):
        frozen.frozen_labels(data.label_ids[:1] * (number + 1))
    assert len(frozen._frozen_labels) <= 2
    assert not replace(frozen, pooling="cls")._frozen_labels  # another base, whose labels lie elsewhere


def test_updates_come_back_after_they_were_left_out(base, data):
    with base.using(factors_of(base)):
        before = base.encode(data.ids)
        with without_updates():
            assert updates_are_left_out()
            bare = base.encode(data.ids)
        with pytest.raises(TaskError), without_updates():
            base.encode([])
        assert not updates_are_left_out()
        assert torch.equal(base.encode(data.ids), before)
    assert torch.equal(base.encode(data.ids), bare)
    assert not torch.equal(bare, before)


def test_an_expert_is_trained_against_frozen_targets_whatever_base_is_given(base, frozen, task):
    start = Start.random(base.sites(SITES), 3, rng=torch.Generator().manual_seed(0))
    one, other = (train_expert(task, each, start, RECIPE) for each in (base, frozen))
    moving = train_expert(task, frozen, start, ExpertRecipe(**RECIPE.model_dump(exclude={"name", "label_targets"})))
    assert all(torch.equal(one.mean[site], other.mean[site]) for site in one.mean)
    assert not any(torch.equal(one.mean[site], moving.mean[site]) for site in one.mean)
    assert all(torch.equal(a, start.lora_A[site]) for site, a in one.lora_A.items())
    tested = base.prepare(task.load_test(), max_length=32)

    def loss(expert=None):
        with frozen.using({} if expert is None else {s: (a, expert.mean[s]) for s, a in expert.lora_A.items()}):
            return frozen.held_out_loss(tested, contrast_weight=0.0)

    assert loss(one) < 0.8 * loss()
    assert loss(one) < loss(moving)


@pytest.fixture
def zoo(base, task, tmp_path):
    """A zoo of one expert, trained against frozen targets."""
    facts = {"base": base.name, "base_hash": base.fingerprint, "frame": "random", "start": "zero"}
    manifest = Manifest(name="tiny", recipe=RECIPE, multitask=MultitaskRecipe(), **facts)
    atomic_write(tmp_path / "zoo" / ZOO_MANIFEST, manifest.to_yaml())
    start = Start.random(base.sites(SITES), 3, rng=torch.Generator().manual_seed(0))
    expert = train_expert(task, base, start, RECIPE)
    card = Card.of(task, expert, manifest, split="experts", seconds=1.0, dtype="float32", versions={})
    adapter, files = expert_files(expert, card)
    adapter.save(tmp_path / "zoo" / "experts" / task.id, extra_files=files)
    return Zoo.open(tmp_path / "zoo")


def probabilities(base, adapter, texts):
    data = base.prepare(_examples(texts), max_length=128)
    return by_hand(base, data, base.factors_of(adapter.lora), frozen=True).softmax(1)


def _examples(texts):
    from loragen.tasks.examples import Examples

    return Examples(tuple(texts), label_names=LABELS)


def test_a_zoo_says_so_to_whoever_loads_its_base_or_an_expert(zoo, base, task, tmp_path):
    from safetensors.torch import load_file

    expert = Adapter.load(zoo.folder(task.id))
    assert zoo.load_base().label_targets == expert.opened_base.label_targets == "frozen"
    texts = ["a b soup c", "tea a", "c d e"]
    wanted = probabilities(base, expert, texts)
    for each in (expert, expert.with_base(base), _again(expert, tmp_path)):
        met = torch.tensor([[one.by_label[label] for label in LABELS] for one in each.classify(texts, LABELS)])
        torch.testing.assert_close(met, wanted, rtol=0, atol=1e-4)
    assert combine([expert, expert]).adapter.label_targets == "frozen"
    assert all(".lora_" in name for name in load_file(zoo.folder(task.id) / "adapter_model.safetensors"))


def _again(adapter, folder):
    """Written without its expert's card, and read."""
    adapter.save(folder / "again")
    return Adapter.load(folder / "again")


def test_generated_adapters_of_the_zoo_are_used_so(zoo, task):
    from loragen.exporters.card import GeneratedCard, card_of
    from loragen.generators.base import Generation

    said = {"description": "d", "generator": "topk", "seed": 0, "sample": 0, "encoder": "e", "encoder_hash": "f"}
    card = card_of(Generation(zoo.adapter(task.id), ()), zoo, **said)
    assert Adapter.generated(zoo.adapter(task.id), card).opened_base.label_targets == "frozen"
    older = {key: value for key, value in card.model_dump().items() if key != "label_targets"}
    assert GeneratedCard.model_validate(older).label_targets == "moving"


def test_a_server_compares_with_frozen_labels(zoo, base, task, tmp_path):
    from loragen.serving.batcher import Batcher
    from loragen.serving.settings import Limits
    from loragen.serving.store import AdapterStore
    from loragen.serving.texts import Texts

    served = zoo.load_base()
    store, batcher = AdapterStore(tmp_path / "adapters", served, Limits()), Batcher(served)
    expert = Adapter.load(zoo.folder(task.id))
    store.add("frozen", expert)
    store.add("moving", replace(expert, label_targets="moving"))
    texts = ["a b soup c", "tea a"]
    try:
        rows = {
            name: asyncio.run(Texts(served, batcher, store).predict(texts, name, LABELS))
            for name in ("frozen", "moving")
        }
    finally:
        batcher.stop()
    met = {name: torch.tensor([{g.label: g.score for g in row}[LABELS[0]] for row in rows[name]]) for name in rows}
    torch.testing.assert_close(met["frozen"], probabilities(base, expert, texts)[:, 0], rtol=1e-4, atol=1e-5)
    assert (met["frozen"] - met["moving"]).abs().max() > 1e-3


def test_builds_open_a_base_with_the_recipe_s_targets(zoo, task, tmp_path):
    from loragen.zoo.build_config import ZooConfig
    from loragen.zoo.build_jobs import open_base_of

    config = ZooConfig(name="z", out=tmp_path / "o", base=zoo.manifest.base, tasks=tmp_path / "t", recipe=RECIPE)
    assert open_base_of(config, torch.float32).label_targets == "frozen"


@pytest.mark.parametrize("objective", ["causal_lm", "seq2seq", "image_text"])
@pytest.mark.parametrize("model", [LabelHead, ExpertRecipe])
def test_other_objectives_are_refused(model: type[StrictModel], objective):
    with pytest.raises(ConfigError, match="frozen label targets want the objective 'label_text', not"):
        model.checked({"label_targets": "frozen", "objective": objective}, source="here")


def test_other_bases_are_refused():
    language = CausalLM.__new__(CausalLM)
    object.__setattr__(language, "name", "some-llama")
    assert with_label_targets(language, "moving") is language
    with pytest.raises(ConfigError, match=r"the base some-llama has 'causal_lm'\. Leave 'label_targets' out"):
        with_label_targets(language, "frozen")


def test_label_head_is_never_moving():
    with pytest.raises(ValueError, match="label_targets"):
        LabelHead(label_targets="moving")
