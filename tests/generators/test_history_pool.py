"""The attention pool trained on synthetic persons: its batches, its loss, its folder, and generators that find it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import loragen
from loragen.conditions.condition import Evidence
from loragen.conditions.history import History, item_vectors
from loragen.conditions.history_pool import HistoryPool, PoolConfig
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, GeneratorError
from loragen.generation import Pipeline
from loragen.generators.history import HISTORY_MANIFEST, TENSORS, TrainedPool
from loragen.generators.history_fit import (
    HistoryBatch,
    HistoryObjective,
    HistoryTrainConfig,
    person_batches,
    read_corpus,
)
from loragen.generators.registry import available
from loragen.generators.sg.fit import read_experts
from loragen.generators.train import read_config, train_generator
from loragen.tasks.examples import Examples
from loragen.zoo.zoo import Zoo

TEXTS = ("tea a", "warm b", "tea c", "bread d")


@pytest.fixture(scope="module")
def config(toys, tmp_path_factory):
    return HistoryTrainConfig(
        generator="history",
        zoo=toys / "zoo",
        encoder=str(toys / "base"),
        tasks=toys / "tasks.yaml",
        out=tmp_path_factory.mktemp("generators") / "history",
        pool=PoolConfig(short=2),
        texts=12,
        lengths=(2, 4),
        top_k=3,
        components=4,
        epochs=3,
        steps_per_epoch=15,
        batch_size=16,
        learning_rate=1e-2,
    )


@pytest.fixture(scope="module")
def trained(config):
    return train_generator(config)


@pytest.fixture(scope="module")
def read(config):
    zoo, encoder = Zoo.open(config.zoo).select(splits={"experts"}), TextEncoder.load(config.encoder)
    return read_experts(zoo, encoder, components=config.components), read_corpus(config, zoo, encoder)


def with_pool(toys, config, folder):
    """A copy of the toy zoo with the trained pool beside its generators."""
    shutil.copytree(toys / "zoo", folder)
    shutil.copytree(config.out, folder / "generators" / "history")
    return folder


def changed(config, **values):
    return HistoryTrainConfig.model_validate(config.model_dump() | values)


# --- persons as batches ---------------------------------------------------------------------------------------------


def test_rows_of_the_corpus_are_the_embeddings_of_the_tasks_texts(read, config):
    _, corpus = read
    encoder, n = TextEncoder.load(config.encoder), 12 * len(corpus.domains)
    assert corpus.items.shape == (2 * n, 16)
    rows = [json.loads(line) for line in (config.tasks.parent / "data" / "mugs.train.jsonl").read_text().splitlines()]
    own = corpus.rows[[domain.name for domain in corpus.domains].index("mugs")]
    embedded = encoder.encode([row["text"] for row in rows])
    assert (corpus.items[own] @ embedded.T).max(1).values.allclose(torch.ones(12), atol=1e-5)
    history = History.of(Examples(tuple(row["text"] for row in rows)))
    told = item_vectors(History(history.texts, tuple(sorted(row["label"] for row in rows))), encoder)
    assert told.shape == embedded.shape


def test_a_person_wants_the_mean_of_its_experts_and_may_be_denied_them(read, config):
    data, corpus = read
    for unseen in (0.0, 1.0):
        batches = person_batches(data, corpus, changed(config, unseen=unseen, labelled=0.0), rng=seeded())
        assert len(batches) == 15
        for batch in batches:
            assert batch.rows.max() < len(corpus.items) // 2
            assert bool(batch.absent.any(1).all()) == bool(unseen)
            of_domains = torch.tensor([n for n, rows in enumerate(corpus.rows) for _ in rows])
            for at in range(len(batch.rows)):
                own = set(of_domains[batch.rows[at][batch.present[at]]].tolist())
                if unseen:
                    assert own <= set(batch.absent[at].nonzero().flatten().tolist())
        alone = person_batches(data, corpus, changed(config, most_domains=1, labelled=0.0), rng=seeded(1))[0]
        own = of_domains[alone.rows[:, 0]]
        torch.testing.assert_close(alone.target, data.library.means[own])


def test_the_loss_is_that_of_sgs_mixture(read, config):
    data, corpus = read
    batch = person_batches(data, corpus, config, rng=seeded())[0]
    pool = HistoryPool.untrained(16, config.pool)
    losses = HistoryObjective(pool, corpus.items, data.library, config).loss(batch)
    errors = []
    for at in range(len(batch.rows)):
        description = batch.description[at] if batch.described[at] else None
        query = pool.read_one(corpus.items[batch.rows[at][batch.present[at]]], description).query
        similarities = (query @ data.library.embeddings.T).masked_fill(batch.absent[at], -torch.inf)
        weights = data.library.weights(similarities, top_k=3, temperature=0.1)
        errors.append((data.library.mixture(weights).mean - batch.target[at]).square().sum())
    wanted = torch.stack(errors).mean() / data.library.means.square().sum(1).mean()
    torch.testing.assert_close(losses["loss"], wanted)


def test_a_batch_moves_and_divides_as_one(read, config):
    from loragen.training.ranks import Rank

    batch = person_batches(*read, config, rng=seeded())[0]
    halves = [batch.part(Rank(at, 2)) for at in (0, 1)]
    for name, value in vars(batch.to(torch.device("cpu"))).items():
        assert sorted(torch.cat([getattr(half, name) for half in halves]).flatten().tolist()) == sorted(
            value.flatten().tolist()
        )
    assert isinstance(halves[0], HistoryBatch)


# --- training -------------------------------------------------------------------------------------------------------


def test_a_trained_pool_is_better_than_the_mean_on_persons_it_has_not_met(trained, config, read):
    data, corpus = read
    batches = person_batches(data, corpus, config, rng=seeded(77))

    def loss(pool):
        objective = HistoryObjective(pool, corpus.items, data.library, config)
        return sum(float(objective.loss(batch)["loss"]) for batch in batches)

    assert loss(TrainedPool.load(config.out).pool) < 0.95 * loss(HistoryPool.untrained(16, config.pool))


def test_a_pool_is_trained_and_read_back(trained, config):
    assert read_config(config.out / "run.yaml") == config
    found = TrainedPool.load(config.out)
    assert found.manifest.pool == config.pool
    assert not found.pool.wanted.eq(0).all()
    stored = load_file(config.out / TENSORS)
    assert {f"network.{name}" for name in found.pool.state_dict()} == set(stored)
    assert not [path for path in config.out.parent.iterdir() if path != config.out], "no state is left"


def test_an_interrupted_training_goes_on_to_the_same_pool(trained, config, tmp_path):
    again = changed(config, out=tmp_path / "history")

    def stop(step):
        if step == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_generator(again, on_step=stop)
    train_generator(again)
    one, other = (load_file(folder / TENSORS) for folder in (config.out, again.out))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ConfigError, match="a generator that was trained before"):
        train_generator(again)
    train_generator(again, force=True)


def test_the_pool_is_no_generator(toys, trained, config, tmp_path):
    zoo = Zoo.open(with_pool(toys, config, tmp_path / "zoo"))
    assert "history" not in available(zoo)
    with pytest.raises(GeneratorError, match="There is no generator 'history'"):
        Pipeline.open("history", zoo, config.encoder)


# --- in use ---------------------------------------------------------------------------------------------------------


def test_generators_use_the_pool_that_lies_beside_them(toys, trained, config, tmp_path):
    ask = {"encoder": config.encoder, "generator": "topk", "history": TEXTS}
    zoo = with_pool(toys, config, tmp_path / "zoo")
    plain, pooled = (loragen.generate("Is it tea?", zoo=place, **ask) for place in (toys / "zoo", zoo))
    assert (plain.card.history.pool, pooled.card.history.pool) == ("untrained", "trained")
    assert any("no trained pool" in note for note in plain.notes)
    assert not any("no trained pool" in note for note in pooled.notes)
    assert [p.weight for p in plain.card.parents] != [p.weight for p in pooled.card.parents]
    query = TrainedPool.load(config.out).pool.read_one(
        item_vectors(History.given(TEXTS), TextEncoder.load(config.encoder)),
        TextEncoder.load(config.encoder).encode(["Is it tea?"])[0],
    )
    pipeline = Pipeline.open("topk", zoo, config.encoder)
    assert pipeline.similarity(Evidence("Is it tea?", history=History.given(TEXTS))) == pytest.approx(
        float((pipeline.experts.index.vectors @ query.query[0]).max()), abs=1e-5
    )


def test_a_pool_of_other_experts_and_a_damaged_one_are_refused(toys, trained, config, tmp_path):
    zoo = with_pool(toys, config, tmp_path / "zoo")
    ask = {"zoo": zoo, "encoder": config.encoder, "generator": "topk"}
    manifest = zoo / "generators" / "history" / HISTORY_MANIFEST
    whole = manifest.read_text()
    manifest.write_text(
        whole.replace(f"zoo_hash: {whole.split('zoo_hash: ')[1].split()[0]}", f"zoo_hash: '{'0' * 64}'")
    )
    with pytest.raises(GeneratorError, match=r"The pool of .* was trained on other experts .*train it again"):
        loragen.generate("Is it tea?", history=TEXTS, **ask)
    loragen.generate("Is it tea?", **ask)
    manifest.write_text(whole)
    tensors = zoo / "generators" / "history" / TENSORS
    save_file({name: value[:1] for name, value in load_file(tensors).items()}, tensors)
    with pytest.raises(GeneratorError, match=r"does not hold a whole history attention pool .*train it again"):
        loragen.generate("Is it tea?", history=TEXTS, **ask)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)
