import copy
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from toys import EXPERTS, FAMILY, TESTS, WORDS

from loragen import cli
from loragen.adapter import Adapter
from loragen.backbone import Backbone
from loragen.config import read_yaml
from loragen.embedding import TextEncoder
from loragen.errors import ConfigError, GeneratorError, TaskError, ZooError
from loragen.evaluation.scoring import score_task
from loragen.files import atomic_write
from loragen.folds import FOLDS, PLAN, Fold, FoldPlan, write_fold
from loragen.frame import Frame
from loragen.generators import attention_fit
from loragen.generators.attention import (
    Attention,
    AttentionConfig,
    AttentionMaker,
    AttentionNetwork,
    Experts,
)
from loragen.generators.attention_fit import AttentionTrainConfig, fit_attention
from loragen.generators.base import Condition
from loragen.generators.catalogue import open_generator
from loragen.generators.conditions import Conditioner
from loragen.generators.task_episodes import Known, Material, episodes, prepare
from loragen.generators.task_fit import Candidates, Judge
from loragen.generators.task_loss import TaskBatch, TaskObjective
from loragen.losses import contrast_loss, label_text_loss
from loragen.runs import LOSSES, read_config, train_generator
from loragen.task_vectors import Reader, Support
from loragen.taskdata import TaskData
from loragen.tasks import TaskSet
from loragen.zoo import MULTITASK, Zoo

FAR = {"cups": 0, "drinks": 0, "meals": 0, "mugs": 1, "suppers": 1, "weather": 2, "words": 2}
NEAR = {"cups": 1, "drinks": 2}
"""Folds by number; one family alone has a task more to be near to."""
KINDS = AttentionConfig().evidence


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the network ----------------------------------------------------------------------------------------------------

WIDTH, SIZES, N = 6, (3, 4), 5


def network(**values: object) -> AttentionNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AttentionNetwork(WIDTH, SIZES, AttentionConfig(**({"metric_rank": 2, "gates": "task"} | values)))


def trained_network(scale: float = 0.5, **values: object) -> AttentionNetwork:
    """With other values than those it begins with, as after a training."""
    net = network(**values)
    rng = seeded(7)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=rng))
    return net


def mask(*places: int, size: int) -> Tensor:
    found = torch.zeros(size, dtype=torch.bool)
    found[list(places)] = True
    return found


QUERY = torch.randn(4, WIDTH, generator=seeded(1))
KEYS = torch.randn(N, 4, WIDTH, generator=seeded(2))
OFFSETS = torch.randn(N, sum(SIZES), generator=seeded(3))
START = torch.randn(sum(SIZES), generator=seeded(4))
EVERY, ALL = torch.ones(4, dtype=torch.bool), torch.ones(N, dtype=torch.bool)


