"""What does not make a composition, and folders that are damaged: refused in short messages."""

import shutil
from dataclasses import replace

import pytest
import safetensors.torch
from compose_tools import random_lora

from loragen.compose.composed import open_adapter
from loragen.compose.composition import Composition
from loragen.compose.given import GivenExpert, similarities
from loragen.compose.making import compose_experts
from loragen.compose.methods.uniform import Uniform
from loragen.compose.stored import GATES, MANIFEST
from loragen.errors import AdapterError, ConfigError, TaskError, ZooError
from loragen.inference import Adapter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "none"}, "no method 'none'; choose one of uniform, description, arrow"),
        ({"method": "description"}, "task in words; give it with --description"),
        ({"method": "smora"}, "give a file for each with --data"),
        ({"method": "uniform", "data": ["x.csv"]}, "reads no labelled texts"),
        ({"method": "arrow", "rank": 2}, "--rank bears on static methods alone"),
        ({"method": "arrow", "settings": {"top_k": 0}}, "top_k: Input should be greater"),
        ({"method": "arrow", "settings": ["top_k"]}, "has no '='"),
        ({"method": "smora", "data": ["x.csv"]}, "1 files of labelled texts were given for 3 experts"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(adapters, options, message):
    with pytest.raises(ConfigError, match=message):
        compose_experts(adapters, **options)


def test_neither_experts_nor_a_task_are_refused():
    with pytest.raises(ConfigError, match="Neither experts nor a task"):
        compose_experts(method="uniform")
    with pytest.raises(ConfigError, match="No expert was named"):
        compose_experts([], method="uniform")
    with pytest.raises(ConfigError, match="give a list of names"):
        compose_experts("clinc_meta", method="uniform")


def test_unknown_experts_are_refused():
    with pytest.raises(ZooError, match=r"no expert 'clinc_metta'; did you mean 'clinc_meta'.*none at 'clinc_metta'"):
        compose_experts(["clinc_metta"], method="uniform")


def test_too_few_texts_are_refused(adapters, examples, base):
    few = [one.subset(range(2)) for one in examples]
    with pytest.raises(TaskError, match="6 labelled texts, and a batch takes 32"):
        compose_experts(adapters, method="sema_router", data=few, base=base)


@pytest.fixture
def folder(made, tmp_path):
    made["sema_router"].adapter.save(tmp_path / "out")
    return tmp_path / "out"


def _drop_expert(folder):
    shutil.rmtree(folder / "experts" / "expert-2")


def _other_method(folder):
    file = folder / MANIFEST
    file.write_text(file.read_text().replace("method: sema_router", "method: arrow").replace("settings:", "others:"))


def _climb_out(folder):
    file = folder / MANIFEST
    file.write_text(file.read_text().replace("- expert-1", "- ../expert-1"))


def _drop_gates(folder):
    (folder / GATES).unlink()


def _garble(folder):
    (folder / GATES).write_bytes(b"\x80\x04nothing")


def _not_finite(folder):
    tensors = safetensors.torch.load((folder / GATES).read_bytes())
    name = next(iter(tensors))
    safetensors.torch.save_file(tensors | {name: tensors[name] * float("nan")}, folder / GATES)


def _other_shape(folder):
    tensors = safetensors.torch.load((folder / GATES).read_bytes())
    name = next(name for name in tensors if name.startswith("router"))
    safetensors.torch.save_file(tensors | {name: tensors[name][:1].clone()}, folder / GATES)


def _link(folder):
    (folder / "experts" / "expert-1").rename(folder / "elsewhere")
    (folder / "experts" / "expert-1").symlink_to(folder / "elsewhere")


@pytest.mark.parametrize(
    "damage",
    [_drop_expert, _other_method, _climb_out, _drop_gates, _garble, _not_finite, _other_shape, _link],
)
def test_damage_is_refused_in_a_short_message(folder, damage):
    damage(folder)
    with pytest.raises(AdapterError) as caught:
        open_adapter(folder)
    assert len(str(caught.value)) < 900


def test_files_that_are_too_large_are_not_read(folder, monkeypatch):
    monkeypatch.setattr("loragen.compose.stored.LARGEST_GATES", 10)
    with pytest.raises(AdapterError, match="at most 10 were wanted"):
        open_adapter(folder)


def test_gates_of_other_weights_are_refused(made, base, tmp_path):
    other = replace(made["sema_router"].adapter, base_hash="0" * 64)
    with pytest.raises(AdapterError, match="trained on weights 000000000000"):
        other.with_base(base)


def test_a_static_method_is_no_composition(experts):
    with pytest.raises(AdapterError, match="is static"):
        Composition("uniform", Uniform(), experts, {})


def test_a_folder_that_is_there_is_kept(made, folder):
    with pytest.raises(ConfigError, match="exists already"):
        made["arrow"].adapter.save(folder)
    made["arrow"].adapter.save(folder, force=True)
    assert open_adapter(folder).composition.method == "arrow"
    assert not (folder / "elsewhere").exists()


def test_an_expert_that_lacks_a_description_is_named(base):
    silent = GivenExpert("mute", Adapter(random_lora(base, 0), base.name))
    with pytest.raises(AdapterError, match="mute has no description"):
        similarities([silent], "a task", "none", None)
