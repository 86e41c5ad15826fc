"""A packed zoo gives the experts and generators of the zoo that it was made of."""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from loragen.adapters.folders import WEIGHTS_NAME
from loragen.adapters.frame import Frame
from loragen.cli.app import app
from loragen.errors import ConfigError, ZooError
from loragen.zoo.card import EXPERTS
from loragen.zoo.card_table import TABLE
from loragen.zoo.import_adapters import import_adapters
from loragen.zoo.pack import pack_zoo
from loragen.zoo.shards import SHARDS, SHARED, file_hash
from loragen.zoo.zoo import Zoo, default_zoo


@pytest.fixture(scope="module")
def small(tiny_zoo, tmp_path_factory) -> Zoo:
    return pack_zoo(tiny_zoo, tmp_path_factory.mktemp("packed") / "zoo")


def shards(zoo: Zoo) -> list[Path]:
    return sorted((zoo.root / SHARDS).iterdir())


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
    files = [*shards(packed), packed.root / SHARED, packed.root / TABLE]
    assert sum(file.stat().st_size for file in files) < 0.6 * written
    made, wanted = (
        loragen.generate("Sort tenant messages by what they are about.", zoo=zoo, fallback=False)
        for zoo in (packed, None)
    )
    assert made.lora.files() == wanted.lora.files()


def test_changed_weights_are_found(small, tmp_path) -> None:
    root = Path(shutil.copytree(small.root, tmp_path / "zoo"))
    (file,) = shards(Zoo.open(root))
    tensors = load_file(file)
    tensors["rows"][0] += 1
    save_file(tensors, file)
    faults = {name: fault for name, fault in Zoo.open(root).check() if fault}
    assert faults == {"bank": f"{SHARDS} hold other weights than were packed"}


def other_metadata(file: Path, change) -> None:
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(file), file, metadata={"experts": change(metadata["experts"])})


def other_rows(file: Path, change) -> None:
    save_file({"rows": change(load_file(file)["rows"]).contiguous()}, file)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: cut_off(root / SHARDS / "000000.safetensors"),
        lambda root: (root / SHARDS / "000000.safetensors").unlink(),
        lambda root: other_rows(root / SHARDS / "000000.safetensors", lambda rows: rows[:, :-1]),
        lambda root: other_rows(root / SHARDS / "000000.safetensors", lambda rows: rows[:0]),
        lambda root: other_rows(root / SHARDS / "000000.safetensors", lambda rows: rows.float()),
        lambda root: other_rows(root / SHARDS / "000000.safetensors", lambda rows: rows * float("nan")),
        lambda root: save_file({"others": torch.zeros(8, 8)}, root / SHARDS / "000000.safetensors"),
        lambda root: cut_off(root / SHARED),
        lambda root: (root / SHARED).unlink(),
        lambda root: other_metadata(root / SHARED, lambda text: "["),
        lambda root: other_metadata(root / SHARED, lambda text: text.replace('"settings"', '"others"')),
        lambda root: other_metadata(root / SHARED, lambda text: text.replace("bfloat16", "complex64")),
        lambda root: other_metadata(root / SHARED, lambda text: json.dumps({"out_features": []})),
    ],
)
def test_damaged_weights_are_told_in_one_line(small, tmp_path, damage) -> None:
    root = Path(shutil.copytree(small.root, tmp_path / "zoo"))
    damage(root)
    with pytest.raises(ZooError, match=r"packed experts .* cannot be read") as met:
        Zoo.open(root).adapter("bank")
    assert "\n" not in str(met.value)


def read_a_part(root: Path) -> None:
    zoo = Zoo.open(root)
    zoo.card("bank"), zoo.adapter("bank"), zoo.select(splits={"experts"})


def changed_table(root: Path, *commands: str) -> None:
    with closing(sqlite3.connect(root / TABLE)) as table, table:
        for command in commands:
            table.execute(command)


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / TABLE).write_bytes(b"no table" * 1000),
        lambda root: (root / TABLE).write_bytes((root / TABLE).read_bytes()[:5000]),
        lambda root: (root / TABLE).write_bytes(b""),
        lambda root: changed_table(root, "DROP TABLE cards"),
        lambda root: changed_table(root, "UPDATE cards SET card = '{}'"),
        lambda root: changed_table(root, "UPDATE cards SET card = (SELECT card FROM cards WHERE row = 1)"),
        lambda root: changed_table(root, "UPDATE cards SET card = printf('%.*c', 3000000, 'x')"),
        lambda root: changed_table(root, "UPDATE experts SET id = printf('%.*c', 1000, 'x') WHERE row = 0"),
        lambda root: changed_table(root, "UPDATE experts SET id = x'00' WHERE row = 0"),
        lambda root: changed_table(root, "UPDATE experts SET shard = 1000000"),
        lambda root: changed_table(root, "UPDATE experts SET shard = 7"),
        lambda root: changed_table(root, "UPDATE experts SET place = -1"),
        lambda root: changed_table(root, "UPDATE experts SET place = 8"),
        lambda root: changed_table(root, "UPDATE experts SET place = 'x'"),
    ],
)
def test_a_damaged_table_is_told_in_one_line(small, tmp_path, damage) -> None:
    root = Path(shutil.copytree(small.root, tmp_path / "zoo"))
    damage(root)
    with pytest.raises(ZooError, match="restore") as met:
        read_a_part(root)
    assert "\n" not in str(met.value)