@pytest.mark.parametrize("places", [(0,), (2,), (0, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("temperature", [0.2, 1.5])
@torch.no_grad()
def test_before_training_it_is_a_softmax_merge_by_mean_cosine(places: tuple[int, ...], temperature: float) -> None:
    net, present = network(temperature=temperature), mask(*places, size=4)
    cosines = torch.cosine_similarity(KEYS, QUERY, dim=-1)[:, list(places)].mean(1)
    weights = net.weights(QUERY * present[:, None], present, KEYS, ALL)
    torch.testing.assert_close(weights, torch.softmax(cosines / temperature, 0))
    merged = net.merge(weights, QUERY, present, OFFSETS, START)
    torch.testing.assert_close(merged, weights @ (START + OFFSETS))


@torch.no_grad()
def test_a_trained_one_weighs_otherwise() -> None:
    one, other = (net.weights(QUERY, EVERY, KEYS, ALL) for net in (network(), trained_network()))
    assert (one - other).abs().max() > 0.01


@torch.no_grad()
def test_one_gate_a_site_scales_the_start_and_another_the_offsets() -> None:
    net = trained_network()
    weights = net.weights(QUERY, EVERY, KEYS, ALL)
    features = torch.cat([torch.ones(1), QUERY.flatten() / 4])
    for which, (offsets, start) in enumerate([(0 * OFFSETS, START), (OFFSETS, 0 * START)]):
        scale = net.merge(weights, QUERY, EVERY, offsets, start) / (start + weights @ offsets)
        for site, part in enumerate(scale.split(SIZES)):
            torch.testing.assert_close(part, (2 * torch.sigmoid(net.gates[which, site] @ features)).expand_as(part))
    assert torch.pdist((net.gates @ features).reshape(-1, 1)).min() > 0.01, "four gates"


@pytest.mark.parametrize("gates", ["site", "task"])
@torch.no_grad()
def test_gates_follow_the_task_only_where_they_are_to(gates: str) -> None:
    net = trained_network(gates=gates)
    one, other = (net.merge(torch.zeros(N), query, EVERY, OFFSETS, START) for query in (QUERY, QUERY.flip(0)))
    assert torch.equal(one, other) == (gates == "site")
    assert (one - START).abs().max() > 0.01


@pytest.mark.parametrize("places", [(0,), (1, 4), (0, 1, 2, 3)])
@torch.no_grad()
def test_who_is_not_allowed_weighs_nothing_and_the_rest_keep_their_proportions(places: tuple[int, ...]) -> None:
    net, allowed = trained_network(), mask(*places, size=N)
    whole, part = net.weights(QUERY, EVERY, KEYS, ALL), net.weights(QUERY, EVERY, KEYS, allowed)
    assert torch.equal(part[~allowed], torch.zeros(N - len(places)))
    torch.testing.assert_close(part[allowed], whole[allowed] / whole[allowed].sum())


@pytest.mark.parametrize("places", [(0,), (1, 3), (0, 1, 2)])
@torch.no_grad()
def test_what_is_absent_does_not_matter(places: tuple[int, ...]) -> None:
    net, present = trained_network(), mask(*places, size=4)
    found = []
    for noise in (0.0, 100.0):
        query, keys = QUERY.clone(), KEYS.clone()
        query[~present] *= noise
        keys[:, ~present] += noise
        weights = net.weights(query, present, keys, ALL)
        found.append((weights, net.merge(weights, query, present, OFFSETS, START)))
    torch.testing.assert_close(found[0], found[1])
    assert (net.weights(QUERY, EVERY, KEYS, ALL) - found[0][0]).abs().max() > 0.01, "unlike what is there"


@pytest.mark.parametrize("present", [EVERY, mask(2, size=4), ~EVERY])
@pytest.mark.parametrize("allowed", [ALL, mask(3, size=N), ~ALL])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1e4, -1e4])
def test_weights_and_gradients_are_finite_whatever_is_absent(present: Tensor, allowed: Tensor, scale: float) -> None:
    net, keys = trained_network(scale), KEYS.clone()
    keys[0] = 0  # an expert in the very centre of them all
    query = QUERY * present[:, None]
    weights = net.weights(query, present, keys, allowed)
    assert float(weights.detach().sum()) == pytest.approx(float(allowed.any()))
    merged = net.merge(weights, query, present, OFFSETS, START)
    assert merged.isfinite().all()
    merged.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@torch.no_grad()
def test_without_evidence_all_who_may_serve_have_equal_shares() -> None:
    weights = trained_network().weights(torch.zeros(4, WIDTH), ~EVERY, KEYS, mask(0, 2, size=N))
    torch.testing.assert_close(weights, torch.tensor([0.5, 0, 0.5, 0, 0]))


def test_the_experts_move_with_the_network_and_are_no_part_of_its_state() -> None:
    maker = AttentionMaker(network(), Experts(KEYS, OFFSETS, START))
    assert set(maker.state_dict()) == {f"network.{name}" for name in network().state_dict()}
    data = TaskData(((1, 2),), torch.tensor([0]), ((1,), (2,)))
    batch = TaskBatch(data, QUERY, EVERY, ALL, START).to(torch.device("meta"))  # refuses to mix with what is not there
    assert batch.data.targets.device.type == "meta"
    assert maker.to("meta")(batch).device.type == "meta"
    assert KEYS.device.type == "cpu"


# --- a base, tasks and a zoo ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo(toys) -> Zoo:
    return Zoo.open(toys / "zoo")


@pytest.fixture(scope="module")
def encoder(toys) -> TextEncoder:
    return TextEncoder.load(str(toys / "base"))


@pytest.fixture(scope="module")
def backbone(zoo) -> Backbone:
    return zoo.load_base()


@pytest.fixture(scope="module")
def config(toys) -> AttentionTrainConfig:
    return AttentionTrainConfig(
        generator="attention",
        zoo=toys / "zoo",
        encoder=str(toys / "base"),
        tasks=toys / "tasks.yaml",
        out=toys / "out",
        attention=AttentionConfig(metric_rank=2, temperature=1.0),
        judged_texts=TESTS,
        pool=30,
        shots=(1, 4, 100),
        epochs=3,
        steps_per_epoch=10,
        batch_size=16,
        learning_rate=0.1,
        dtype="float32",
    )


def changed(config: AttentionTrainConfig, **values: object) -> AttentionTrainConfig:
    return AttentionTrainConfig.model_validate(config.model_dump() | values)


@pytest.fixture(scope="module")
def material(config, zoo, backbone) -> Material:
    return prepare(config, zoo, backbone, KINDS)


@pytest.fixture(scope="module")
def tasks(toys) -> TaskSet:
    return TaskSet.from_yaml(toys / "tasks.yaml")


def maker_of(material: Material, *, trained: bool = False, **values: object) -> AttentionMaker:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = tuple(material.frame.sizes.values())
        net = AttentionNetwork(
            material.keys.shape[-1], sizes, AttentionConfig(metric_rank=2, temperature=1.0, **values)
        )
    rng = seeded(3)
    with torch.no_grad():
        for parameter in net.parameters() if trained else ():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return AttentionMaker(net, Experts(material.keys, material.offsets, material.start))


@pytest.fixture(scope="module")
def folded(zoo, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """The same zoo, with an adapter for all tasks and three folds of it."""
    other = Zoo.open(shutil.copytree(zoo.root, tmp_path_factory.mktemp("folded") / "zoo"))
    frame, rng = Frame.fit([zoo.adapter(expert) for expert in zoo.ids]), seeded(11)

    def drawn() -> Adapter:
        coordinates = 0.3 * torch.randn(frame.size, generator=rng)
        return frame.adapter(coordinates, base=zoo.manifest.base, task_type="FEATURE_EXTRACTION")

    drawn().save(other.root / MULTITASK)
    for fold in range(3):
        far, near = (tuple(task for task, at in plan.items() if at == fold) for plan in (FAR, NEAR))
        write_fold(other.root / FOLDS / str(fold), Fold(FoldPlan(far=far, near=near), drawn()))
    return other


# --- what it learns from --------------------------------------------------------------------------------------------


def test_experts_are_keyed_by_all_that_their_tasks_say(material, zoo, tasks, backbone) -> None:
    assert zoo.ids == (*EXPERTS, "words")
    reader = Reader(backbone, material.reading)
    expert = zoo.ids.index("meals")
    described = reader.descriptions(tasks["meals"].descriptions).mean(0)
    named = reader.labels(tasks["meals"].labels).mean(0)
    whole = material.tasks[expert][0]
    vectors = {"description": described, "labels": named}
    vectors |= {kind: whole.states[kind].mean(0) for kind in ("texts", "examples")}
    torch.testing.assert_close(material.keys[expert].flatten(), material.conditions.of(vectors, KINDS))
    adapter = material.frame.adapter(material.start + material.offsets[expert], base=None)
    for site in adapter.sites:
        torch.testing.assert_close(adapter.delta_weight(site), zoo.adapter("meals").delta_weight(site))


def test_what_is_attended_to_is_what_is_stored(config, zoo, backbone, material, tmp_path) -> None:
    other = Zoo.open(shutil.copytree(zoo.root, tmp_path / "zoo"))
    settings = other.folder("meals") / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"lora_alpha": 0.7}))  # a factor of 0.35
    offsets = prepare(config, other, backbone, ("description",)).offsets
    torch.testing.assert_close(offsets[2], 0.35 * material.offsets[2], rtol=2**-8, atol=0)
    assert torch.equal(offsets, offsets.bfloat16().float())


