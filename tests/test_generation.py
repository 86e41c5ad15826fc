"""The library as it is called: from a description, and what else is known of a task, to a finished adapter."""

import json
import shutil

import pytest
import torch
from toys import WORDS

import loragen
from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import AdapterError, ConfigError, GeneratorError, TaskError, ZooError
from loragen.exporters.card import GeneratedCard
from loragen.generation import Pipeline
from loragen.recipes.few_shot import FewShotRecipe
from loragen.tasks.examples import Examples
from loragen.zoo.zoo import Zoo

TASK = "Is it bread or cold?"


@pytest.fixture(autouse=True)
def silence(capfd):
    """The library prints nothing, on neither stream."""
    yield
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def ask(toys):
    """Where to generate: the toy zoo, with the toy base as the encoder of descriptions."""
    return {"zoo": toys / "zoo", "encoder": str(toys / "base"), "generator": "topk"}


@pytest.fixture
def few(toys, tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join((toys / "data" / "plates.train.jsonl").read_text().splitlines()[:12]))
    return path


def deltas(adapter):
    return {site: adapter.lora.delta_weight(site) for site in adapter.lora.sites}


def equal(one, other, **options):
    return all(
        torch.allclose(a, b, **options) for a, b in zip(deltas(one).values(), deltas(other).values(), strict=True)
    )


def test_a_description_gives_the_merge_of_the_experts_on_its_card(ask, toys):
    adapter = loragen.generate(TASK, top_k=3, **ask)
    card, zoo = adapter.card, Zoo.open(toys / "zoo")
    assert isinstance(card, GeneratedCard)
    assert (card.description, card.generator, card.seed, card.sample) == (TASK, "topk", 0, 0)
    assert (card.base, card.zoo_hash, card.examples, card.fitted) == (str(toys / "base"), zoo.fingerprint, 0, None)
    assert card.encoder == str(toys / "base")
    assert len(card.parents) == 3
    merged = weighted_sum([zoo.adapter(p.id) for p in card.parents], [p.weight for p in card.parents])
    for site, delta in deltas(adapter).items():
        torch.testing.assert_close(delta, merged.delta_weight(site), atol=1e-3, rtol=1e-2)
    assert (adapter.base, adapter.description, adapter.labels, adapter.notes) == (str(toys / "base"), TASK, (), ())


def test_places_may_be_texts_paths_or_opened(ask, toys, few):
    plain = loragen.generate(TASK, fit=True, examples=few, **ask)
    for zoo, examples in ((str(toys / "zoo"), str(few)), (Zoo.open(toys / "zoo"), Examples.from_file(few))):
        assert equal(plain, loragen.generate(TASK, fit=True, examples=examples, **(ask | {"zoo": zoo})), atol=0)


def test_samples_are_numbered_and_the_same_seed_gives_the_same_adapters(ask):
    first, second = loragen.generate_samples(TASK, samples=2, seed=5, **ask)
    assert [adapter.card.sample for adapter in (first, second)] == [0, 1]
    assert {adapter.card.seed for adapter in (first, second)} == {5}
    again = loragen.generate(TASK, seed=5, **ask)
    assert again.card == first.card
    assert equal(again, first, atol=0)


def test_experts_of_other_licences_are_not_drawn_on(ask):
    adapter = loragen.generate(TASK, licences=["mit"], **ask)
    assert {parent.id for parent in adapter.card.parents} <= {"drinks", "weather", "words"}
    with pytest.raises(ZooError, match=r"licences \['none'\]"):
        loragen.generate(TASK, licences=["none"], **ask)


def test_labels_are_kept_with_the_adapter_and_do_not_change_a_merge(ask):
    named = loragen.generate(TASK, labels=["bread", "cold"], **ask)
    assert named.labels == named.card.labels == ("bread", "cold")
    assert equal(named, loragen.generate(TASK, **ask), atol=0)
    for labels, said in (
        (["bread"], "at least two different"),
        (["bread", "Bread "], "differs from 'bread' in capitals"),
    ):
        with pytest.raises(TaskError, match=said):
            loragen.generate(TASK, labels=labels, **ask)


def test_a_generator_that_reads_no_examples_refuses_them_and_names_those_that_do(ask, few):
    with pytest.raises(GeneratorError, match=r"'topk' reads no examples; add --fit .* icm or hyper\.$"):
        loragen.generate(TASK, examples=few, **ask)
    with pytest.raises(TaskError, match="'cold', which is not among those named: bread, warm"):
        loragen.generate(TASK, examples=few, labels=["bread", "warm"], fit=True, **ask)


def test_fitting_tells_the_examples_better_apart_and_says_how_far_it_is(ask, few, toys):
    examples = Examples.from_file(few)
    told = []
    plain = loragen.generate(TASK, **ask)
    fitted = loragen.generate(TASK, examples=few, fit=True, progress=lambda *step: told.append(step), **ask)
    assert (fitted.card.examples, fitted.card.fitted, fitted.labels) == (12, FewShotRecipe(), examples.label_names)
    steps = FewShotRecipe().steps
    assert told == [("fitting to the examples", step, steps) for step in range(1, steps + 1)]

    def probability_of_truth(adapter):
        found = adapter.classify(examples.texts, examples.label_names)
        return sum(p.by_label[true] for p, true in zip(found, examples.outputs, strict=True)) / len(found)

    assert probability_of_truth(fitted) > probability_of_truth(plain) + 0.04


