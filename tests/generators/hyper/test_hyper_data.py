"""Training data of the hypernetwork: experts and their offsets, their tasks, variants of these, and folds."""

import dataclasses
import json
import shutil

import pytest
import torch
from hyper_toys import KINDS, changed, config_of, seeded, with_folds, with_more
from models import write_tiny_encoder
from toys import EXPERTS, WORDS

from loragen.bases.base import Base
from loragen.conditions.condition import Conditioner, Evidence
from loragen.conditions.task_vectors import Reader
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, ZooError
from loragen.generators.hyper.data import EpisodeTask, read_experts
from loragen.generators.hyper.episodes import episodes
from loragen.generators.hyper.fit import HyperTrainConfig, fit_hyper
from loragen.zoo.card import MULTITASK_FOLDER
from loragen.zoo.folds import FOLD_PLAN, FOLDS
from loragen.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(toys) -> Zoo:
    return Zoo.open(toys / "zoo")


@pytest.fixture(scope="module")
def folded(zoo, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return with_folds(zoo, tmp_path_factory.mktemp("folded") / "zoo")


@pytest.fixture(scope="module")
def config(toys) -> HyperTrainConfig:
    return config_of(toys)


# --- experts --------------------------------------------------------------------------------------------------------


def test_experts_are_keyed_by_all_evidence_of_their_tasks(data, zoo, tasks, base) -> None:
    assert zoo.ids == (*EXPERTS, "words")
    reader = Reader(base, data.reader.reading)
    expert = zoo.ids.index("meals")
    described = reader.descriptions(tasks["meals"].descriptions).mean(0)
    named = reader.labels(tasks["meals"].labels).mean(0)
    whole = data.tasks[expert][0]
    vectors = {"description": described, "labels": named}
    vectors |= {kind: whole.states[kind].mean(0) for kind in ("texts", "examples")}
    torch.testing.assert_close(data.keys[expert].flatten(), data.conditions.of(vectors, KINDS))
    adapter = data.frame.adapter(data.start + data.offsets[expert], base=None)
    for site in adapter.sites:
        torch.testing.assert_close(adapter.delta_weight(site), zoo.adapter("meals").delta_weight(site))


def test_a_description_alone_is_read_as_a_new_tasks_will_be(data, base) -> None:
    query = data.query("Is it soup?")
    assert query.shape == (4, 16)
    vectors = {"description": Reader(base, data.reader.reading).descriptions(["Is it soup?"])[0]}
    torch.testing.assert_close(query.flatten(), data.conditions.of(vectors, KINDS))
    assert query.any(1).tolist() == [True, False, False, False]


def test_offsets_are_as_precise_as_what_is_stored(config, zoo, base, data, tmp_path) -> None:
    other = Zoo.open(shutil.copytree(zoo.root, tmp_path / "zoo"))
    settings = other.folder("meals") / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"lora_alpha": 0.7}))  # a factor of 0.35
    offsets = read_experts(config, other, base, ("description",)).offsets
    torch.testing.assert_close(offsets[2], 0.35 * data.offsets[2], rtol=2**-8, atol=0)
    assert torch.equal(offsets, offsets.bfloat16().float())


def test_offsets_count_from_where_each_expert_began(config, folded, base) -> None:
    at_folds = dataclasses.replace(folded, manifest=folded.manifest.model_copy(update={"start": "folds"}))
    seen, unseen = (read_experts(config, zoo, base, ("description",)) for zoo in (folded, at_folds))
    frame = unseen.frame
    unseen_by = {task: fold.adapter for fold in folded.folds() for task in fold.plan.far}
    for row, expert in enumerate(folded.ids):
        own = frame.coordinates(folded.adapter(expert))
        for data, adapter in ((seen, folded.multitask()), (unseen, unseen_by[expert])):
            torch.testing.assert_close(data.offsets[row], own - frame.coordinates(adapter), rtol=2**-7, atol=1e-6)
    torch.testing.assert_close(seen.origin, frame.coordinates(folded.multitask()))
    for data in (seen, unseen):
        torch.testing.assert_close(data.start, unseen.origin)