def test_offsets_count_from_where_each_expert_began(config, folded, backbone) -> None:
    at_folds = dataclasses.replace(folded, manifest=folded.manifest.model_copy(update={"start": "folds"}))
    seen, unseen = (prepare(config, zoo, backbone, ("description",)) for zoo in (folded, at_folds))
    frame = unseen.frame
    unseen_by = {task: fold.adapter for fold in folded.folds() for task in fold.plan.far}
    for row, expert in enumerate(folded.ids):
        own = frame.coordinates(folded.adapter(expert))
        for material, adapter in ((seen, folded.multitask()), (unseen, unseen_by[expert])):
            wanted = own - frame.coordinates(adapter)
            torch.testing.assert_close(material.offsets[row], wanted, rtol=2**-7, atol=1e-6)
    torch.testing.assert_close(seen.origin, frame.coordinates(folded.multitask()))
    for material in (seen, unseen):
        torch.testing.assert_close(material.start, unseen.origin)


def test_experts_of_one_family_are_related_and_each_to_itself(material) -> None:
    wanted = torch.eye(7, dtype=torch.bool)
    wanted[0, 1] = wanted[1, 0] = True
    assert torch.equal(material.related, wanted)


@pytest.mark.parametrize("evidence", [("description",), ("labels",), ("texts",), ("examples", "description")])
def test_only_the_evidence_that_is_wanted_is_read(config, zoo, backbone, monkeypatch, evidence) -> None:
    calls = {"description": "descriptions", "labels": "labels", "texts": "texts", "examples": "examples"}
    for kind in set(KINDS) - set(evidence):
        monkeypatch.setattr(Reader, calls[kind], lambda *_: pytest.fail("read"))
    material = prepare(config, zoo, backbone, evidence)
    assert material.keys.shape == (7, len(evidence), 16)
    assert all(tuple(known.states) == evidence for variants in material.tasks for known in variants)
    assert episodes(material, config, rng=seeded())[0].query.shape == (len(evidence), 16)


def labels_of(known: Known, backbone: Backbone) -> tuple[str, ...]:
    return tuple(backbone.tokenizer.decode(ids, skip_special_tokens=True) for ids in known.data.label_ids)


def test_variants_are_tasks_of_some_of_the_labels(material, tasks, backbone) -> None:
    assert [len(variants) for variants in material.tasks] == [1] * 6 + [4], "two labels have no part to make a task of"
    whole, *variants = material.tasks[6]
    assert labels_of(whole, backbone) == WORDS
    assert len({labels_of(variant, backbone) for variant in variants}) > 1
    for variant in variants:
        labels = labels_of(variant, backbone)
        assert 2 <= len(labels) < 5
        assert labels == tuple(word for word in WORDS if word in labels)
        texts = [backbone.tokenizer.decode(ids).split() for ids in variant.data.ids]
        for words, target in zip(texts, variant.data.targets.tolist(), strict=True):
            assert [word for word in words if word in WORDS] == [labels[target]], "the label's new number"
        assert len(texts) == 30 * len(labels), "all texts of these labels"


def test_variants_name_their_labels_and_are_read_from_their_own_texts(material, tasks, backbone) -> None:
    reader, task = Reader(backbone, material.reading), tasks["words"]
    examples = task.load_train()
    for variant in material.tasks[6][1:]:
        labels = labels_of(variant, backbone)
        told = reader.descriptions([f"Which word is it? The answer is one of: {', '.join(labels)}."])
        torch.testing.assert_close(variant.states["description"], told)
        torch.testing.assert_close(variant.states["labels"], reader.labels(labels))
        assert 0 < variant.pool == len(variant.states["texts"]) == len(variant.states["examples"]) < 30
        own = [i for i, label in enumerate(examples.labels) if WORDS[label] in labels]
        other = [i for i, label in enumerate(examples.labels) if WORDS[label] not in labels]
        for kind, read in (("texts", reader.texts), ("examples", reader.examples)):
            near, far = (
                (variant.states[kind][:, None] - read(Support.of(task, examples.subset(rows)))).norm(dim=2)
                for rows in (own, other)
            )
            assert near.amin(1).max() < 1e-4
            assert far.min() > 1e-2


