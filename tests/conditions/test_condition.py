import pytest
import torch
from models import write_tiny_encoder

from loragen.adapters.adapter import Lora
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.conditions.condition import Conditioner, Evidence, require_evidence
from loragen.conditions.task_vectors import Reader, Reading
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import GeneratorError, TaskError
from loragen.tasks.examples import Examples

DESCRIPTION = "Is it soup or tea?"
EXAMPLES = Examples(("warm soup", "cold tea"), labels=(0, 1), label_names=("soup", "tea"))
ALL = ("description", "labels", "texts", "examples")
SITE = "encoder.layer.0.attention.self.value"
OWN_ADAPTER = Lora.from_factors(
    {SITE: torch.eye(16)}, {SITE: 2 * torch.eye(16)}, base_model_name_or_path="tiny", task_type="FEATURE_EXTRACTION"
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Of other weights than the model that reads task vectors, as in a zoo of another base."""
    return TextEncoder.load(str(write_tiny_encoder(tmp_path_factory.mktemp("models") / "encoder", seed=1)))


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    return Reading(model=str(write_tiny_encoder(tmp_path_factory.mktemp("models") / "reader")))


@pytest.fixture
def loaded(monkeypatch):
    """Names of the models that are loaded to read task vectors."""
    names, load = [], LabelTextEncoder.load
    monkeypatch.setattr(
        LabelTextEncoder, "load", lambda name, **options: (names.append(name), load(name, **options))[1]
    )
    return names


def through_own_adapter(reading):
    return reading.model_copy(update={"through": "own_adapter"})


def assert_same(met, wanted):
    assert set(met) == set(wanted)
    assert all(torch.equal(met[kind], wanted[kind]) for kind in wanted)


# --- generators that read the description alone ---------------------------------------------------------------------


def test_without_a_reading_a_condition_is_the_description_and_its_embedding(encoder, loaded):
    condition = Conditioner(encoder).condition(Evidence(DESCRIPTION))
    assert condition.description == DESCRIPTION
    assert torch.equal(condition.embedding, encoder.encode([DESCRIPTION])[0])
    assert condition.task_vectors == {}
    assert condition.own_adapter is None
    assert not loaded


def test_without_a_reading_an_own_adapter_is_handed_on(encoder):
    assert Conditioner(encoder).condition(Evidence(DESCRIPTION, own_adapter=OWN_ADAPTER)).own_adapter is OWN_ADAPTER


def test_without_a_reading_examples_and_labels_do_not_bear_on_the_condition(encoder, loaded):
    bare = Conditioner(encoder).condition(Evidence(DESCRIPTION))
    told = Conditioner(encoder).condition(Evidence(DESCRIPTION, labels=("soup", "tea"), examples=EXAMPLES))
    assert torch.equal(told.embedding, bare.embedding)
    assert told.task_vectors == {}
    assert not loaded


# --- generators that read task vectors ------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [None, EXAMPLES.unlabelled(), EXAMPLES])
def test_with_a_reading_a_condition_holds_task_vectors(encoder, reading, examples):
    condition = Conditioner(encoder, reading, ALL).condition(Evidence(DESCRIPTION, examples=examples))
    assert condition.description == DESCRIPTION
    assert torch.equal(condition.embedding, encoder.encode([DESCRIPTION])[0])
    assert_same(condition.task_vectors, Reader.load(reading).task_vectors(DESCRIPTION, examples=examples))


def test_the_base_is_read_bare_even_where_an_own_adapter_is_given(encoder, reading):
    condition = Conditioner(encoder, reading, ALL).condition(
        Evidence(DESCRIPTION, examples=EXAMPLES, own_adapter=OWN_ADAPTER)
    )
    assert condition.own_adapter is OWN_ADAPTER
    assert_same(condition.task_vectors, Reader.load(reading).task_vectors(DESCRIPTION, examples=EXAMPLES))


def test_reading_through_an_own_adapter_goes_through_it(encoder, reading):
    reading = through_own_adapter(reading)
    condition = Conditioner(encoder, reading, ALL).condition(
        Evidence(DESCRIPTION, examples=EXAMPLES, own_adapter=OWN_ADAPTER)
    )
    assert condition.own_adapter is OWN_ADAPTER
    assert_same(
        condition.task_vectors, Reader.load(reading).task_vectors(DESCRIPTION, examples=EXAMPLES, adapter=OWN_ADAPTER)
    )


@pytest.mark.parametrize("examples", [None, EXAMPLES])
def test_reading_through_an_own_adapter_asks_for_it(encoder, reading, loaded, examples):
    conditioner = Conditioner(encoder, through_own_adapter(reading), ALL)
    with pytest.raises(GeneratorError, match=r"none was given; give one with --own-adapter, or .*'through: base'"):
        conditioner.condition(Evidence(DESCRIPTION, examples=examples))
    assert not loaded, "what cannot be read is refused before the model is loaded"


def test_the_model_is_loaded_when_it_is_first_needed_and_once(encoder, reading, loaded):
    conditioner = Conditioner(encoder, reading, ALL)
    assert not loaded
    first = conditioner.condition(Evidence(DESCRIPTION, examples=EXAMPLES))
    second = conditioner.condition(Evidence("Sort the bread."))
    assert loaded == [reading.model]
    assert not torch.equal(first.task_vectors["description"], second.task_vectors["description"])


# --- evidence that is not read ---------------------------------------------------------------------------------------


def test_label_names_are_evidence(encoder, reading):
    condition = Conditioner(encoder, reading, ALL).condition(Evidence(DESCRIPTION, labels=("soup", "tea")))
    assert_same(condition.task_vectors, Reader.load(reading).task_vectors(DESCRIPTION, labels=("soup", "tea")))
    assert set(condition.task_vectors) == {"description", "labels"}


@pytest.mark.parametrize(
    ("evidence", "given"),
    [
        (("description", "texts"), {"labels": ("soup", "tea")}),
        (("description", "labels"), {"examples": EXAMPLES}),
        (("description", "labels"), {"examples": EXAMPLES.unlabelled()}),
    ],
)
def test_evidence_that_is_not_read_does_not_bear_on_the_condition(encoder, reading, evidence, given):
    conditioner = Conditioner(encoder, reading, evidence)
    told, bare = (conditioner.condition(Evidence(DESCRIPTION, **some)) for some in (given, {}))
    assert_same(told.task_vectors, bare.task_vectors)
    assert set(bare.task_vectors) == {"description"}


def test_examples_without_labels_are_refused_where_labelled_ones_alone_are_read(encoder, reading, loaded):
    conditioner = Conditioner(encoder, reading, ("examples",))
    with pytest.raises(GeneratorError, match="reads examples, and these examples have no labels;"):
        conditioner.condition(Evidence(DESCRIPTION, examples=EXAMPLES.unlabelled()))
    assert not loaded, "before the model is loaded"


@pytest.mark.parametrize(
    ("evidence", "given"),
    [
        (("labels",), {"labels": ("soup", "tea")}),
        (("examples",), {"examples": EXAMPLES}),
        (("texts",), {"examples": EXAMPLES}),
        (("texts", "examples"), {"examples": EXAMPLES.unlabelled()}),
    ],
)
def test_evidence_that_is_read_is_taken(encoder, reading, evidence, given):
    condition = Conditioner(encoder, reading, evidence).condition(Evidence(DESCRIPTION, **given))
    assert set(evidence) & set(condition.task_vectors)


# --- evidence itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("description", ["", " \n"])
def test_an_empty_description_is_refused(description):
    with pytest.raises(TaskError, match="description is empty; say the task in words"):
        Evidence(description)


@pytest.mark.parametrize("labels", [("soup",), ("soup", "soup"), ()])
def test_fewer_than_two_different_labels_are_refused(labels):
    with pytest.raises(
        TaskError, match=r"at least two different ones are wanted|occurs twice; give each label one name"
    ):
        Evidence(DESCRIPTION, labels=labels)


@pytest.mark.parametrize("evidence", [("texts", "examples"), ("labels",)])
def test_a_condition_without_any_evidence_that_is_read_is_refused(encoder, reading, evidence):
    condition = Conditioner(encoder, reading, evidence).condition(Evidence(DESCRIPTION))
    with pytest.raises(GeneratorError, match=f"reads {' or '.join(evidence)}, but the condition holds description"):
        require_evidence(condition, evidence)
    require_evidence(condition, ("description", *evidence))
