"""ICM-LoRA trained on descriptions: what it generates, keeps and refuses."""

import dataclasses
import shutil

import pytest
import torch
from icm_toys import (
    ENOUGH,
    conditioner_of,
    configured,
    described,
    distances,
    equal_states,
    generated,
    saved,
    seeded,
    update,
    with_another_expert,
)
from safetensors.torch import load_file, save_file

from loragen.bases.text_encoder import LabelTextEncoder
from loragen.conditions.condition import Condition, Evidence
from loragen.errors import GeneratorError
from loragen.generators.icm import fit as icm_fit
from loragen.generators.icm.episodes import episodes
from loragen.generators.icm.fit import fit_icm
from loragen.generators.icm.model import ICM, ICMBatch
from loragen.generators.registry import available, open_generator
from loragen.tasks.examples import Examples
from loragen.zoo.zoo import Zoo

# --- training from descriptions -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(zoo, model, encoder) -> tuple[ICM, list[dict[str, float]]]:
    return fit_icm(configured(model, **ENOUGH), zoo, encoder)


@pytest.fixture(scope="module")
def trained_raw(zoo, model, encoder) -> tuple[ICM, list[dict[str, float]]]:
    return fit_icm(configured(model, icm={"codec": "raw"}, **ENOUGH), zoo, encoder)


@pytest.fixture(scope="module")
def trained_small(zoo, model, encoder) -> tuple[ICM, list[dict[str, float]]]:
    return fit_icm(configured(model, icm={"eight_bits": True}, **ENOUGH), zoo, encoder)


@pytest.fixture(scope="module")
def briefly(zoo, model, encoder) -> ICM:
    return fit_icm(configured(model, epochs=1), zoo, encoder)[0]


TRAINED = {"frame": "trained", "raw": "trained_raw", "eight bits": "trained_small"}


@pytest.mark.parametrize("codec", TRAINED)
def test_each_description_brings_its_own_experts_adapter_back(codec: str, request, zoo, encoder) -> None:
    generator, history = request.getfixturevalue(TRAINED[codec])
    found = distances(generator, described(generator, encoder, zoo), zoo)
    assert torch.equal(found.argmin(1), torch.arange(len(zoo)))
    assert found.diag().mean() < 0.6, "nearer than the mean of the experts is"
    assert found.roll(1, 0).diag().min() > 0.9, "and not under another task's description"
    assert sum(row["reconstruction"] for row in history[-10:]) < 0.3 * sum(
        row["reconstruction"] for row in history[:10]
    )
    assert history[0].keys() == {"loss", "reconstruction", "kl"}


def test_one_conditional_generator_makes_adapters_of_the_zoos_layout(trained, zoo, encoder) -> None:
    generator, _ = trained
    (asked, *_), reference = described(generator, encoder, zoo), zoo.adapter(zoo.ids[0])
    adapter = generated(generator, asked, scale=1.0)
    assert adapter.spec == reference.spec
    assert adapter.settings.base_model_name_or_path == "tiny-base"
    (generation,) = generator.generate(asked, rng=seeded())
    assert {n.id for n in generation.neighbours} == set(zoo.ids)
    assert generation.neighbours[0].id == zoo.ids[0]
    assert [n.weight for n in generation.neighbours] == pytest.approx([1 / 7] * 7)