def test_variants_can_be_done_without_and_fill_a_batch(config, zoo, backbone) -> None:
    none = prepare(changed(config, variants=0), zoo, backbone, ("description",))
    assert {len(variants) for variants in none.tasks} == {1}
    many = prepare(changed(config, variants=8, batch_size=90), zoo, backbone, ("description",)).tasks[6]
    assert 1 < len(many) < 9
    assert min(len(variant.data.ids) for variant in many) == 90


def same(one: list[TaskBatch], other: list[TaskBatch]) -> bool:
    return all(
        a.data.ids == b.data.ids
        and all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("query", "present", "allowed", "start"))
        for a, b in zip(one, other, strict=True)
    )


def test_episodes_follow_from_the_random_source(material, config) -> None:
    one, again, other = (episodes(material, config, rng=seeded(seed)) for seed in (3, 3, 4))
    assert [len(batch.data.ids) for batch in one] == [16] * 10
    assert same(one, again)
    assert not same(one, other)
    assert not same(one[:1], one[1:2])


def test_relatives_never_help_and_what_is_told_is_of_the_texts_task(material, config) -> None:
    batches = episodes(material, changed(config, steps_per_epoch=150, shots=(1,)), rng=seeded())
    assert {tuple(batch.allowed.tolist()) for batch in batches} == {tuple((~row).tolist()) for row in material.related}
    met = set()
    for batch in batches:
        expert, known = source_of(batch, material)
        met.add((expert, tuple(map(tuple, known.data.label_ids))))
        assert torch.equal(batch.allowed, ~material.related[expert])
        assert not batch.allowed[expert]
        rows = {}
        for i, kind in enumerate(KINDS):
            assert bool(batch.query[i].any()) == bool(batch.present[i])
            if batch.present[i]:
                states = known.states[kind].mean(0, keepdim=True) if kind == "labels" else known.states[kind]
                encoded = (states - material.conditions.centres[i]) / material.conditions.scales[i]
                distances = (encoded - batch.query[i]).norm(dim=1)
                assert distances.min() < 1e-4
                rows[kind] = int(distances.argmin())
        if {"texts", "examples"} <= rows.keys():
            assert rows["texts"] == rows["examples"], "one support"
    assert len(met) == 6 + len({tuple(map(tuple, known.data.label_ids)) for known in material.tasks[6]})


def source_of(batch: TaskBatch, material: Material) -> tuple[int, Known]:
    """The expert and the task or variant that a batch's labels and texts are of."""
    return next(
        (expert, known)
        for expert, variants in enumerate(material.tasks)
        for known in variants
        if known.data.label_ids == batch.data.label_ids and all(ids in known.data.ids for ids in batch.data.ids)
    )


@pytest.mark.parametrize("near_share", [0.0, 0.5, 1.0])
def test_an_episode_starts_from_a_fold_that_has_not_seen_its_task(config, folded, backbone, near_share: float) -> None:
    asked = changed(config, near_share=near_share, steps_per_epoch=120)
    material = prepare(asked, folded, backbone, ("labels",))
    starts = torch.stack([material.frame.coordinates(fold.adapter) for fold in folded.folds()])
    met = set()
    for batch in episodes(material, asked, rng=seeded()):
        expert, _ = source_of(batch, material)
        name = folded.ids[expert]
        (fold,) = (starts == batch.start).all(1).nonzero().flatten().tolist()
        is_near = fold != FAR[name]
        met.add((name, fold))
        assert fold == (NEAR if is_near else FAR)[name]
        assert batch.allowed.tolist() == [
            other != name and (is_near or name not in FAMILY or other not in FAMILY) for other in folded.ids
        ]
    far, near = set(FAR.items()), set(NEAR.items())
    assert (
        met == {0.0: far, 0.5: far | near, 1.0: near | {(name, at) for name, at in far if name not in NEAR}}[near_share]
    )


@pytest.mark.parametrize("is_multitask", [False, True])
def test_without_folds_every_task_starts_from_the_adapter_for_all(
    config, zoo, folded, backbone, tmp_path, is_multitask: bool
) -> None:
    other = Zoo.open(shutil.copytree(zoo.root, tmp_path / "zoo"))
    if is_multitask:
        shutil.copytree(folded.root / MULTITASK, other.root / MULTITASK)
    asked = changed(config, near_share=1.0, steps_per_epoch=30)
    material = prepare(asked, other, backbone, ("labels",))
    wanted = material.frame.coordinates(folded.multitask()) if is_multitask else torch.zeros(material.frame.size)
    assert torch.equal(material.start, wanted)
    adapter = material.frame.adapter(material.start + material.offsets[2], base=None)
    for site in adapter.sites:
        torch.testing.assert_close(
            adapter.delta_weight(site), zoo.adapter("meals").delta_weight(site), atol=4e-3, rtol=0
        )
    for batch in episodes(material, asked, rng=seeded()):
        assert torch.equal(batch.start, wanted)
        assert torch.equal(batch.allowed, ~material.related[source_of(batch, material)[0]])


