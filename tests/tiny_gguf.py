"""Tiny GGUF files that transformers reads, and wheels that hold them."""

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np

from loragen.bases.known import KnownBase

HIDDEN, INNER, HEADS, KEYS, LAYERS = 32, 64, 4, 2, 2
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def tokens() -> list[str]:
    """The letters of a byte-level tokenizer, one merged pair, and three special tokens."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in shown] + [chr(256 + i) for i in range(256 - len(shown))]
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "he"]


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a Llama by GGUF's names, (out, in) each."""
    rng = np.random.default_rng(seed)
    key = HIDDEN // HEADS * KEYS
    shapes = {"token_embd": (len(tokens()), HIDDEN), "output_norm": (HIDDEN,)}
    for i in range(LAYERS):
        inner = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (key, HIDDEN), "attn_v": (key, HIDDEN)}
        inner |= {"attn_output": (HIDDEN, HIDDEN), "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
        inner |= {"ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in inner.items()}
    return {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_tiny_gguf(
    path: Path, *, seed: int = 0, architecture: str = "llama", without: str = "", layers: int = LAYERS, licence="mit"
) -> Path:
    """Write a Llama of two layers, its matrices in Q8_0; ``without`` names a tensor to leave out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    if licence:
        writer.add_license(licence)
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens()))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens())
    writer.add_token_types([3] * 3 + [1] * (len(tokens()) - 3))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, values in tensors(seed).items():
        if name != without:
            is_matrix = values.ndim > 1
            data = gguf.quants.quantize(values, kind) if is_matrix else values
            writer.add_tensor(name, data, raw_dtype=kind if is_matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder: Path, file: Path | None, *, name: str = "tiny-chat") -> KnownBase:
    """Write a wheel that holds a GGUF file, and the row that knows it."""
    folder.mkdir(parents=True, exist_ok=True)
    package, inside = f"llm-{name}", f"llm_{name.replace('-', '_')}"
    info = f"{inside}-0.1.dist-info"
    wheel = folder / f"{inside}-0.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        if file is not None:
            archive.write(file, f"{inside}/model.gguf")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    content = wheel.read_bytes()
    return KnownBase(
        name=name,
        package=package,
        version="0.1",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        file=f"{inside}/model.gguf",
        file_size=file.stat().st_size if file is not None else 1,
        licence="apache-2.0",
        hub="tiny-org/Tiny-Chat",
    )
