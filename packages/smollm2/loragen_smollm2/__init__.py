"""The zoo of SmolLM2-135M-Instruct: a folder."""

from pathlib import Path

FOLDER = str(Path(__file__).parent / "zoo")
"""Found by loragen through the entry point ``smollm2`` of the group ``loragen.zoos``."""