def test_folds_that_do_not_know_an_expert_are_refused(config, folded, backbone, tmp_path) -> None:
    other = Zoo.open(shutil.copytree(folded.root, tmp_path / "zoo"))
    plan = other.root / FOLDS / "1" / PLAN
    plan.write_text(plan.read_text().replace("mugs", "pots"))
    with pytest.raises(
        ZooError, match=r"were made without mugs, which it has experts of; remove .* and build it again"
    ):
        prepare(config, other, backbone, ("labels",))


@pytest.mark.parametrize("dropout", [0.0, 0.9])
def test_there_is_always_some_evidence(material, config, dropout: float) -> None:
    batches = episodes(material, changed(config, evidence_dropout=dropout, steps_per_epoch=100), rng=seeded())
    present = torch.stack([batch.present for batch in batches])
    assert present.any(1).all()
    assert float(present.float().mean()) == pytest.approx(1.0 if dropout == 0 else 0.27, abs=0.08)
    assert present.any(0).all()


def test_a_zoo_of_one_family_is_refused_by_its_name(config, zoo, backbone) -> None:
    alike = dataclasses.replace(zoo, cards={c.id: c.model_copy(update={"family": "bank"}) for c in zoo})
    with pytest.raises(ConfigError, match=r"one family alone, 'bank', .*Name a zoo of at least two families"):
        prepare(config, alike, backbone, KINDS)
    with pytest.raises(ConfigError, match="one family alone, 'words'"):
        prepare(config, zoo.select(without=EXPERTS), backbone, KINDS)


def test_a_base_of_other_weights_is_refused(config, zoo, encoder) -> None:
    other = dataclasses.replace(zoo, manifest=zoo.manifest.model_copy(update={"base_hash": "0" * 64}))
    with pytest.raises(ConfigError, match=r"has other weights here \(.{12}\) than the zoo .* on \(0{12}\); restore"):
        fit_attention(config, other, encoder)


# --- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contrast_weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("trained", [False, True])
def test_the_loss_is_that_of_the_adapter_that_is_made(material, config, backbone, contrast_weight, trained) -> None:
    maker = maker_of(material, trained=trained)
    objective = TaskObjective(backbone, maker, material.frame, contrast_weight=contrast_weight)
    for batch in episodes(material, changed(config, steps_per_epoch=4), rng=seeded()):
        found = objective.loss(batch)
        adapter = material.frame.adapter(maker(batch).detach(), base=None)
        with backbone.adapted(adapter):
            texts, labels = backbone.encode(batch.data.ids), backbone.encode(batch.data.label_ids)
        label_text, contrast = (
            label_text_loss(texts, labels, batch.data.targets),
            contrast_loss(texts, batch.data.targets),
        )
        torch.testing.assert_close(found["label_text"], label_text)
        if contrast_weight:
            torch.testing.assert_close(found["contrast"], contrast)
        torch.testing.assert_close(found["loss"], label_text + contrast_weight * contrast)
        bare = label_text_loss(
            backbone.encode(batch.data.ids), backbone.encode(batch.data.label_ids), batch.data.targets
        )
        assert (label_text - bare).abs() > 1e-3, "the adapter is in use, and gone afterwards"


def test_gradients_reach_the_network_and_nothing_else(material, config, backbone) -> None:
    maker = maker_of(material, trained=True)
    objective = TaskObjective(backbone, maker, material.frame, contrast_weight=1.0)
    assert {id(p) for p in objective.parameters()} == {id(p) for p in maker.network.parameters()}
    assert set(objective.state_dict()) == {f"maker.network.{name}" for name in maker.network.state_dict()}
    (batch,) = episodes(material, changed(config, steps_per_epoch=1, evidence_dropout=0), rng=seeded())
    objective.loss(batch)["loss"].backward()
    for name, parameter in maker.network.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    others = [
        *backbone.model.parameters(),
        *material.frame.lora_A.values(),
        material.keys,
        material.offsets,
        material.start,
    ]
    assert all(tensor.grad is None for tensor in others)


def test_a_strength_that_is_not_learnt_stays_one(material, config, backbone) -> None:
    maker = maker_of(material, gates="none")
    objective = TaskObjective(backbone, maker, material.frame, contrast_weight=1.0)
    objective.loss(episodes(material, config, rng=seeded())[0])["loss"].backward()
    assert maker.network.gates.grad is None
    assert maker.network.up.grad is not None


# --- training -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(config, zoo, encoder) -> dict[str | None, tuple[Attention, list[dict[str, float]]]]:
    """Trained with left-out tasks to choose the epoch, and to the end without."""
    return {split: fit_attention(changed(config, judged_on=split), zoo, encoder) for split in ("validation", None)}


@pytest.fixture(scope="module")
def generator(fitted) -> Attention:
    return fitted[None][0]


def states(generator: Attention) -> dict[str, Tensor]:
    return generator.network.state_dict()


def assert_near(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-5, rtol=1e-5)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


def test_training_lowers_the_loss_of_tasks_whose_family_does_not_help(fitted, config, material, backbone) -> None:
    generator, history = fitted[None]
    assert len(history) == 30
    assert history[0].keys() == {"loss", "label_text", "contrast"}
    fresh = episodes(material, changed(config, steps_per_epoch=150), rng=seeded(99))
    means = []
    for maker in (maker_of(material), AttentionMaker(generator.network, generator.experts)):
        objective = TaskObjective(backbone, maker, material.frame, contrast_weight=1.0)
        with torch.no_grad():
            means.append(sum(float(objective.loss(batch)["loss"]) for batch in fresh) / len(fresh))
    assert means[1] < 0.98 * means[0]
    assert (generator.manifest.epochs, generator.manifest.worth) == (3, ())


