"""Zoos and trained generators: those of an older version under ``tests/old_files``, one file of which is mutated."""

import hashlib
from pathlib import Path

import torch
from hypothesis import strategies as st

from fuzz.adapters import mutated_weights
from fuzz.files import Mutant, files_under
from fuzz.mutations import as_json, mutated_bytes, mutated_tree, mutated_yaml
from loragen.conditions.text_encoder import TextEncoder

OLD = Path(__file__).parents[1] / "old_files"
ZOO = files_under(OLD / "zoo")
GENERATOR = {
    name.removeprefix("generators/sg/"): data for name, data in ZOO.items() if name.startswith("generators/sg/")
}
NAMES = ("id", "split", "labels", "recipe", "provenance", "base", "config", "kind", "top_k", "hidden_size", "experts")


def stand_in_encoder() -> TextEncoder:
    """The encoder that the old zoo names, with random vectors in place of its model's."""
    encoder = TextEncoder("all-MiniLM-L6-v2", OLD, "53aa51172d142c89")
    encoder.__dict__["_embed"] = lambda texts: torch.stack([_vector(text) for text in texts])
    return encoder


def _vector(text: str) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return torch.randn(384, generator=torch.Generator().manual_seed(seed))


@st.composite
def mutated_file(draw: st.DrawFn, files: dict[str, bytes], among: list[str]) -> Mutant:
    """The files with one of them mutated, lost, emptied, or replaced by another one."""
    files = dict(files)
    name = draw(st.sampled_from(among))
    match draw(st.sampled_from(["content", "content", "content", "content", "lose", "empty", "exchange"])):
        case "content":
            files[name] = draw(_mutated_content(name, files[name]))
        case "lose":
            del files[name]
        case "empty":
            files[name] = b""
        case "exchange":
            files[name] = files[draw(st.sampled_from(among))]
    return Mutant(files, name)


def _mutated_content(name: str, data: bytes) -> st.SearchStrategy[bytes]:
    if name.endswith(".safetensors"):
        return mutated_weights(data)
    if name.endswith(".json"):
        import json

        return mutated_tree(json.loads(data)).map(as_json) | mutated_bytes(data)
    return mutated_yaml(data, NAMES)


def zoos() -> st.SearchStrategy[Mutant]:
    """A zoo with a mutated manifest or a mutated file of an expert."""
    return mutated_file(
        ZOO, ["zoo.yaml", *(name for name in ZOO if name.startswith(("experts/bank/", "experts/mood/")))]
    )
