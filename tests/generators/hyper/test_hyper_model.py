"""A trained hypernetwork: what it generates, keeps and refuses."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from hyper_toys import (
    changed,
    deltas,
    generated,
    network_of,
    saved,
    seeded,
    with_folds,
)
from safetensors.torch import load_file, save_file

from loragen.conditions.condition import Condition, Conditioner, Evidence
from loragen.errors import GeneratorError
from loragen.generators.hyper.fit import (
    fit_hyper,
)
from loragen.generators.hyper.model import Hyper, HyperConfig
from loragen.generators.registry import open_generator
from loragen.zoo.expert_index import ExpertIndex


@pytest.fixture(scope="module")
def generator(config, zoo, encoder) -> Hyper:
    return fit_hyper(config, zoo, encoder)[0]


@pytest.fixture(scope="module")
def asked(generator, encoder) -> Condition:
    return Conditioner(encoder, generator.reading, generator.evidence).condition(Evidence("Is it bread or cold soup?"))


@pytest.fixture(scope="module")
def folder(generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(generator, tmp_path_factory.mktemp("generators") / "hyper")


def test_untrained_it_makes_the_adapter_for_all_tasks(generator, asked, data, zoo) -> None:
    untrained = dataclasses.replace(generator, network=network_of(data))
    torch.testing.assert_close(deltas(generated(untrained, asked)), deltas(zoo.multitask()))
    assert (deltas(generated(generator, asked)) - deltas(zoo.multitask())).abs().max() > 1e-3


def test_all_experts_have_equal_shares_nearest_first(generator, asked, zoo, encoder) -> None:
    (generation,) = generator.generate(asked, rng=seeded())
    index = ExpertIndex.of(zoo, encoder).index
    wanted = [(hit.id, hit.similarity, 1 / 7) for hit in index.search(asked.embedding, 7)]
    assert [(n.id, n.similarity, n.weight) for n in generation.neighbours] == wanted
    assert generation.adapter.settings.base_model_name_or_path == zoo.manifest.base
    assert generation.adapter.settings.task_type == "FEATURE_EXTRACTION"
    assert generation.adapter.spec == zoo.adapter("meals").spec


def test_nothing_is_drawn_at_random(generator, asked) -> None:
    assert not generator.is_stochastic
    one, other = (generator.generate(asked, rng=seeded(seed), num_samples=2) for seed in (0, 1))
    assert len(one) == 2
    assert all(torch.equal(deltas(one[0].adapter), deltas(other.adapter)) for other in (*one, *other))


def test_every_kind_of_evidence_is_heard(generator, encoder, tasks) -> None:
    conditioner = Conditioner(encoder, generator.reading, generator.evidence)
    labelled = tasks["ovens"].load_test().subset(range(8))
    given = [{}, {"labels": ("bread", "warm")}, {"examples": labelled.unlabelled()}, {"examples": labelled}]
    made = [deltas(generated(generator, conditioner.condition(Evidence("Which is it?", **parts)))) for parts in given]
    assert torch.pdist(torch.stack(made)).min() > 1e-3


def test_without_evidence_it_reads_it_refuses(generator, encoder) -> None:
    embedding = encoder.encode(["soup"])[0]
    with pytest.raises(GeneratorError, match=r"reads description or labels or texts or examples, .* no task vector"):
        generator.generate(Condition("soup", embedding), rng=seeded())
    deaf = generator.manifest.model_copy(update={"config": HyperConfig(evidence=("texts",))})
    with pytest.raises(GeneratorError, match="reads texts, but the condition holds description; give a few"):
        dataclasses.replace(generator, manifest=deaf).generate(
            Condition("soup", embedding, {"description": torch.zeros(16)}), rng=seeded()
        )


@pytest.mark.parametrize("values", [{}, {"gated": False}, {"residual": False}])
def test_saved_and_loaded_it_makes_the_same_adapter(config, zoo, encoder, asked, tmp_path, values: dict) -> None:
    short = changed(config, epochs=1, steps_per_epoch=2, hyper=config.hyper.model_copy(update=values))
    trained, _ = fit_hyper(short, zoo, encoder)
    loaded = Hyper.load(saved(trained, tmp_path / "hyper"))
    assert loaded.manifest == trained.manifest
    assert {p.name for p in (tmp_path / "hyper").iterdir()} == {
        "generator.yaml",
        "generator.safetensors",
        "frame.safetensors",
    }
    (one,), (other,) = (g.generate(asked, rng=seeded()) for g in (trained, loaded))
    assert one.adapter.spec == other.adapter.spec
    assert torch.equal(deltas(one.adapter), deltas(other.adapter))
    assert one.neighbours == other.neighbours
    assert load_file(tmp_path / "hyper" / "generator.safetensors")["network.basis"].dtype == torch.bfloat16


def test_the_start_is_part_of_what_is_generated_and_kept(config, zoo, encoder, asked, tmp_path) -> None:
    folded = with_folds(zoo.select(), tmp_path / "zoo")
    trained, _ = fit_hyper(changed(config, epochs=1, steps_per_epoch=1), folded, encoder)
    loaded = Hyper.load(saved(trained, tmp_path / "hyper"))
    folds = torch.stack([trained.frame.coordinates(fold.adapter) for fold in folded.folds()])
    for generator in (trained, loaded):
        torch.testing.assert_close(generator.start, folds.mean(0))
    assert (loaded.start - trained.frame.coordinates(folded.multitask())).abs().max() > 0.01
    unbegun = dataclasses.replace(loaded, start=0 * loaded.start)
    one, other, without = (deltas(generated(g, asked)) for g in (trained, loaded, unbegun))
    assert torch.equal(one, other)
    assert (one - without).abs().max() > 0.1


@pytest.mark.parametrize("damage", ["none there", "truncated", "part", "other", "kind", "frame"])
def test_a_damaged_generator_is_refused(folder, tmp_path, damage: str) -> None:
    broken = shutil.copytree(folder, tmp_path / "hyper")
    tensors, manifest = broken / "generator.safetensors", broken / "generator.yaml"
    match damage:
        case "none there":
            shutil.rmtree(broken)
        case "truncated":
            tensors.write_bytes(tensors.read_bytes()[:-10])
        case "part":
            save_file({n: t for n, t in load_file(tensors).items() if n != "start"}, tensors)
        case "other":
            manifest.write_text(manifest.read_text().replace("basis_size: 7", "basis_size: 3"))
        case "kind":
            manifest.write_text(manifest.read_text().replace("kind: hyper", "kind: sg"))
        case "frame":
            (broken / "frame.safetensors").unlink()
    with pytest.raises(GeneratorError, match=r"(?s)does not hold a whole hyper generator .*train it again"):
        Hyper.load(broken)


def test_it_cannot_leave_experts_out(folder, zoo, encoder) -> None:
    with pytest.raises(GeneratorError, match=r"--licence does not apply .* learnt from all experts"):
        open_generator(str(folder), zoo, encoder, licences=["mit"])
    with pytest.raises(GeneratorError, match="--top-k does not apply"):
        open_generator(str(folder), zoo, encoder, top_k=2)
