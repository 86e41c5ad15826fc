"""A packed zoo gives the experts and generators of the zoo that it was made of."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from loragen.adapters.folders import WEIGHTS_NAME
from loragen.cli.app import app
from loragen.errors import ConfigError, ZooError
from loragen.zoo.card import EXPERTS
from loragen.zoo.pack import pack_zoo
from loragen.zoo.packed import PACKED
from loragen.zoo.zoo import Zoo, default_zoo


@pytest.fixture(scope="module")
def small(tiny_zoo, tmp_path_factory) -> Zoo:
    return pack_zoo(tiny_zoo, tmp_path_factory.mktemp("packed") / "zoo")


def rewritten(root: Path, change) -> None:
    with safe_open(root / PACKED, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(root / PACKED)
    metadata = change(tensors, metadata) or metadata
    save_file(tensors, root / PACKED, metadata=metadata)


def test_experts_are_those_that_were_packed_to_the_byte(tiny_zoo, small) -> None:
    assert small.ids == tiny_zoo.ids
    for expert in tiny_zoo.ids:
        assert small.adapter(expert).files() == tiny_zoo.adapter(expert).files()
        assert small.card(expert) == tiny_zoo.card(expert)
    assert not dict(small.check())["bank"]


def test_it_has_the_same_fingerprint_whole_and_in_parts(tiny_zoo, small) -> None:
    assert small.fingerprint == tiny_zoo.fingerprint
    assert small.select(without=["bank"]).fingerprint == tiny_zoo.select(without=["bank"]).fingerprint


def test_a_packed_part_of_a_zoo_holds_that_part_alone(tiny_zoo, tmp_path) -> None:
    part = pack_zoo(tiny_zoo.select(without=["bank", "card"]), tmp_path / "part")
    assert part.ids == tuple(name for name in tiny_zoo.ids if name not in ("bank", "card"))
    assert part.adapter("news").files() == tiny_zoo.adapter("news").files()


def test_statistics_are_as_those_of_experts_from_elsewhere(small) -> None:
    adapter = small.adapter("bank")
    for site in adapter.sites:
        assert not small.variance("bank")[site].any()
        assert torch.equal(small.snapshots("bank")[site], adapter.lora_B[site].float()[None])


def test_the_bundled_zoo_takes_half_the_bytes_and_generates_the_same(tmp_path) -> None:
    import loragen

    packed = pack_zoo(Zoo.open().select(splits=["experts"]), tmp_path / "zoo")
    written = sum((default_zoo() / EXPERTS / expert / WEIGHTS_NAME).stat().st_size for expert in packed.ids)
    assert (packed.root / PACKED).stat().st_size < 0.55 * written
    made, wanted = (
        loragen.generate("Sort tenant messages by what they are about.", zoo=zoo, fallback=False)
        for zoo in (packed, None)
    )
    assert made.lora.files() == wanted.lora.files()


def test_an_expert_with_a_folder_of_its_own_may_join(small, tiny_zoo, tmp_path) -> None:
    root = Path(shutil.copytree(small.root, tmp_path / "zoo"))
    shutil.rmtree(root / EXPERTS / "bank")
    shutil.copytree(tiny_zoo.folder("bank"), root / EXPERTS / "bank")
    joined = Zoo.open(root)
    assert joined.fingerprint == tiny_zoo.fingerprint
    assert joined.variance("bank").keys() == tiny_zoo.variance("bank").keys()
    assert all(torch.equal(joined.variance("bank")[site], v) for site, v in tiny_zoo.variance("bank").items())


def test_changed_weights_are_found(small, tmp_path) -> None:
    root = Path(shutil.copytree(small.root, tmp_path / "zoo"))

    def change(tensors, _metadata) -> None:
        name = next(name for name in tensors if name.endswith("lora_B"))
        tensors[name][0] += 1

    rewritten(root, change)
    faults = {name: fault for name, fault in Zoo.open(root).check() if fault}
    assert faults == {"bank": f"{PACKED} holds other weights than it was packed from"}


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, _metadata: tensors.update({name: value[:2].clone() for name, value in tensors.items()}),
        lambda tensors, _metadata: tensors.update({name: value[..., 0].clone() for name, value in tensors.items()}),
        lambda tensors, _metadata: [tensors.pop(name) for name in list(tensors) if name.endswith("lora_A")] and None,
        lambda _tensors, metadata: {"experts": metadata["experts"].replace('"hashes"', '"others"')},
        lambda _tensors, _metadata: {"experts": "["},
        lambda _tensors, _metadata: {"experts": json.dumps({"hashes": [], "settings": {}})},
        lambda _tensors, _metadata: {"other": "1"},
    ],
)
def test_a_damaged_file_is_told_in_one_line(small, tmp_path, change) -> None:
    root = Path(shutil.copytree(small.root, tmp_path / "zoo"))
    rewritten(root, change)
    with pytest.raises(ZooError, match=r"packed experts .* cannot be read") as met:
        Zoo.open(root).adapter("bank")
    assert "\n" not in str(met.value)


def test_a_truncated_file_is_told(small, tmp_path) -> None:
    root = Path(shutil.copytree(small.root, tmp_path / "zoo"))
    whole = (root / PACKED).read_bytes()
    (root / PACKED).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ZooError, match="cannot be read"):
        Zoo.open(root).adapter("bank")


def test_a_card_without_weights_is_told(small, tiny_zoo, tmp_path) -> None:
    root = Path(shutil.copytree(small.root, tmp_path / "zoo"))
    (root / EXPERTS / "bank").rename(root / EXPERTS / "zoology")
    card = root / EXPERTS / "zoology" / "card.yaml"
    card.write_text(card.read_text().replace("id: bank", "id: zoology"))
    with pytest.raises(ZooError, match="does not hold the expert zoology"):
        Zoo.open(root).adapter("zoology")


def test_experts_over_other_frames_are_refused(tiny_zoo, tmp_path) -> None:
    root = Path(shutil.copytree(tiny_zoo.root, tmp_path / "zoo"))
    weights = root / EXPERTS / "card" / WEIGHTS_NAME
    tensors = load_file(weights)
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] += 1
    save_file(tensors, weights)
    with pytest.raises(ZooError, match="bank and card do not share their A"):
        pack_zoo(root, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_something_there_is_not_replaced_unless_asked(tiny_zoo, tmp_path) -> None:
    pack_zoo(tiny_zoo, tmp_path / "packed")
    with pytest.raises(ConfigError, match="packed"):
        pack_zoo(tiny_zoo, tmp_path / "packed")
    assert pack_zoo(tiny_zoo, tmp_path / "packed", replace=True).ids == tiny_zoo.ids


def test_the_verb(tiny_zoo, tmp_path) -> None:
    result = CliRunner().invoke(app, ["zoo", "pack", str(tiny_zoo.root), "--out", str(tmp_path / "packed"), "--json"])
    assert result.exit_code == 0, result.output
    assert [card["id"] for card in json.loads(result.stdout)] == list(tiny_zoo.ids)
    assert Zoo.open(tmp_path / "packed").fingerprint == tiny_zoo.fingerprint
