"""Headers of GGUF files: what they say is compared with the file before anything is read or made."""

import struct

import gguf
import pytest
from tiny_gguf import LAYERS, tensors, tokens, write_tiny_gguf

from loragen.base_store import gguf_header
from loragen.base_store.gguf_header import read_header
from loragen.errors import ConfigError, MissingExtraError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def written(tmp_path, whole):
    def write(content: bytes | None = None):
        path = tmp_path / "some.gguf"
        path.write_bytes(whole if content is None else content)
        return path

    return write


def test_a_header_says_what_gguf_itself_reads(written):
    path = written()
    header, reader = read_header(path), gguf.GGUFReader(path)
    assert header.architecture == "llama"
    assert header.licence == "mit"
    assert header.values["llama.block_count"] == LAYERS
    assert header.values["tokenizer.ggml.tokens"] == len(tokens())
    assert [(one.name, list(one.shape), one.quantisation) for one in header.tensors] == [
        (one.name, list(one.shape), one.tensor_type.name) for one in reader.tensors
    ]
    assert header.parameters == sum(values.size for values in tensors().values())


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_told_with_both_sizes(written, whole, part):
    path = written(whole[: int(part * len(whole))])
    with pytest.raises(ConfigError, match=r"some\.gguf is cut off.*fetch it again"):
        read_header(path)


def test_the_last_byte_counts(written, whole):
    end = max(t.data_offset + t.n_bytes for t in gguf.GGUFReader(written()).tensors)
    read_header(written(whole[:end]))
    with pytest.raises(ConfigError, match=f"has {end - 1:,} bytes, and its header speaks of {end:,}"):
        read_header(written(whole[: end - 1]))


def test_every_cut_within_the_header_is_one_line(written, whole):
    for length in (*range(0, 400, 7), 2_000, 5_000):
        with pytest.raises(ConfigError) as told:
            read_header(written(whole[:length]))
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "no GGUF file"),
        (b"PK\x03\x04 a wheel", "no GGUF file: it begins with"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1, where 2 or 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0), "speaks of .* tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "speaks of .* values"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**60) + bytes(20), "a text of"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 99) + bytes(20), "of the type 99"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**50), "entries of an array"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 1) + bytes(20), "of the type 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "does not say of which architecture"),
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_made_of_it(written, content, fault):
    with pytest.raises(ConfigError, match=fault):
        read_header(written(content))


def test_more_than_is_taken_is_refused(written, monkeypatch):
    monkeypatch.setattr(gguf_header, "LARGEST_HEADER", 1_000)
    with pytest.raises(ConfigError, match="a header of over 1,000 bytes"):
        read_header(written())
    monkeypatch.setattr(gguf_header, "LARGEST_FILE", 1_000)
    with pytest.raises(ConfigError, match="at most 1,000 bytes"):
        read_header(written())


def test_layers_that_cannot_be_laid_out_are_refused(tmp_path):
    path = write_tiny_gguf(tmp_path / "deep.gguf", layers=1_000_000)
    with pytest.raises(ConfigError, match="1,000,000 layers, where at most 10,000"):
        read_header(path)


def test_without_gguf_the_extra_is_named(written, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'loragen\[lm\]'"):
        read_header(written())