def test_several_samples_are_fitted_in_one_count_of_steps(ask, few):
    told = []
    loragen.generate_samples(TASK, examples=few, fit=True, samples=2, progress=lambda *step: told.append(step), **ask)
    assert (told[-1][1], told[-1][2]) == (2 * FewShotRecipe().steps, 2 * FewShotRecipe().steps)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"description": "  "}, TaskError, "description is empty"),
        ({"fit": True}, ConfigError, "wants labelled examples of the task; give a file of them with --examples"),
        ({"generator": "nope"}, GeneratorError, "no generator 'nope'; this zoo has"),
        ({"generator": "mean", "top_k": 2}, GeneratorError, "--top-k does not apply to 'mean'"),
        ({"zoo": "nowhere"}, ZooError, "There is no zoo in nowhere"),
        ({"encoder": "no/model"}, ConfigError, "no model 'no/model'"),
        ({"own_adapter": "nowhere"}, AdapterError, "nowhere cannot be used"),
        ({"examples": "nowhere.csv"}, TaskError, "nowhere.csv"),
    ],
)
def test_mistakes_are_errors_that_say_the_way_out(ask, changes, error, said):
    with pytest.raises(error, match=said):
        loragen.generate(**({"description": TASK} | ask | changes))


def test_examples_of_one_label_or_none_cannot_be_fitted_to(ask, tmp_path):
    for rows, said in (
        ([{"text": "soup"}], r"has no labels \(columns met: text\); the true label of every text"),
        ([{"text": "soup", "label": "x"}, {"text": "tea", "label": "x"}], "holds one label alone, 'x'"),
    ):
        (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)))
        with pytest.raises(TaskError, match=said):
            loragen.generate(TASK, examples=tmp_path / "odd.jsonl", fit=True, **ask)


def test_an_adapter_that_would_do_nothing_is_refused(ask, toys, tmp_path):
    shutil.copytree(toys / "zoo", tmp_path / "zoo")
    for folder in (tmp_path / "zoo" / "experts").iterdir():
        lora = Lora.load(folder)
        card = {path.name: path.read_bytes() for path in folder.glob("*.yaml")}
        zero = Lora(lora.settings, lora.lora_A, {site: 0 * b for site, b in lora.lora_B.items()})
        zero.save(folder, extra_files=card)
    with pytest.raises(AdapterError, match="leaves the base unchanged: all its delta weights are zero"):
        loragen.generate(TASK, **(ask | {"zoo": tmp_path / "zoo"}))


def test_a_description_that_is_too_long_to_be_read_whole_is_remarked_on(ask):
    short, long = " ".join(["soup"] * 62), " ".join(["soup"] * 63)  # 64 tokens with those of begin and end
    assert loragen.generate(short, **ask).notes == ()
    (note,) = loragen.generate(long, **ask).notes
    assert "has 65 tokens" in note
    assert "reads the first 64 of them" in note


# --- Pipeline ---


def test_a_pipeline_knows_what_its_generator_reads(toys):
    encoder = TextEncoder.load(str(toys / "base"))
    pipeline = Pipeline.open("topk", toys / "zoo", encoder, top_k=2)
    assert not pipeline.reads_examples
    assert pipeline.encoder is encoder
    evidence = Evidence(TASK, examples=Examples(tuple(WORDS)))
    (unread,) = pipeline.generate(evidence)
    (plain,) = pipeline.generate(Evidence(TASK))
    assert [n.id for n in unread.neighbours] == [n.id for n in plain.neighbours]
    assert len(plain.neighbours) == 2
    assert len(pipeline.generate(Evidence(TASK), samples=3)) == 3


def test_a_pipeline_of_a_network_reads_examples_and_draws_by_seed(toys, tmp_path):
    """A trained ICM, which reads texts through the base."""
    shutil.copytree(toys / "zoo", tmp_path / "zoo")
    config = tmp_path / "icm.yaml"
    config.write_text(
        f"generator: icm\nzoo: {tmp_path}/zoo\nencoder: {toys}/base\nout: {tmp_path}/zoo/generators/icm\n"
        f"tasks: {toys}/tasks.yaml\nreading_model: {toys}/base\nicm: {{channels: [4], components: 4}}\n"
        "epochs: 1\nsteps_per_epoch: 2\nbatch_size: 8\n"
    )
    loragen.train(config)
    pipeline = Pipeline.open("icm", tmp_path / "zoo", str(toys / "base"))
    assert pipeline.reads_examples

    def drawn(seed, examples=None):
        (one,) = pipeline.generate(Evidence(TASK, examples=examples), seed=seed)
        return one.adapter.delta_weight(one.adapter.sites[0])

    told = Examples(("soup a b", "tea c d"))
    assert torch.equal(drawn(1, told), drawn(1, told))
    assert not torch.equal(drawn(1, told), drawn(2, told))
    assert not torch.equal(drawn(1, told), drawn(1, Examples(("cold", "bread"))))
    made = loragen.generate(
        TASK, examples=told, generator="icm", zoo=tmp_path / "zoo", encoder=str(toys / "base"), seed=1
    )
    assert torch.equal(made.lora.delta_weight(made.lora.sites[0]), drawn(1, told))
    assert made.card.examples == 2
