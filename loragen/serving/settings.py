"""Settings of a server, and the caps on what a client may ask of it."""

from pathlib import Path

from pydantic import Field

from loragen.config import StrictModel

MOST = 100_000_000_000
"""Of anything: bytes of a disk that is set aside for adapters."""


class Limits(StrictModel):
    """Caps; what is beyond them is refused before it is computed. Those of requests and inputs are TEI's defaults."""

    body: int = Field(2_000_000, ge=1_000, le=MOST)
    """Bytes of a request."""
    seconds_to_read: float = Field(10.0, gt=0)
    """In which a request must have come in."""
    seconds: float = Field(60.0, gt=0)
    """In which a request is answered, jobs apart."""
    requests: int = Field(512, ge=1, le=MOST)
    """At once."""
    inputs: int = Field(32, ge=1, le=MOST)
    """Texts of a request."""
    embeddings: int = Field(2_048, ge=1, le=MOST)
    """Texts of a request in OpenAI's form."""
    characters: int = Field(100_000, ge=100, le=MOST)
    """Of one text."""
    description: int = Field(4_000, ge=10, le=MOST)
    """Characters."""
    labels: int = Field(200, ge=2, le=MOST)
    texts: int = Field(2_000, ge=20, le=MOST)
    """Unlabelled texts to adapt to."""
    examples: int = Field(1_000, ge=1, le=MOST)
    history: int = Field(2_000, ge=1, le=MOST)
    """Past texts of a person."""
    samples: int = Field(8, ge=1, le=MOST)
    new_tokens: int = Field(512, ge=1, le=MOST)
    """That a language model writes at once."""
    jobs: int = Field(16, ge=1, le=MOST)
    """Waiting or at work."""
    adapters: int = Field(10_000, ge=1, le=MOST)
    """On disk."""
    disk: int = Field(4_000_000_000, ge=1_000_000, le=MOST)
    """Bytes of all adapters on disk."""
    cache: int = Field(300_000_000, ge=1_000_000, le=MOST)
    """Bytes of adapters in memory."""


class ServeSettings(StrictModel):
    """All that a server is started with."""

    adapters: Path = Path("adapters")
    """Folder that adapters are kept in, a folder each by its name; those that lie there already are served."""
    zoo: str | None = None
    """Folder or name of a zoo; by default the bundled one."""
    generator: str | None = None
    """Where a request names none; by default sg or, on a zoo without it, the one trained there."""
    drop: Path | None = None
    """Folder that adapters are written to for another engine as well."""
    drop_for: str = "vllm"
    """That engine: a target of `loragen export` that is a folder."""
    base_name: str | None = None
    """The base as that engine names it."""
    host: str = "127.0.0.1"
    port: int = Field(8421, ge=0, le=65_535)
    api_key: str | None = Field(None, min_length=1)
    limits: Limits = Limits()

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach the server."""
        return self.host in ("127.0.0.1", "localhost", "::1")
