from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from loragen.config import StrictModel, dump_yaml, read_yaml
from loragen.errors import ConfigError


class Optimiser(StrictModel):
    learning_rate: float = Field(1e-3, gt=0)
    kind: Literal["adam", "sgd"] = "adam"


class Run(StrictModel):
    name: str
    steps: int = Field(10, ge=1)
    optimiser: Optimiser = Optimiser()
    targets: tuple[str, ...] = ("query",)
    out: Path = Path("runs")
    note: str | None = None


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path, "name: first\nsteps: 5\noptimiser:\n  kind: sgd\n")


def refused(path, *mentions, overrides=()):
    with pytest.raises(ConfigError) as caught:
        Run.from_yaml(path, overrides)
    for mention in mentions:
        assert mention in str(caught.value)


def test_values_and_defaults(path):
    assert Run.from_yaml(path) == Run(name="first", steps=5, optimiser=Optimiser(kind="sgd"))


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001"])
def test_scientific_notation_is_a_number(tmp_path, text):
    # YAML 1.1 reads a number without a dot before the exponent as a string.
    path = write(tmp_path, f"name: a\noptimiser:\n  learning_rate: {text}\n")
    for run in (Run.from_yaml(path), Run.from_yaml(path, [f"optimiser.learning_rate={text}"])):
        assert run.optimiser.learning_rate == 1e-4
        assert isinstance(run.optimiser.learning_rate, float)


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("name: a\nstpes: 5\n", ["stpes", "not permitted"]),
        ("name: a\noptimiser:\n  lr: 5\n", ["optimiser.lr", "not permitted"]),
        ("name: a\nsteps: many\n", ["steps", "integer", "'many'"]),
        ("name: a\nsteps: 2.5\n", ["steps", "integer", "2.5"]),
        ("name: a\ntargets: query\n", ["targets", "'query'"]),
        ("name: a\ntargets: [query, 3]\n", ["targets.1", "3"]),
        ("name: a\noptimiser: fast\n", ["optimiser", "'fast'"]),
        ("steps: 5\n", ["name", "required"]),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path, text, mentions):
    refused(write(tmp_path, text), "run.yaml does not fit Run", *mentions)


def test_all_faults_are_named_at_once(tmp_path):
    path = write(tmp_path, "stpes: 5\nsteps: 0\noptimiser:\n  kind: lion\n  learning_rate: -1e-3\n")
    places = ("\n  name:", "\n  stpes:", "\n  steps:", "\n  optimiser.kind:", "\n  optimiser.learning_rate:")
    refused(path, *places, "'lion'", "greater than or equal to 1")


def test_a_long_value_is_cut_short_in_the_message(tmp_path):
    with pytest.raises(ConfigError) as caught:
        Run.from_yaml(write(tmp_path, f"name: a\nsteps: {'x' * 1000}\n"))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("steps=7", {"steps": 7}),
        ("name=a=b", {"name": "a=b"}),
        ("optimiser.learning_rate=0.5", {"optimiser": Optimiser(kind="sgd", learning_rate=0.5)}),
        ("targets=[key, value]", {"targets": ("key", "value")}),
        ("optimiser={kind: adam}", {"optimiser": Optimiser(kind="adam")}),
        ("note=null", {"note": None}),
        ("note=", {"note": None}),
    ],
)
def test_overrides(path, override, changes):
    assert Run.from_yaml(path, [override]) == Run.from_yaml(path).model_copy(update=changes)


def test_overrides_make_missing_mappings_and_the_last_one_counts(tmp_path):
    path = write(tmp_path, "name: a\n")
    run = Run.from_yaml(path, ["optimiser.kind=sgd", "optimiser.learning_rate=2", "optimiser.learning_rate=3"])
    assert run.optimiser == Optimiser(kind="sgd", learning_rate=3)
    assert path.read_text() == "name: a\n"


@pytest.mark.parametrize(
    ("override", "mentions"),
    [
        ("steps", ["'steps'", "--set key.sub=value"]),
        ("=5", ["'=5'", "--set key.sub=value"]),
        ("steps.inner=5", ["'steps.inner=5'", "'steps'", "not a mapping"]),
        ("targets=[a", ["'targets=[a'", "not readable YAML"]),
        ("stpes=5", ["stpes", "not permitted"]),
        ("optimiser.lr=5", ["optimiser.lr", "not permitted"]),
        ("steps=many", ["steps", "'many'"]),
    ],
)
def test_overrides_that_do_not_fit_are_refused(path, override, mentions):
    refused(path, *mentions, overrides=[override])


@pytest.mark.parametrize(
    ("content", "mention"),
    [
        (b"- a\n- b\n", "list"),
        (b"just text\n", "str"),
        (b"", "NoneType"),
        (b"name: [a\n", "not readable YAML"),
        (b"name: \xff\n", "not readable YAML"),
        (b"name: !!python/object/apply:os.getcwd []\n", "not readable YAML"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path, content, mention):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    refused(path, "run.yaml", mention)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    refused(tmp_path / "none.yaml", "There is no config file", "none.yaml")
    refused(tmp_path, str(tmp_path), "directory")


def test_configs_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Run(name="a").steps = 3


def test_checked_names_the_source_of_plain_values():
    with pytest.raises(ConfigError, match=r"the request does not fit Run:\n  \(whole file\)"):
        Run.checked([1, 2], source="the request")


@given(
    st.builds(
        Run,
        name=st.text(max_size=20),
        steps=st.integers(1, 10**9),
        optimiser=st.builds(Optimiser, learning_rate=st.floats(1e-300, 1e300), kind=st.sampled_from(["adam", "sgd"])),
        targets=st.lists(st.text(max_size=10), max_size=3).map(tuple),
        note=st.none() | st.text(max_size=40),
    )
)
def test_yaml_round_trip(tmp_path_factory, run):
    path = write(tmp_path_factory.getbasetemp(), run.to_yaml())
    assert Run.from_yaml(path) == run


def test_yaml_keeps_order_and_letters(tmp_path):
    text = dump_yaml({"z": 1, "a": "küche", "m": {"b": 1, "a": 2}})
    assert text == "z: 1\na: küche\nm:\n  b: 1\n  a: 2\n"
    assert list(read_yaml(write(tmp_path, text))) == ["z", "a", "m"]


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_numbers_are_finite(tmp_path, value):
    """A learning rate of infinity would train weights that are no numbers."""
    from loragen.recipes.multitask import MultitaskRecipe

    (tmp_path / "config.yaml").write_text(f"learning_rate: {value}\n")
    with pytest.raises(ConfigError, match="finite number"):
        MultitaskRecipe.from_yaml(tmp_path / "config.yaml")
