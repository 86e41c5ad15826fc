"""Extras of the package: in a source tree, `lm` brings the zoo of SmolLM2 that lies there."""

import os
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

ZOO, PACKAGE = "zoo/smollm2/zoo.yaml", "packages/smollm2"
LM = ["gguf>=0.18"]
SERVE = ["fastapi>=0.115", "uvicorn>=0.32", "prometheus-client>=0.21"]
RAY = ["ray[client]>=2.40"]
EXTRAS = {
    "serve": SERVE,
    "plot": ["matplotlib>=3.9"],
    "hub": ["datasets>=3.0"],
    "ray": RAY,
    "dev": [
        *LM,
        *RAY,
        *SERVE,
        "httpx>=0.27",
        "hypothesis>=6.100",
        "matplotlib>=3.9",
        "mypy>=1.13",
        "openai>=1.50",
        "playwright>=1.49",
        "pytest>=8.3",
        "pytest-xdist>=3.8",
        "ruff>=0.8",
        "schemathesis>=4.0",
        "types-PyYAML>=6.0",
    ],
}


class CustomMetadataHook(MetadataHookInterface):
    """Fills in the extras."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Name the zoo's own package by its folder here or, for a release (LORAGEN_RELEASE=1), by its name."""
        root, zoo = Path(self.root), []
        if os.environ.get("LORAGEN_RELEASE"):
            zoo = ["loragen-smollm2>=0.1"]
        elif (root / ZOO).is_file():
            zoo = [f"loragen-smollm2 @ {(root / PACKAGE).as_uri()}"]
        metadata["optional-dependencies"] = {**EXTRAS, "lm": [*LM, *zoo]}
