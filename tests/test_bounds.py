"""Every model of settings, cards and manifests: whatever stands in a field, a short error names it, soon."""

import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import loragen
from loragen.config import StrictModel, dump_yaml
from loragen.errors import ConfigError, LoragenError, cut, shown
from loragen.values import LONGEST_NAME, Name, PartName, checked_name, checked_seed

LONG = "x" * 10_000
BAD = {
    "a long text": LONG,
    "a long path": "/".join(["x" * 300] * 40),
    "NUL": "a\0b",
    "a huge number": 10**400,
    "beyond 64 bits": 2**64,
    "far below": -(10**12),
    "no number": float("nan"),
    "infinity": float("inf"),
    "a list": [LONG] * 1000,
    "numbers": list(range(10_000)),
    "a mapping": {LONG: LONG},
    "keys that are no texts": {1: 2, None: 3},
    "nothing": None,
    "true": True,
    "lists in lists": [[[[LONG]]]],
}


def fault(model: type[StrictModel], values: object) -> str:
    """What is wrong with values, empty where nothing is."""
    try:
        model.checked(values, source="here")
    except ConfigError as error:
        return str(error)
    return ""


def models() -> list[type[StrictModel]]:
    for module in walk_packages(loragen.__path__, "loragen."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    return sorted(_below(StrictModel), key=lambda model: f"{model.__module__}.{model.__name__}")


def _below(model: type[StrictModel]) -> Iterator[type[StrictModel]]:
    for one in model.__subclasses__():
        if one.__module__.startswith("loragen."):
            yield one
            yield from _below(one)


MODELS = [model for model in dict.fromkeys(models()) if model.model_fields]
FIELDS = [(model, name) for model in MODELS for name in model.model_fields]


def test_the_models_are_found():
    assert {"ZooConfig", "Card", "Manifest", "SGManifest", "ICMTrainConfig", "EvaluateConfig"} <= {
        model.__name__ for model in MODELS
    }
    assert len(FIELDS) > 200


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_whatever_stands_in_a_field_the_error_is_short_and_soon(model, name):
    begun = time.monotonic()
    for value in BAD.values():
        message = fault(model, {name: value})
        assert len(message) < 1000
        assert not message or message.startswith("here does not fit")
    assert time.monotonic() - begun < 5


def bounded(model: type[StrictModel]) -> Iterator[str]:
    """Fields of whole numbers."""
    for name, field in model.model_fields.items():
        if field.annotation in (int, int | None):
            yield name


OF_FILES = ("seed", "sample", "examples", "tasks", "labels", "texts", "epochs")
"""Counts of what is written, which nothing is made from."""
WRITTEN = ("Card", "Manifest", "Cell", "Row", "Task", "Summary", "BelowBase", "Calibration", "Likeness")
"""Parts of the names of models that are written, not given."""


@pytest.mark.parametrize("model", [m for m in MODELS if list(bounded(m))], ids=lambda model: model.__name__)
@pytest.mark.parametrize("value", [10**12, -1])
def test_whole_numbers_of_settings_have_bounds(model, value):
    names = [n for n in bounded(model) if not (_is_written(model) and n in OF_FILES)]
    for name in names:
        with pytest.raises(ConfigError, match=rf"\n  {name}: Input should be (greater|less) than"):
            model.checked({name: value}, source="here")


def _is_written(model: type[StrictModel]) -> bool:
    return any(part in model.__name__ for part in WRITTEN)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/b", "../a", "a\\b", "a\0b", "a\nb", "a\n", ".a", "-a", "_a", "a b", "ü", "a:b", "a*", "a."),
        *("con", "NUL.txt", "com1", "LPT9", "aux", "a\u202eb", "x" * 101),
    ],
)
def test_names_are_those_that_every_system_can_have_a_file_of(name):
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a\0b", "a\n", ".a", "-a", "a\u202eb", "x" * 101, "a:b"]
)
def test_names_from_elsewhere_are_one_part_of_a_path(name):
    with pytest.raises(ValidationError):
        TypeAdapter(PartName).validate_python(name)
    assert TypeAdapter(PartName).validate_python("card[v1] über") == "card[v1] über"


@pytest.mark.parametrize("name", ["a", "A-1", "0", "tweet_eval.irony", "console", "com", "x" * LONGEST_NAME])
def test_names_that_are_taken(name):
    assert checked_name(name) == name


def test_seeds_have_64_bits():
    assert [checked_seed(seed) for seed in (0, -(2**63), 2**64 - 1)] == [0, -(2**63), 2**64 - 1]
    for seed in (2**64, -(2**63) - 1, 10**5000):
        with pytest.raises(ConfigError, match="at most 64 bits") as caught:
            checked_seed(seed)
        assert len(str(caught.value)) < 200


def test_messages_have_a_longest_length_and_keep_the_way_out():
    message = str(LoragenError(f"{LONG}; do this instead."))
    assert len(message) == 900
    assert message.endswith("do this instead.")
    assert len(cut(LONG)) == 200
    assert cut("a\n  b") == "a b"
    assert shown(10**5000) == "a number of 16610 bits"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=120)
@given(st.data())
def test_any_values_are_a_model_or_one_error(data):
    model = data.draw(st.sampled_from(MODELS))
    names = st.sampled_from(sorted(model.model_fields)) | st.text(max_size=5)
    values = data.draw(st.dictionaries(names, VALUES, max_size=5) | VALUES)
    assert len(fault(model, values)) < 1000


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_file_of_any_field_is_a_model_or_one_error(model, tmp_path):
    for number, value in enumerate((LONG, [1] * 1000, {"a": {"b": "c"}}, -1)):
        path: Path = tmp_path / f"{number}.yaml"
        path.write_text(dump_yaml(dict.fromkeys(model.model_fields, value)))
        with pytest.raises(ConfigError) as caught:
            model.from_yaml(path)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("override", ["a" * 10_000, f"{LONG}=1", f"steps={LONG}", f"r=[{LONG}", f"r.{LONG}=1", "r=0b_"])
def test_overrides_are_cut_in_messages(override, tmp_path):
    from loragen.recipes.expert import ExpertRecipe

    (tmp_path / "recipe.yaml").write_text("r: 4")
    with pytest.raises(ConfigError) as caught:
        ExpertRecipe.from_yaml(tmp_path / "recipe.yaml", [override])
    assert len(str(caught.value)) < 1000
