from dataclasses import dataclass

import pytest
import torch
from models import write_tiny_encoder

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.conditions.condition import Conditioner
from loragen.conditions.task_vectors import EvidenceKind, Reader, Reading
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import GeneratorError
from loragen.generators.base import Generator
from loragen.tasks.examples import Support

DESCRIPTION = "Is it soup or tea?"
SUPPORT = Support(("warm soup", "cold tea"), ("soup", "tea"))
SITE = "encoder.layer.0.attention.self.value"
OWN_ADAPTER = Lora.from_factors(
    {SITE: torch.eye(16)}, {SITE: 2 * torch.eye(16)}, base_model_name_or_path="tiny", task_type="FEATURE_EXTRACTION"
)


@dataclass(frozen=True)
class Reads(Generator):
    """A generator that says how its task vectors are read and makes nothing."""

    reading: Reading | None = None
    evidence: tuple[EvidenceKind, ...] = ("description", "labels", "texts", "examples")

    def generate(self, condition, *, rng, num_samples=1):
        raise NotImplementedError


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
    monkeypatch.setattr(Base, "load", lambda name, **options: (names.append(name), load(name, **options))[1])
    return names


def through_own_adapter(reading):
    return reading.model_copy(update={"through": "own_adapter"})


def assert_same(met, wanted):
    assert set(met) == set(wanted)
    assert all(torch.equal(met[kind], wanted[kind]) for kind in wanted)


# --- generators that read the description alone ---------------------------------------------------------------------


def test_without_a_reading_a_condition_is_the_description_and_its_embedding(encoder, loaded):
    condition = Conditioner.of(Reads(), encoder).condition(DESCRIPTION)
    assert condition.description == DESCRIPTION
    assert torch.equal(condition.embedding, encoder.encode([DESCRIPTION])[0])
    assert condition.task_vectors == {}
    assert condition.own_adapter is None
    assert not loaded


def test_without_a_reading_an_own_adapter_is_handed_on(encoder):
    assert Conditioner.of(Reads(), encoder).condition(DESCRIPTION, own_adapter=OWN_ADAPTER).own_adapter is OWN_ADAPTER


def test_without_a_reading_a_support_is_refused(encoder):
    with pytest.raises(GeneratorError, match="reads the description alone; examples apply to icm"):
        Conditioner.of(Reads(), encoder).condition(DESCRIPTION, support=SUPPORT)


def test_without_a_reading_labels_are_refused(encoder):
    with pytest.raises(GeneratorError, match=r"reads the description alone; .*labels to attention"):
        Conditioner.of(Reads(), encoder).condition(DESCRIPTION, labels=("soup", "tea"))


# --- generators that read task vectors ------------------------------------------------------------------------------


@pytest.mark.parametrize("support", [None, Support(SUPPORT.texts), SUPPORT])
def test_with_a_reading_a_condition_holds_task_vectors(encoder, reading, support):
    condition = Conditioner.of(Reads(reading), encoder).condition(DESCRIPTION, support=support)
    assert condition.description == DESCRIPTION
    assert torch.equal(condition.embedding, encoder.encode([DESCRIPTION])[0])
    assert_same(condition.task_vectors, Reader.load(reading).task_vectors(DESCRIPTION, support))


def test_the_base_is_read_bare_even_where_an_own_adapter_is_given(encoder, reading):
    condition = Conditioner.of(Reads(reading), encoder).condition(DESCRIPTION, support=SUPPORT, own_adapter=OWN_ADAPTER)
    assert condition.own_adapter is OWN_ADAPTER
    assert_same(condition.task_vectors, Reader.load(reading).task_vectors(DESCRIPTION, SUPPORT))


def test_reading_through_an_own_adapter_goes_through_it(encoder, reading):
    reading = through_own_adapter(reading)
    condition = Conditioner.of(Reads(reading), encoder).condition(DESCRIPTION, support=SUPPORT, own_adapter=OWN_ADAPTER)
    assert condition.own_adapter is OWN_ADAPTER
    assert_same(condition.task_vectors, Reader.load(reading).task_vectors(DESCRIPTION, SUPPORT, OWN_ADAPTER))


@pytest.mark.parametrize("support", [None, SUPPORT])
def test_reading_through_an_own_adapter_asks_for_it(encoder, reading, loaded, support):
    conditioner = Conditioner.of(Reads(through_own_adapter(reading)), encoder)
    with pytest.raises(GeneratorError, match=r"none was given; give one with --own-adapter, or .*'through: base'"):
        conditioner.condition(DESCRIPTION, support=support)
    assert not loaded, "what cannot be read is refused before the model is loaded"


def test_the_model_is_loaded_when_it_is_first_needed_and_once(encoder, reading, loaded):
    conditioner = Conditioner.of(Reads(reading), encoder)
    assert not loaded
    first = conditioner.condition(DESCRIPTION, support=SUPPORT)
    second = conditioner.condition("Sort the bread.")
    assert loaded == [reading.model]
    assert not torch.equal(first.task_vectors["description"], second.task_vectors["description"])


# --- evidence that is not read ---------------------------------------------------------------------------------------


def test_label_names_are_evidence(encoder, reading):
    condition = Conditioner.of(Reads(reading), encoder).condition(DESCRIPTION, labels=("soup", "tea"))
    assert_same(condition.task_vectors, Reader.load(reading).task_vectors(DESCRIPTION, labels=("soup", "tea")))
    assert set(condition.task_vectors) == {"description", "labels"}


@pytest.mark.parametrize(
    ("evidence", "given", "message"),
    [
        (("description", "texts"), {"labels": ("soup", "tea")}, "reads description and texts, but not the names of"),
        (("description", "labels"), {"support": SUPPORT}, "reads description and labels, but no texts of the task;"),
        (("examples",), {"support": Support(SUPPORT.texts)}, "reads examples, and these examples have no labels;"),
    ],
)
def test_evidence_that_is_not_read_is_refused(encoder, reading, loaded, evidence, given, message):
    with pytest.raises(GeneratorError, match=message):
        Conditioner.of(Reads(reading, evidence), encoder).condition(DESCRIPTION, **given)
    assert not loaded, "before the model is loaded"


@pytest.mark.parametrize(
    ("evidence", "given"),
    [
        (("labels",), {"labels": ("soup", "tea")}),
        (("examples",), {"support": SUPPORT}),
        (("texts",), {"support": SUPPORT}),
        (("texts", "examples"), {"support": Support(SUPPORT.texts)}),
    ],
)
def test_evidence_that_is_read_is_taken(encoder, reading, evidence, given):
    condition = Conditioner.of(Reads(reading, evidence), encoder).condition(DESCRIPTION, **given)
    assert set(evidence) & set(condition.task_vectors)
