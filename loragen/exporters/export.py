"""What is asked of an export, and what it says: shared by all targets."""

from dataclasses import dataclass
from pathlib import Path

from loragen.adapters.adapter import Lora


@dataclass(frozen=True, eq=False)
class Request:
    """An adapter that is to be written in the form of another program."""

    adapter: Lora
    base: str
    """Folder or Hub name of the base."""
    out: Path
    dtype: str
    """One of the target's."""
    base_gguf: Path | None = None
    """The base as a GGUF file."""
    base_name: str | None = None
    """The base as that program names it, if not as here."""
    modelfile: bool = False
    """Write a Modelfile for Ollama beside the model."""
    system: str | None = None
    """The system turn that its prompts want, if any."""
    force: bool = False
    is_local: bool = False
    """Ask nothing of the Hub."""


@dataclass(frozen=True)
class Exported:
    """A file or folder that was written for another program."""

    file: Path
    arch: str
    """That program's name of the architecture."""
    sites: int
    dtype: str
    """Of the tensors that hold the update."""
    use: str
    """A line that a user types next."""
    notes: tuple[str, ...] = ()
