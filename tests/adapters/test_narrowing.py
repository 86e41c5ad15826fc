"""Settings that leave modules out, beside PEFT's own reading of them."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loragen.adapters.narrowing import Narrowing
from loragen.adapters.settings import LoraSettings
from loragen.errors import AdapterError

SITES = [
    *(f"{front}layers.{number}.attn.{name}" for front in ("", "model.") for number in (0, 1, 10) for name in "qv"),
    *("model.layers.1.experts.0.up", "model.h.0.layers.1.q", "encoder.layer.0.q", "layer.0.q", "q", "0.q", "pooler.q"),
]
NAMES = ["q", "v", "up", "attn.q", "layers.10.attn.q", "model.layers.0.attn.v"]
LISTS = ["layers", "layer", "h", "lay.*", "layers|h", "h|layers", "(layer|h)", "experts", "model.layers", ""]


@given(
    st.one_of(st.lists(st.sampled_from(NAMES), min_size=1), st.sampled_from([r".*\.q", r"model.*(q|v|up)"])),
    st.one_of(st.none(), st.lists(st.sampled_from(NAMES)), st.sampled_from([r".*\.v", "q", r"layers\.1.*", ""])),
    st.one_of(st.none(), st.integers(0, 10), st.lists(st.sampled_from([0, 1, 10]))),
    st.one_of(st.none(), st.sampled_from(LISTS), st.lists(st.sampled_from(LISTS))),
    st.sampled_from(SITES),
)
def test_what_is_left_out_is_what_peft_leaves_out(targets, excluded, layers, patterns, site):
    from peft.tuners.tuners_utils import check_target_module_exists

    config = {"exclude_modules": excluded, "layers_to_transform": layers, "layers_pattern": patterns}
    whole = {"target_modules": targets, "target_parameters": None, "modules_to_save": None, **config}
    try:
        by_peft = bool(check_target_module_exists(SimpleNamespace(**whole), site))
    except UnboundLocalError:  # PEFT's own fault, where it finds no pattern to look for
        return
    ours = LoraSettings(1, 1, targets if isinstance(targets, str) else tuple(targets))
    narrowing = Narrowing.from_config(config)
    assert (ours.targets(site) and (narrowing is None or narrowing.keeps(site, ours))) == by_peft


@pytest.mark.parametrize(
    "config",
    [
        {"exclude_modules": 5},
        {"exclude_modules": [5]},
        {"exclude_modules": "("},
        {"exclude_modules": {"q": 1}},
        {"layers_to_transform": "0"},
        {"layers_to_transform": [True]},
        {"layers_pattern": ["("]},
        {"layers_pattern": [None]},
    ],
    ids=str,
)
def test_values_of_the_wrong_kind_are_refused(config):
    with pytest.raises(AdapterError, match=re.escape(next(iter(config)))):
        Narrowing.from_config(config)