@pytest.mark.parametrize("is_multitask", [False, True])
def test_without_folds_every_task_starts_from_the_adapter_for_all(
    config, zoo, folded, base, tmp_path, is_multitask: bool
) -> None:
    other = Zoo.open(shutil.copytree(zoo.root, tmp_path / "zoo"))
    if is_multitask:
        shutil.copytree(folded.root / MULTITASK_FOLDER, other.root / MULTITASK_FOLDER)
    asked = changed(config, near_share=1.0, steps_per_epoch=30)
    data = read_experts(asked, other, base, ("labels",))
    wanted = data.frame.coordinates(folded.multitask()) if is_multitask else torch.zeros(data.frame.size)
    assert torch.equal(data.start, wanted)
    adapter = data.frame.adapter(data.start + data.offsets[2], base=None)
    for site in adapter.sites:
        delta = zoo.adapter("meals").delta_weight(site)
        torch.testing.assert_close(adapter.delta_weight(site), delta, atol=4e-3, rtol=0)
    assert all(torch.equal(batch.start, wanted) for batch in episodes(data, asked, rng=seeded()))


def test_folds_that_do_not_know_an_expert_are_refused(config, folded, base, tmp_path) -> None:
    other = Zoo.open(shutil.copytree(folded.root, tmp_path / "zoo"))
    plan = other.root / FOLDS / "1" / FOLD_PLAN
    plan.write_text(plan.read_text().replace("mugs", "pots"))
    with pytest.raises(
        ZooError, match=r"were made without mugs, which it has experts of; remove .* and build it again"
    ):
        read_experts(config, other, base, ("labels",))


def test_a_zoo_of_one_family_is_refused_by_its_name(config, zoo, base) -> None:
    alike = dataclasses.replace(zoo, cards={c.id: c.model_copy(update={"family": "bank"}) for c in zoo})
    with pytest.raises(ConfigError, match=r"one family alone, 'bank', .*Name a zoo of at least two families"):
        read_experts(config, alike, base, KINDS)
    with pytest.raises(ConfigError, match="one family alone, 'words'"):
        read_experts(config, zoo.select(without=EXPERTS), base, KINDS)


def test_a_base_of_other_weights_is_refused(config, zoo, toys) -> None:
    other = dataclasses.replace(zoo, manifest=zoo.manifest.model_copy(update={"base_hash": "0" * 64}))
    with pytest.raises(ConfigError, match=r"has other weights here \(.{12}\) than the zoo .* on \(0{12}\); restore"):
        fit_hyper(config, other, TextEncoder.load(str(toys / "base")))


# --- tasks and variants ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evidence", [("description",), ("labels",), ("texts",), ("examples", "description")])
def test_only_the_evidence_that_is_wanted_is_read(config, zoo, base, monkeypatch, evidence) -> None:
    calls = {"description": "descriptions", "labels": "labels", "texts": "texts", "examples": "examples"}
    for kind in set(KINDS) - set(evidence):
        monkeypatch.setattr(Reader, calls[kind], lambda *_: pytest.fail("read"))
    data = read_experts(config, zoo, base, evidence)
    assert data.keys.shape == (7, len(evidence), 16)
    assert all(tuple(task.states) == evidence for variants in data.tasks for task in variants)
    assert episodes(data, config, rng=seeded())[0].query.shape == (len(evidence), 16)


def labels_of(task: EpisodeTask, base: Base) -> tuple[str, ...]:
    return tuple(base.tokenizer.decode(ids, skip_special_tokens=True) for ids in task.data.label_ids)


def test_variants_are_tasks_of_some_of_the_labels(data, base) -> None:
    assert [len(variants) for variants in data.tasks] == [1] * 6 + [4], "two labels have no part to make a task of"
    whole, *variants = data.tasks[6]
    assert labels_of(whole, base) == WORDS
    assert len({labels_of(variant, base) for variant in variants}) > 1
    for variant in variants:
        labels = labels_of(variant, base)
        assert 2 <= len(labels) < 5
        assert labels == tuple(word for word in WORDS if word in labels)
        texts = [base.tokenizer.decode(ids).split() for ids in variant.data.ids]
        for words, target in zip(texts, variant.data.targets.tolist(), strict=True):
            assert [word for word in words if word in WORDS] == [labels[target]], "the label's new number"
        assert len(texts) == 30 * len(labels), "all texts of these labels"