def test_z_is_drawn_from_the_random_source_and_scaled(trained, zoo, encoder) -> None:
    generator, _ = trained
    asked = described(generator, encoder, zoo)[0]
    one, same, other = (update(generated(generator, asked, seed=seed, scale=1.0)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    several = generator.generate(asked, rng=seeded(1), num_samples=2)
    assert torch.equal(update(several[0].adapter), one)
    assert not torch.equal(update(several[1].adapter), one)
    assert torch.equal(*(update(generated(generator, asked, seed=seed)) for seed in (1, 2)))


def test_training_is_deterministic_and_leaves_the_random_state_alone(trained, zoo, encoder, model) -> None:
    def run(**values: object) -> tuple[ICM, list[dict[str, float]]]:
        return fit_icm(configured(model, **values), zoo, encoder)

    torch.manual_seed(7)
    before = torch.get_rng_state()
    (one, history), (same, same_history), (other, _) = run(), run(), run(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert history == same_history
    assert equal_states(one.network, same.network)
    assert not equal_states(one.network, other.network)


def test_the_seed_and_the_epoch_say_what_is_drawn(zoo, model, encoder, monkeypatch) -> None:
    drawn_x = []

    def watched(*args: object, **options: object) -> list[ICMBatch]:
        batches = episodes(*args, **options)
        drawn_x.append(batches[0].x)
        return batches

    monkeypatch.setattr(icm_fit, "episodes", watched)
    one, other = (fit_icm(configured(model, seed=seed, learning_rate=1e-9), zoo, encoder)[0] for seed in (0, 1))
    assert len({tuple(x.flatten().tolist()) for x in drawn_x}) == 2 * 3, "every epoch of either has its own episodes"
    assert (one.network.features.weight - other.network.features.weight).abs().max() > 0.01, "and its own start"


@pytest.mark.parametrize("codec", TRAINED)
def test_saved_and_loaded_it_makes_the_same_from_its_own_folder_alone(codec, request, zoo, encoder, tmp_path) -> None:
    generator, _ = request.getfixturevalue(TRAINED[codec])
    loaded = ICM.load(saved(generator, tmp_path / "icm"))
    assert loaded.manifest == generator.manifest
    assert (tmp_path / "icm" / "frame.safetensors").exists() == (codec != "raw")
    for asked in described(generator, encoder, zoo):
        one, two = (generated(g, asked, seed=5, scale=1.0) for g in (generator, loaded))
        assert one.spec == two.spec
        assert all(torch.equal(one.lora_A[site], two.lora_A[site]) for site in one.sites)
        assert all(torch.equal(one.lora_B[site], two.lora_B[site]) for site in one.sites)
        neighbours = [g.generate(asked, rng=seeded())[0].neighbours for g in (generator, loaded)]
        assert neighbours[0] == neighbours[1]


@pytest.mark.parametrize("damage", ["none there", "missing", "truncated", "part", "other", "kind", "frame"])
def test_a_damaged_generator_is_refused(briefly, tmp_path, damage: str) -> None:
    folder = saved(briefly, tmp_path / "icm")
    tensors, manifest = folder / "generator.safetensors", folder / "generator.yaml"
    match damage:
        case "none there":
            shutil.rmtree(folder)
        case "missing":
            tensors.unlink()
        case "truncated":
            tensors.write_bytes(tensors.read_bytes()[:-10])
        case "part":
            save_file({n: t for n, t in load_file(tensors).items() if n != "conditions.scales"}, tensors)
        case "other":
            manifest.write_text(manifest.read_text().replace("latent_size: 4", "latent_size: 5"))
        case "kind":
            manifest.write_text(manifest.read_text().replace("kind: icm", "kind: sg"))
        case "frame":
            (folder / "frame.safetensors").unlink()
    with pytest.raises(GeneratorError, match=r"(?s)does not hold a whole ICM-LoRA .*train it again"):
        ICM.load(folder)


def test_the_manifest_says_what_was_read_and_from_whom(trained, zoo, model) -> None:
    manifest = trained[0].manifest
    assert manifest.reading.model == str(model)
    assert manifest.reading.model_hash == LabelTextEncoder.load(str(model)).fingerprint
    assert manifest.experts == zoo.ids
    assert manifest.zoo_hash == zoo.fingerprint
    assert (manifest.epochs, manifest.left_out, manifest.factors) == (3, (), None)


def test_a_condition_without_evidence_is_refused(briefly, encoder) -> None:
    embedding = encoder.encode(["soup"])[0]
    with pytest.raises(GeneratorError, match="reads description, but the condition holds no task vector"):
        briefly.generate(Condition("soup", embedding), rng=seeded())
    unread = Condition("soup", embedding, {"texts": torch.zeros(16)})
    with pytest.raises(GeneratorError, match="reads description, but the condition holds texts"):
        briefly.generate(unread, rng=seeded())


def test_what_it_does_not_read_does_not_bear_on_its_condition(briefly, encoder) -> None:
    conditioner, examples = (
        conditioner_of(briefly, encoder),
        Examples(("warm soup",), labels=(0,), label_names=("soup",)),
    )
    plain = conditioner.condition(Evidence("soup"))
    for evidence in (Evidence("soup", labels=("warm", "cold")), Evidence("soup", examples=examples)):
        found = conditioner.condition(evidence)
        assert found.task_vectors.keys() == plain.task_vectors.keys()
        assert torch.equal(update(generated(briefly, found)), update(generated(briefly, plain)))


# --- opened by name -------------------------------------------------------------------------------------------------


def test_it_opens_by_its_folder_and_by_its_name(briefly, tiny_zoo, encoder, tmp_path) -> None:
    folder = saved(briefly, tmp_path / "icm")
    assert isinstance(open_generator(str(folder), tiny_zoo, encoder), ICM)
    shutil.copytree(tiny_zoo.root, tmp_path / "zoo")
    zoo = Zoo.open(tmp_path / "zoo")
    with pytest.raises(GeneratorError, match="no generator 'mine'"):
        open_generator("mine", zoo, encoder)
    shutil.copytree(folder, zoo.root / "generators" / "mine")
    assert isinstance(open_generator("mine", zoo, encoder), ICM)
    assert available(zoo)[0] == "mine"


def test_what_does_not_apply_to_it_is_refused(briefly, tiny_zoo, encoder, tmp_path) -> None:
    folder = str(saved(briefly, tmp_path / "icm"))
    with pytest.raises(GeneratorError, match="--top-k does not apply"):
        open_generator(folder, tiny_zoo, encoder, top_k=3)
    with pytest.raises(GeneratorError, match="--licence does not apply"):
        open_generator(folder, tiny_zoo, encoder, licences=["MIT"])
    all_of_them = open_generator(folder, tiny_zoo, encoder, licences=["MIT", "CC BY 4.0"])
    assert isinstance(all_of_them, ICM)


def test_it_serves_only_the_experts_and_the_encoder_it_was_trained_with(briefly, tiny_zoo, encoder, tmp_path) -> None:
    folder = str(saved(briefly, tmp_path / "icm"))
    other = with_another_expert(tiny_zoo, "mood", tmp_path / "zoo")
    with pytest.raises(GeneratorError, match="trained on other experts"):
        open_generator(folder, Zoo.open(other.root), encoder)
    stranger = dataclasses.replace(encoder, fingerprint="0" * 16)
    with pytest.raises(GeneratorError, match="trained with the text encoder"):
        open_generator(folder, tiny_zoo, stranger)
