"""Folders of trained generators."""

from hypothesis import strategies as st

from fuzz.files import Mutant
from fuzz.zoos import GENERATOR, mutated_file

READ = ["generator.yaml", "generator.yaml", "generator.safetensors", "frame.safetensors"]
"""Files that bear on what is generated."""


def generators() -> st.SearchStrategy[Mutant]:
    """The folder of an SG-LoRA with a mutated file."""
    return mutated_file(GENERATOR, READ)