def test_variants_name_their_labels_and_are_read_from_their_own_texts(data, tasks, base) -> None:
    reader = Reader(base, data.reader.reading)
    examples = tasks["words"].load_train()
    for variant in data.tasks[6][1:]:
        labels = labels_of(variant, base)
        described = reader.descriptions([f"Which word is it? The answer is one of: {', '.join(labels)}."])
        torch.testing.assert_close(variant.states["description"], described)
        torch.testing.assert_close(variant.states["labels"], reader.labels(labels))
        assert 0 < variant.pool == len(variant.states["texts"]) == len(variant.states["examples"]) < 30
        own = [i for i, label in enumerate(examples.labels) if WORDS[label] in labels]
        other = [i for i, label in enumerate(examples.labels) if WORDS[label] not in labels]
        for kind, read in (("texts", reader.texts), ("examples", reader.examples)):
            near, far = (
                (variant.states[kind][:, None] - read(examples.subset(rows))).norm(dim=2) for rows in (own, other)
            )
            assert near.amin(1).max() < 1e-4
            assert far.min() > 1e-2


def test_variants_can_be_done_without_and_fill_a_batch(config, zoo, base) -> None:
    none = read_experts(changed(config, variants=0), zoo, base, ("description",))
    assert {len(variants) for variants in none.tasks} == {1}
    many = read_experts(changed(config, variants=8, batch_size=90), zoo, base, ("description",)).tasks[6]
    assert 1 < len(many) < 9
    assert min(len(variant.data.ids) for variant in many) == 90


# --- the model that reads -------------------------------------------------------------------------------------------


def test_a_text_encoder_can_read_the_task_vectors_in_place_of_the_base(config, folded, base, tmp_path, encoder) -> None:
    other = write_tiny_encoder(tmp_path / "reader", seed=5)
    asked = changed(config, reading_model=str(other), epochs=1, steps_per_epoch=2, judged_on=None)
    data = read_experts(asked, folded, base, ("description",))
    assert not torch.equal(
        data.query("Is it soup?"), read_experts(config, folded, base, ("description",)).query("Is it soup?")
    )
    assert data.reader.reading.model_hash == data.reader.base.fingerprint != base.fingerprint
    generator, _ = fit_hyper(asked, folded, encoder)
    assert generator.reading.model == str(other)
    condition = Conditioner(encoder, generator.reading, generator.evidence).condition(Evidence("Is it soup?"))
    wanted = Reader(data.reader.base, data.reader.reading).descriptions(["Is it soup?"])[0]
    torch.testing.assert_close(condition.task_vectors["description"], wanted)
    assert generator.generate(condition, rng=seeded(0))


def test_batches_can_be_drawn_from_few_texts_of_a_task(data, config, zoo, base) -> None:
    few = read_experts(changed(config, texts=9, variants=0), zoo, base, KINDS)
    for some, all_ in zip(few.tasks, data.tasks, strict=True):
        assert len(some[0].data.ids) == 9
        assert {*map(tuple, some[0].data.ids)} < {*map(tuple, all_[0].data.ids)}
        assert some[0].pool == all_[0].pool, "evidence is drawn from as many as before"


# --- further tasks --------------------------------------------------------------------------------------------------


def test_further_tasks_are_read_like_those_of_experts(toys, config, zoo, base, data, tmp_path) -> None:
    asked = with_more(config, toys, tmp_path, canteen="menus", cups="cups")
    more = read_experts(asked, zoo, base, KINDS).more
    assert list(more) == ["canteen"], "cups has an expert"
    (task,) = more["canteen"]
    assert set(task.states) == set(KINDS)
    assert len(task.data) == len(data.tasks[0][0].data)
    assert not data.more


def test_a_further_task_that_is_kept_from_training_is_refused(toys, config, zoo, base, tmp_path) -> None:
    asked = with_more(config, toys, tmp_path, menus="menus")
    with pytest.raises(ConfigError, match=r"'menus', which .* keeps in the split 'known'; take it out of 'more_t"):
        read_experts(asked, zoo, base, KINDS)