def test_a_row_of_an_expert_that_is_not_finite_is_told_when_many_are_read(small, tmp_path) -> None:
    root = Path(shutil.copytree(small.root, tmp_path / "zoo"))
    other_rows(root / SHARDS / "000000.safetensors", lambda rows: rows * float("nan"))
    with pytest.raises(ZooError, match="not finite"):
        Zoo.open(root).sharded.coordinates(np.array([0]), np.array([3]))


def test_many_shards_hold_what_one_would(tiny_zoo, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("loragen.zoo.shards.MOST_ROWS", 3)
    packed = pack_zoo(tiny_zoo, tmp_path / "zoo")
    assert len(shards(packed)) == 3
    assert packed.fingerprint == tiny_zoo.fingerprint
    frame = Frame.fit([tiny_zoo.adapter(name) for name in tiny_zoo.ids])
    wanted = torch.stack([frame.coordinates(tiny_zoo.adapter(name)) for name in tiny_zoo.ids])
    columns = packed.cards.columns()
    assert torch.equal(packed.sharded.coordinates(columns.shard, columns.place), wanted)
    shared = packed.sharded.shared
    assert shared.is_frame(frame)
    for name in tiny_zoo.ids:
        adapter = tiny_zoo.adapter(name)
        assert packed.adapter(name).files() == adapter.files()
        assert packed.cards.place(name).sha256 == shared.file_hash(shared.row(name, adapter)) == file_hash(adapter)


def test_a_selection_is_that_of_the_folders(tiny_zoo, small) -> None:
    for asked in (
        {"splits": {"experts"}},
        {"licences": {"mit"}},
        {"licences": {"MIT", "none"}, "splits": {"validation", "experts"}, "without": {"bank"}},
        {"without": set(tiny_zoo.ids[1:])},
    ):
        wanted = tiny_zoo.select(**asked)
        for met in (small.select(**asked), small.select(without={"nobody"}).select(**asked)):
            assert (met.ids, list(met), len(met)) == (wanted.ids, list(wanted), len(wanted))
            assert met.fingerprint == wanted.fingerprint
    part = small.select(without={"bank"})
    assert part.select(splits={"experts"}).ids == tiny_zoo.select(splits={"experts"}, without={"bank"}).ids
    assert part.cards.columns().row.tolist() == [at for at, name in enumerate(tiny_zoo.ids) if name != "bank"]
    for zoo in (part, tiny_zoo.select(without={"bank"})):
        with pytest.raises(ZooError, match="no expert 'bank'"):
            zoo.adapter("bank") if zoo is part else zoo.card("bank")
        with pytest.raises(ZooError, match="it holds: experts; validation"):
            zoo.select(splits={"none"})


def test_a_writer_that_was_killed_left_nothing(small, tmp_path) -> None:
    """A table with the journal of a transaction that was not ended is read as it was before."""
    root = Path(shutil.copytree(small.root, tmp_path / "zoo"))
    script = (
        "import os, sqlite3, sys; table = sqlite3.connect(sys.argv[1]); table.execute('PRAGMA cache_size = 1');"
        "table.execute('DELETE FROM experts'); table.execute('DELETE FROM cards');"
        "[table.execute('INSERT INTO cards VALUES (?, ?)', (row, 'x' * 3000)) for row in range(100)]; os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(root / TABLE)], check=True)
    assert (root / f"{TABLE}-journal").exists()
    assert list(Zoo.open(root)) == list(small)
    assert not (root / f"{TABLE}-journal").exists()


def test_experts_over_other_frames_are_refused(tiny_zoo, tmp_path) -> None:
    root = Path(shutil.copytree(tiny_zoo.root, tmp_path / "zoo"))
    weights = root / EXPERTS / "card" / WEIGHTS_NAME
    tensors = load_file(weights)
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] += 1
    save_file(tensors, weights)
    with pytest.raises(ZooError, match="card does not share the A"):
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


def test_folders_of_experts_are_not_written_beside_a_table(small, tiny_zoo) -> None:
    with pytest.raises(ZooError, match="is packed"):
        import_adapters([str(tiny_zoo.folder("bank"))], zoo=small.root, descriptions=["A new one."], ids=["new"])
    assert not (small.root / EXPERTS).exists()
