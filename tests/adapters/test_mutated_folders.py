"""Folders with changed bytes: read, or refused as one line; never another error, and never slow."""

import contextlib
import json
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loras import make_adapter

from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MANY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [10**4000, 1e308, "\ud800", "\0", "(a+)+x", "x{99999999999}", "(" * 500, "LORA", "SEQ_CLS", "~x/y"]
    )
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("mutated") / "adapter"
    make_adapter(task_type="SEQ_CLS").save(folder)
    return {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}


def check(folder: Path, files: dict[str, bytes], *, without_head: bool = False) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    begun = time.monotonic()
    try:
        lora = Lora.load(folder, without_head=without_head)
        assert lora.norm() >= 0
        lora.save(folder.parent / "again")
        assert Lora.load(folder.parent / "again").spec == lora.spec
    except AdapterError as error:
        message = str(error)
    else:
        message = ""
    message.encode()
    assert "\n" not in message
    assert len(message) < 2000
    assert time.monotonic() - begun < 15


edits = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "delete"]), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def edited(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    for kind, where, byte in changes:
        place = int(where * len(data))
        if kind == "flip" and data:
            place = min(place, len(data) - 1)
            data = data[:place] + bytes([data[place] ^ (byte or 1)]) + data[place + 1 :]
        elif kind == "cut":
            data = data[:place]
        elif kind == "insert":
            data = data[:place] + bytes([byte]) + data[place:]
        else:
            data = data[:place] + data[place + 1 + byte % 8 :]
    return data


@MANY
@given(name=st.sampled_from([CONFIG, WEIGHTS]), changes=edits)
def test_changed_bytes(tmp_path, whole, name, changes):
    check(tmp_path / "adapter", whole | {name: edited(whole[name], changes)})


@MANY
@given(changes=edits)
def test_changed_bytes_in_the_table_of_tensors(tmp_path, whole, changes):
    """With its length put right, so that what comes after the table is met too."""
    data = whole[WEIGHTS]
    size = int.from_bytes(data[:8], "little")
    header = edited(data[8 : 8 + size], changes)
    check(tmp_path / "adapter", whole | {WEIGHTS: len(header).to_bytes(8, "little") + header + data[8 + size :]})


@MANY
@given(data=st.data(), without_head=st.booleans())
def test_changed_values_of_the_config(tmp_path, whole, data, without_head):
    config = json.loads(whole[CONFIG])
    keys = data.draw(st.lists(st.sampled_from(sorted(config)) | st.text(max_size=10), min_size=1, max_size=3))
    config |= {key: data.draw(values) for key in keys}
    files = whole | {CONFIG: json.dumps(config).encode()}
    check(tmp_path / "adapter", files, without_head=without_head)


@MANY
@given(data=st.data())
def test_changed_values_of_the_table_of_tensors(tmp_path, whole, data):
    weights = whole[WEIGHTS]
    size = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + size])
    key = data.draw(st.sampled_from(sorted(header)))
    if data.draw(st.booleans()):
        header[data.draw(st.text(max_size=30)) + data.draw(st.sampled_from(["", key]))] = header.pop(key)
    elif isinstance(header[key], dict) and "dtype" in header[key]:
        field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        dtypes = st.sampled_from(["F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "U64"])
        header[key][field] = data.draw(dtypes if field == "dtype" else values)
    else:
        header[key] = data.draw(values)
    table = json.dumps(header).encode()
    check(tmp_path / "adapter", whole | {WEIGHTS: len(table).to_bytes(8, "little") + table + weights[8 + size :]})


@MANY
@given(content=st.binary(max_size=200), name=st.sampled_from([CONFIG, WEIGHTS]))
def test_any_bytes(tmp_path, whole, content, name):
    check(tmp_path / "adapter", whole | {name: content})


@MANY
@given(data=st.data())
def test_changed_configs_of_mlx_and_indices(tmp_path, whole, data):
    mlx = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 2.0}, "model": "tiny"}
    mlx[data.draw(st.sampled_from(sorted(mlx)))] = data.draw(values)
    check(tmp_path / "adapter", {CONFIG: json.dumps(mlx).encode(), "adapters.safetensors": whole[WEIGHTS]})
    index = {"weight_map": {data.draw(st.text(max_size=9)): data.draw(scalars)}, "metadata": {}}
    index[data.draw(st.sampled_from(sorted(index)))] = data.draw(values)
    check(tmp_path / "adapter", {CONFIG: whole[CONFIG], f"{WEIGHTS}.index.json": json.dumps(index).encode()})


@MANY
@given(name=st.text(max_size=300) | st.sampled_from(["\0", "~nobody/x", "..", "a" * 5000, "\ud800"]))
def test_any_name_of_a_folder(tmp_path, name):
    for path in (tmp_path / name, Path(name)):
        with contextlib.suppress(AdapterError):
            Lora.load(path)