def test_training_is_seeded_and_leaves_the_random_state_alone(config, zoo, encoder) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    short = changed(config, judged_on=None, epochs=1)
    one, again, other = (fit_attention(changed(short, seed=seed), zoo, encoder) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert [row["loss"] for row in one[1]] == pytest.approx([row["loss"] for row in again[1]], abs=1e-5)
    assert_near(states(one[0]), states(again[0]))
    assert distance(states(one[0]), states(other[0])) > 0.01


def test_every_epoch_of_every_seed_has_its_own_episodes(config, zoo, encoder, monkeypatch) -> None:
    drawn = []

    def watched(*args: object, **options: object) -> list[TaskBatch]:
        batches = episodes(*args, **options)
        drawn.append(tuple(map(tuple, batches[0].data.ids)))
        return batches

    monkeypatch.setattr(attention_fit, "episodes", watched)
    for seed in (0, 1):
        fit_attention(changed(config, judged_on=None, steps_per_epoch=1, seed=seed), zoo, encoder)
    assert len(set(drawn)) == 2 * 3


def test_task_vectors_are_read_in_float32_whatever_the_loss_is_computed_in(config, zoo, encoder, material) -> None:
    short = changed(config, judged_on=None, epochs=1, steps_per_epoch=1)
    rough, plain = (fit_attention(changed(short, dtype=dtype), zoo, encoder) for dtype in ("bfloat16", "float32"))
    torch.testing.assert_close(rough[0].experts.keys, material.keys)
    assert rough[1][0]["loss"] == pytest.approx(plain[1][0]["loss"], rel=0.05)
    assert rough[1][0]["loss"] != plain[1][0]["loss"]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(("judged_on", "at"), [("validation", 5), ("validation", 21), (None, 15)])
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    fitted, config, zoo, encoder, tmp_path, judged_on: str | None, at: int
) -> None:
    def stop(step: int) -> None:
        if step == at:
            raise Interrupted

    asked = changed(config, judged_on=judged_on)
    with pytest.raises(Interrupted):
        fit_attention(asked, zoo, encoder, checkpoints=tmp_path, on_step=stop)
    steps: list[int] = []
    resumed, history = fit_attention(asked, zoo, encoder, checkpoints=tmp_path, on_step=steps.append)
    assert steps == list(range(1 + (at - 1) // 10 * 10, 31)), "from the last whole epoch on"
    whole, whole_history = fitted[judged_on]
    assert_near(states(resumed), states(whole))
    assert len(whole.manifest.worth) == (4 if judged_on else 0)
    assert resumed.manifest.worth == whole.manifest.worth
    assert resumed.manifest.epochs == whole.manifest.epochs
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in whole_history], abs=1e-5)


def valued(monkeypatch, *values: float) -> list[dict[str, Tensor]]:
    """Let the judge say these values, in turn; returns the networks it saw."""
    seen: list[dict[str, Tensor]] = []

    def worth(_judge: Judge, maker: AttentionMaker) -> float:
        seen.append(copy.deepcopy(maker.network.state_dict()))
        return values[len(seen) - 1]

    monkeypatch.setattr(Judge, "worth", worth)
    return seen


@pytest.mark.parametrize(
    ("values", "best", "is_kept"),
    [((0.5, 0.4, 0.3, 0.2), 0, True), ((0.1, 0.4, 0.3, 0.4), 1, False), ((-0.3, -0.2, -0.1, 0.0), 3, True)],
)
def test_the_epoch_that_was_worth_most_is_kept(
    config, zoo, encoder, monkeypatch, tmp_path, values: tuple[float, ...], best: int, is_kept: bool
) -> None:
    seen = valued(monkeypatch, *values)
    folder = tmp_path if is_kept else None
    generator, _ = fit_attention(changed(config, steps_per_epoch=1), zoo, encoder, checkpoints=folder)
    assert len(seen) == 4
    assert distance(seen[0], seen[1]) > 1e-3
    assert distance(states(generator), seen[best]) == 0
    assert generator.manifest.epochs == best
    assert generator.manifest.worth == values


def test_candidates_outlive_their_process(tmp_path) -> None:
    for folder in (tmp_path / "state", None):
        kept = Candidates(folder)
        for epoch, worth in enumerate((0.1, 0.3, 0.2)):
            kept.add(epoch, worth, {"a": torch.tensor(float(epoch))})
        for candidates in (kept, Candidates(folder)) if folder else (kept,):
            epoch, state = candidates.best()
            assert (epoch, float(state["a"])) == (1, 1.0)
            assert candidates.worth == {0: 0.1, 1: 0.3, 2: 0.2}


