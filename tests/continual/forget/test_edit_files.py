"""Files of edits: whole or not there, known by the generator that they were made for, and part of its folder."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loragen.errors import ConfigError, GeneratorError
from loragen.files import not_ours, sha256_of
from loragen.generation.pipeline import Pipeline
from loragen.generators.edits import (
    TENSORS,
    Edit,
    EditFacts,
    add_factors,
    edit_file,
    edited,
    linear_layers,
    read_edits,
    remove_edit,
    write_edit,
)
from loragen.generators.sg.model import SG
from loragen.locks import lock
from loragen.zoo.zoo import Zoo, default_zoo


@pytest.fixture
def folder(tmp_path) -> Path:
    return shutil.copytree(default_zoo() / "generators" / "sg", tmp_path / "sg")


def edit_for(folder: Path, expert: str = "clinc_banking", **changes: object) -> Edit:
    rng = torch.Generator().manual_seed(0)
    network = SG.load(folder).network
    sizes = {name: layer.weight.shape for name, layer in linear_layers(network).items()}
    layers = tuple(sizes)
    facts = {
        "expert": expert,
        "number": 1,
        "adapter_hash": "0" * 64,
        "generator_hash": sha256_of(folder / TENSORS),
        "rank": 2,
        "layers": layers,
        "zero": layers[1:],
        "settings": {},
        "versions": {},
    }
    out, width = sizes[layers[0]]
    factors = {layers[0]: (torch.randn(2, width, generator=rng), torch.randn(out, 2, generator=rng))}
    return Edit(EditFacts.model_validate(facts | changes), factors)


def test_an_edit_reads_back_as_it_was_written(folder) -> None:
    edit = edit_for(folder)
    path = write_edit(folder, edit)
    assert path == folder / "edits" / "clinc_banking.safetensors"
    (read,) = read_edits(folder)
    assert read.facts == edit.facts
    (layer,) = edit.factors
    for one, other in zip(read.factors[layer], edit.factors[layer], strict=True):
        assert torch.equal(one, other)
    assert not_ours(folder) == []  # a training may replace the folder
    remove_edit(folder, "clinc_banking")
    assert read_edits(folder) == ()
    with pytest.raises(GeneratorError, match="has no edit that forgets clinc_banking; it has none"):
        remove_edit(folder, "clinc_banking")


def test_what_is_known_of_a_generator_is_not_said_of_its_edit(tmp_path) -> None:
    zoo = Zoo.open(shutil.copytree(default_zoo(), tmp_path / "zoo"))
    assert Pipeline.open("sg", zoo).confidence is not None
    folder = zoo.root / "generators" / "sg"
    write_edit(folder, edit_for(folder, adapter_hash=zoo.hashes["clinc_banking"]))
    assert Pipeline.open("sg", zoo).confidence is None
    write_edit(folder, edit_for(folder, "review_imdb"))  # by its hash it was another adapter
    with pytest.raises(GeneratorError, match="trained on other experts"):
        Pipeline.open("sg", zoo)


def test_an_edit_that_changes_nothing_has_a_file_too(folder) -> None:
    edit = edit_for(folder)
    empty = Edit(edit.facts.model_copy(update={"zero": edit.facts.layers}), {})
    write_edit(folder, empty)
    before, after = SG.load(default_zoo() / "generators" / "sg"), SG.load(folder)
    for name, value in before.network.state_dict().items():
        assert torch.equal(value, after.network.state_dict()[name])
    assert set(before.library.ids) - set(after.library.ids) == {"clinc_banking"}


def test_one_that_is_cut_off_while_it_is_written_leaves_the_old_state(folder, monkeypatch) -> None:
    before = sorted(folder.rglob("*"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: killed() if str(b).endswith("banking.safetensors") else real(a, b))
    with pytest.raises(KeyboardInterrupt):
        write_edit(folder, edit_for(folder))
    monkeypatch.undo()
    left = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".loragen.json"]
    assert left == [path for path in before if path.is_file() and path.name != ".loragen.json"]
    assert SG.load(folder).edits == ()
    write_edit(folder, edit_for(folder))
    assert [edit.expert for edit in SG.load(folder).edits] == ["clinc_banking"]


def test_one_writer_at_a_time(folder) -> None:
    with lock(folder), pytest.raises(ConfigError, match="being written by another process"):
        write_edit(folder, edit_for(folder))


def test_edits_of_other_weights_are_refused(folder) -> None:
    edit = edit_for(folder)
    write_edit(folder, edit)
    tensors = load_file(folder / TENSORS)
    save_file(
        {name: value + 1 if name == "library.means" else value for name, value in tensors.items()}, folder / TENSORS
    )
    with pytest.raises(GeneratorError, match=r"was made for other weights .*forget clinc_banking again"):
        SG.load(folder)
    with pytest.raises(GeneratorError, match="trained anew meanwhile"):
        write_edit(folder, edit)


def test_a_layer_of_another_shape_is_refused(folder) -> None:
    edit = edit_for(folder)
    (layer,) = edit.factors
    a, b = edit.factors[layer]
    network = SG.load(folder).network
    for factors in ({layer: (a[:, 1:], b)}, {"nowhere": (a, b)}):
        with pytest.raises(GeneratorError, match="in a shape that the generator does not have"):
            add_factors(network, Edit(edit.facts, factors))


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"x" * 64])
def test_a_damaged_file_is_named(folder, content: bytes) -> None:
    path = edit_file(folder, "clinc_banking")
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(GeneratorError, match=r"(?s)clinc_banking.safetensors holds no edit"):
        edited(SG.load(default_zoo() / "generators" / "sg"), folder)


def test_a_file_under_another_name_is_refused(folder) -> None:
    path = write_edit(folder, edit_for(folder))
    path.rename(path.with_name("review_imdb.safetensors"))
    with pytest.raises(GeneratorError, match="is the edit that forgets clinc_banking"):
        SG.load(folder)


def test_an_expert_that_it_does_not_know_cannot_be_forgotten(folder) -> None:
    write_edit(folder, edit_for(folder, expert="nobody"))
    with pytest.raises(GeneratorError, match="does not know the expert 'nobody'"):
        SG.load(folder)
