"""Settings that narrow ``target_modules``: what is left out is what PEFT leaves out."""

import re

import peft
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists

from loragen.adapters.narrowing import refuse_left_out
from loragen.adapters.settings import LoraSettings
from loragen.errors import AdapterError

SITES = ("layers.0.attn.q", "model.layers.0.attn.q", "model.layers.10.mlp.up", "model.blocks.1.experts.0.up", "q", "up")
TARGETS = (["q", "up"], ["attn.q"], ["model.layers.0.attn.q", "up"], ".*q", ".*")
EXCLUDED = (None, [], "q", ["q"], ["attn.q", "up"], r".*\.0\..*", ["model.layers.0.attn.q"], "")
LAYERS = (None, [], 0, 1, [0], [1, 10])
LISTS = (None, [], "", "layers", ["layers"], ["blocks", "layers"], "b.*s", ["nothing"])


def peft_takes(settings, site):
    config = peft.LoraConfig(r=2, target_modules=["q"])
    for name, value in settings.items():  # what it refuses to be given, folders of older versions may hold
        setattr(config, name, value)
    return bool(check_target_module_exists(config, site))


def taken(config, site):
    settings = LoraSettings.from_config({"peft_type": "LORA", **config})
    try:
        refuse_left_out(config, settings, [site])
    except AdapterError:
        return False
    return True


@given(
    st.fixed_dictionaries(
        {
            "target_modules": st.sampled_from(TARGETS),
            "exclude_modules": st.sampled_from(EXCLUDED),
            "layers_to_transform": st.sampled_from(LAYERS),
            "layers_pattern": st.sampled_from(LISTS),
        }
    ),
    st.sampled_from(SITES),
)
def test_modules_are_left_out_as_peft_leaves_them_out(config, site):
    assert taken(config, site) == peft_takes(config, site)


def test_a_module_that_is_left_out_is_named():
    config = {"peft_type": "LORA", "target_modules": ["q"], "exclude_modules": ["attn.q"]}
    with pytest.raises(
        AdapterError, match=r"layers\.0\.attn\.q has weights, but exclude_modules=\['attn\.q'\] leaves it"
    ):
        refuse_left_out(config, LoraSettings.from_config(config), ["q", "layers.0.attn.q"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("exclude_modules", 5),
        ("exclude_modules", "("),
        ("exclude_modules", [5]),
        ("layers_to_transform", "0"),
        ("layers_to_transform", [True]),
        ("layers_pattern", "("),
        ("layers_pattern", {"layers": 1}),
    ],
)
def test_values_of_the_wrong_kind_are_refused(key, value):
    config = {"peft_type": "LORA", "target_modules": ["q"], key: value}
    with pytest.raises(AdapterError, match=f"{key} is {re.escape(repr(value))}"):
        refuse_left_out(config, LoraSettings.from_config(config), ["q"])