def test_it_is_worth_its_scores_and_what_another_description_costs(
    fitted, config, generator, encoder, tasks, material, backbone
) -> None:
    left_out = tasks.split("validation")

    def worth(generator: Attention) -> float:
        conditioner = Conditioner.of(generator, encoder)
        found = []
        for task, other in zip(left_out, (*left_out[1:], left_out[0]), strict=True):
            data = TaskData.of(task, task.load_test(), backbone, max_length=64)
            made = [made_by(generator, conditioner.condition(told.description)) for told in (task, other)]
            right, wrong = (score_task(backbone, adapter, data) for adapter in made)
            found.append(right.accuracy - wrong.accuracy / 2 + right.knn_accuracy - wrong.knn_accuracy / 2)
        return sum(found) / len(found)

    judge = Judge.of(left_out, config, material, backbone)
    assert judge.worth(AttentionMaker(generator.network, generator.experts)) == pytest.approx(worth(generator))
    judged = fitted["validation"][0]
    assert judged.manifest.worth[judged.manifest.epochs] == max(judged.manifest.worth)
    assert judged.manifest.worth[judged.manifest.epochs] == pytest.approx(worth(judged), abs=1e-4)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"judged_on": "one"}, ConfigError, "'one' holds 1 tasks to judge on; at least two"),
        ({"judged_on": "known"}, ConfigError, "'known' is to be judged on, but experts of .* were trained on cups;"),
        ({"judged_on": "nowhere"}, TaskError, "no split 'nowhere'"),
        ({"attention": {"evidence": ["texts"]}}, ConfigError, "the evidence is texts; add the description"),
    ],
)
def test_tasks_that_cannot_be_judged_on_are_refused(config, zoo, encoder, values, error, message) -> None:
    with pytest.raises(error, match=message):
        fit_attention(changed(config, **values), zoo, encoder)


# --- generating -----------------------------------------------------------------------------------------------------


def made_by(generator: Attention, condition: Condition) -> Adapter:
    (generation,) = generator.generate(condition, rng=seeded())
    return generation.adapter


def deltas(adapter: Adapter) -> Tensor:
    return torch.cat([adapter.delta_weight(site).flatten() for site in sorted(adapter.sites)])


@pytest.fixture(scope="module")
def asked(generator, encoder) -> Condition:
    return Conditioner.of(generator, encoder).condition("Is it bread or cold soup?")


