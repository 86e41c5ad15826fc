"""Regular expressions of others: what they match is what `re` says, within a bound."""

import re
import time
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loragen.adapters.adapter import Lora
from loragen.adapters.settings import LoraSettings
from loragen.config import StrictModel
from loragen.errors import AdapterError, ConfigError, shown
from loragen.patterns import LONGEST, compiles, finishes_in_re, matches

SITE = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "pattern", [r"(.*.*)*x", r"(a+)+x", r"(.*\.)*(.*\.)*(.*\.)*y", r"(?:a|aa)+b", r"(?:a?){60}a{60}b"]
)
def test_no_pattern_takes_long(pattern):
    begun = time.monotonic()
    with suppress(ConfigError):
        assert not matches(pattern, "a" * 2000)
    assert time.monotonic() - begun < 5


def test_a_pattern_that_takes_too_long_is_refused():
    with pytest.raises(ConfigError, match=r"takes over 0\.5 s to match"):
        matches(r"(?:a|aa)+b", "a" * 2000)


@pytest.mark.parametrize("pattern", ["x{99999999999}", "(" * 5000 + ")" * 5000, "a" * (LONGEST + 1), "(", "[", "*"])
def test_what_is_no_pattern_or_too_large_does_not_compile(pattern):
    assert not compiles(pattern)
    with pytest.raises(AdapterError, match="target_modules is"):
        LoraSettings(r=2, lora_alpha=2, target_modules=pattern)


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")  # Python's, over "[["
@example("[[", SITE)
@given(st.from_regex(r"[a-z.*+?()\[\]|\\d0-9]{1,8}"), st.sampled_from([SITE, "q_proj", "aa", "0.1"]))
def test_patterns_mean_what_they_mean_to_python(pattern, text):
    try:
        wanted = re.compile(pattern)
    except (re.error, OverflowError):
        return
    if not compiles(pattern):
        return
    assert matches(pattern, text) == bool(wanted.fullmatch(text))
    assert matches(pattern, text, whole=False) == bool(wanted.match(text))


# --- messages ---


def test_messages_cut_what_they_repeat(tmp_path):
    class Small(StrictModel):
        name: int

    deep: object = "x"
    for _ in range(60):
        deep = [deep, deep]  # its text would have 2 to the power of 60 letters
    begun = time.monotonic()
    with pytest.raises(ConfigError) as error:
        Small.checked({"name": deep}, source="here")
    assert len(str(error.value)) < 500
    assert time.monotonic() - begun < 2
    assert len(shown("a" * 10_000)) < 100


def test_a_bomb_of_aliases_is_one_line(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]" for i in range(12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))

    class Small(StrictModel):
        name: int = 0

    begun = time.monotonic()
    with pytest.raises(ConfigError) as error:
        Small.from_yaml(tmp_path / "bomb.yaml")
    assert time.monotonic() - begun < 2
    assert len(str(error.value)) < 10_000


@pytest.mark.parametrize("text", ["name: 2024-02-30", "name: !!int ''", "name: 0b_", "name: " + "[" * 3000])
def test_scalars_that_yaml_cannot_make_are_config_errors(tmp_path, text):
    class Small(StrictModel):
        name: int = 0

    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError):
        Small.from_yaml(tmp_path / "config.yaml")


def test_a_config_of_brackets_is_an_adapter_error(tmp_path):
    (tmp_path / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(AdapterError, match="not readable JSON"):
        Lora.load(tmp_path)


def test_a_yaml_file_of_many_megabytes_is_not_read(tmp_path):
    (tmp_path / "config.yaml").write_text("a: " + "x" * 5_000_000)
    with pytest.raises(ConfigError, match=r"has 5,000,003 bytes; no config has over 4,000,000"):
        StrictModel.from_yaml(tmp_path / "config.yaml")


# --- Python's own `re`, by which PEFT matches ---


@pytest.mark.parametrize("pattern", ["(.*.*)*x", "(a+)+x", r"([a-z0-9.]+)+!", "(?:a|aa)+b", r".*.*.*.*.*.*.*x"])
def test_what_python_would_never_finish_is_found_in_time(pattern):
    begun = time.monotonic()
    assert not finishes_in_re([".*", pattern], ["q_proj", "a" * 300])
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("pattern", [r".*\.layers\.(0|1)\.(q|v)_proj", "(q_proj)+", r"(.*\.)?q_proj", "all-linear"])
def test_what_python_finishes_is_left_to_it(pattern):
    assert finishes_in_re([pattern], [SITE] * 500)