@pytest.fixture(scope="module")
def folder(generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(generator, tmp_path_factory.mktemp("generators") / "attention")


def saved(generator: Attention, folder: Path) -> Path:
    for name, content in generator.files().items():
        atomic_write(folder / name, content)
    return folder


def test_it_makes_a_merge_of_the_experts_by_their_weights(generator, asked, zoo) -> None:
    ungated = dataclasses.replace(generator, network=copy.deepcopy(generator.network))
    ungated.network.gates.zero_()
    (generation,) = ungated.generate(asked, rng=seeded())
    weights = {neighbour.id: neighbour.weight for neighbour in generation.neighbours}
    assert set(weights) == set(zoo.ids)
    assert sum(weights.values()) == pytest.approx(1)
    assert list(weights.values()) == sorted(weights.values(), reverse=True)
    merged = sum(weight * deltas(zoo.adapter(expert)) for expert, weight in weights.items())
    torch.testing.assert_close(deltas(generation.adapter), merged, atol=1e-5, rtol=1e-4)
    assert generation.adapter.settings.base_model_name_or_path == zoo.manifest.base
    assert generation.adapter.settings.task_type == "FEATURE_EXTRACTION"
    assert generation.adapter.spec == zoo.adapter("meals").spec


def test_nothing_is_drawn_at_random(generator, asked) -> None:
    assert not generator.is_stochastic
    one, other = (generator.generate(asked, rng=seeded(seed), num_samples=2) for seed in (0, 1))
    assert len(one) == 2
    assert all(torch.equal(deltas(one[0].adapter), deltas(made.adapter)) for made in (*one, *other))


def test_every_kind_of_evidence_is_heard(generator, encoder, tasks) -> None:
    conditioner = Conditioner.of(generator, encoder)
    labelled = Support.of(tasks["ovens"], tasks["ovens"].load_test().subset(range(8)))
    told = [{}, {"labels": ("bread", "warm")}, {"support": Support(labelled.texts)}, {"support": labelled}]
    made = [deltas(made_by(generator, conditioner.condition("Which is it?", **values))) for values in told]
    assert torch.pdist(torch.stack(made)).min() > 1e-3


def test_without_evidence_it_reads_it_refuses(generator, encoder) -> None:
    embedding = encoder.encode(["soup"])[0]
    with pytest.raises(GeneratorError, match=r"reads description or labels or texts or examples, .* no task vector"):
        generator.generate(Condition("soup", embedding), rng=seeded())
    deaf = generator.manifest.model_copy(update={"config": AttentionConfig(evidence=("texts",))})
    with pytest.raises(GeneratorError, match="reads texts, but the condition holds description; give a few"):
        dataclasses.replace(generator, manifest=deaf).generate(
            Condition("soup", embedding, {"description": torch.zeros(16)}), rng=seeded()
        )


def test_saved_and_loaded_it_makes_the_same_adapter(generator, asked, folder, encoder) -> None:
    loaded = Attention.load(folder)
    assert loaded.manifest == generator.manifest
    assert {path.name for path in folder.iterdir()} == {"generator.yaml", "generator.safetensors", "frame.safetensors"}
    (one,), (other,) = (g.generate(asked, rng=seeded()) for g in (generator, loaded))
    assert one.adapter.spec == other.adapter.spec
    assert all(torch.equal(one.adapter.lora_A[site], other.adapter.lora_A[site]) for site in one.adapter.sites)
    assert all(torch.equal(one.adapter.lora_B[site], other.adapter.lora_B[site]) for site in one.adapter.sites)
    assert one.neighbours == other.neighbours


def test_the_start_is_part_of_what_is_made_and_kept(config, folded, encoder, asked, tmp_path) -> None:
    short = changed(config, judged_on=None, epochs=1, steps_per_epoch=1)
    trained, _ = fit_attention(short, folded, encoder)
    loaded = Attention.load(saved(trained, tmp_path / "attention"))
    for experts in (trained.experts, loaded.experts):
        folds = torch.stack([trained.frame.coordinates(fold.adapter) for fold in folded.folds()])
        torch.testing.assert_close(experts.start, folds.mean(0))
        assert (experts.start - trained.frame.coordinates(folded.multitask())).abs().max() > 0.01
    one, other = (made_by(g, asked) for g in (trained, loaded))
    assert torch.equal(deltas(one), deltas(other))
    unbegun = dataclasses.replace(loaded, experts=dataclasses.replace(loaded.experts, start=0 * loaded.experts.start))
    assert (deltas(one) - deltas(made_by(unbegun, asked))).abs().max() > 0.1


def test_left_out_tasks_are_judged_from_the_start_that_is_generated_from(config, folded, backbone, tasks) -> None:
    material = prepare(config, folded, backbone, ("description",))
    judge = Judge.of(tasks.split("validation"), config, material, backbone)
    assert all(torch.equal(batch.start, material.start) for _, *told in judge.tasks for batch in told)
    assert material.start.any()


@pytest.mark.parametrize("damage", ["none there", "truncated", "part", "other", "kind", "frame"])
def test_a_damaged_generator_is_refused(folder, tmp_path, damage: str) -> None:
    broken = shutil.copytree(folder, tmp_path / "attention")
    tensors, manifest = broken / "generator.safetensors", broken / "generator.yaml"
    match damage:
        case "none there":
            shutil.rmtree(broken)
        case "truncated":
            tensors.write_bytes(tensors.read_bytes()[:-10])
        case "part":
            save_file({n: t for n, t in load_file(tensors).items() if n != "keys"}, tensors)
        case "other":
            manifest.write_text(manifest.read_text().replace("metric_rank: 2", "metric_rank: 3"))
        case "kind":
            manifest.write_text(manifest.read_text().replace("kind: attention", "kind: sg"))
        case "frame":
            (broken / "frame.safetensors").unlink()
    with pytest.raises(GeneratorError, match=r"(?s)does not hold a whole attention generator .*train it again"):
        Attention.load(broken)


def test_experts_of_other_licences_weigh_nothing(generator, asked, folder, zoo, encoder) -> None:
    opened = open_generator(str(folder), zoo, encoder, licences=["mit"])
    weights = {n.id: n.weight for n in opened.generate(asked, rng=seeded())[0].neighbours}
    assert {expert for expert, weight in weights.items() if weight} == {"drinks", "weather", "words"}
    free = {n.id: n.weight for n in generator.generate(asked, rng=seeded())[0].neighbours}
    share = sum(free[expert] for expert in ("drinks", "weather", "words"))
    assert weights["drinks"] == pytest.approx(free["drinks"] / share, rel=1e-4)
    assert generator.without(frozenset()).generate(asked, rng=seeded())[0].neighbours[0].weight == max(free.values())
    with pytest.raises(GeneratorError, match="None of the 7 experts"):
        generator.without(frozenset(zoo.ids))


def test_top_k_is_refused(folder, zoo, encoder) -> None:
    with pytest.raises(GeneratorError, match="--top-k does not apply"):
        open_generator(str(folder), zoo, encoder, top_k=2)


# --- as a command ---------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_generator_that_opens(fitted, config, zoo, encoder, tmp_path) -> None:
    path, out = tmp_path / "attention.yaml", tmp_path / "out"
    path.write_text(config.to_yaml())
    asked = read_config(path, [f"out={out}"])
    assert asked == changed(config, out=out)

    def stop(step: int) -> None:
        if step == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_generator(asked, on_step=stop)
    with pytest.raises(GeneratorError, match="unfinished run with other settings"):
        train_generator(changed(asked, variants=0))
    trained = train_generator(asked)
    assert trained.experts == zoo.ids
    assert trained.final.keys() == {"loss", "label_text", "contrast"}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [], "no state is left"
    assert len(json.loads((out / LOSSES).read_text())) == 30
    generator = open_generator(str(out), zoo, encoder)
    assert isinstance(generator, Attention)
    assert_near(states(generator), states(fitted["validation"][0]))
    assert generator.manifest.worth == fitted["validation"][0].manifest.worth


def test_generate_tells_it_the_labels_and_the_card_says_so(folder, zoo, toys, tmp_path, monkeypatch, capsys) -> None:
    def generate(out: str, *more: str) -> dict:
        asked = ["generate", "Which is it?", "--generator", str(folder), "--zoo", str(zoo.root), "--out", out, "--json"]
        monkeypatch.setattr(sys, "argv", ["loragen", *asked, "--encoder", str(toys / "base"), *more])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return json.loads(capsys.readouterr().out)[0]

    monkeypatch.chdir(tmp_path)
    plain, told = generate("plain"), generate("told", "--labels", "cold soup, warm tea")
    assert (plain["labels"], told["labels"]) == ([], ["cold soup", "warm tea"])
    assert read_yaml(tmp_path / "told" / "card.yaml")["labels"] == ["cold soup", "warm tea"]
    assert "the names of its 2 labels" in (tmp_path / "told" / "README.md").read_text()
    one, other = (deltas(Adapter.load(tmp_path / out)) for out in ("plain", "told"))
    assert (one - other).abs().max() > 1e-4
