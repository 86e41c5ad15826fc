"""Which way `loragen generate` goes: the lean one where its options allow it, and the one with torch for all else.

`LORAGEN_LEAN=0` in the environment takes the latter always.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loragen.files import refuse_to_replace
from loragen.paths import is_file

if TYPE_CHECKING:
    from loragen.exporters.written import Written
    from loragen.lean.generate import LeanAdapter

SWITCH = "LORAGEN_LEAN"
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
STRAIGHT: Mapping[str, object] = {
    **dict.fromkeys(("texts", "shares", "examples", "history", "best_of", "clip_rows", "own_adapter")),
    **dict.fromkeys(("top_k", "licence", "zoo")),
    **{"fit": False, "merge": False, "generator": "sg", "encoder": ENCODER},
}
"""Options that must be as they are by default; all others do not matter."""
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def is_lean(options: Mapping[str, object]) -> bool:
    """True if these options, all those of `STRAIGHT`, leave nothing to do that wants torch."""
    assert options.keys() == STRAIGHT.keys()
    here = Path(str(STRAIGHT["generator"])) / "generator.yaml"  # a generator of that name in this folder comes first
    return os.environ.get(SWITCH) != "0" and dict(options) == dict(STRAIGHT) and not is_file(here)


def generate_folders(
    description: str,
    folders: Sequence[Path],
    *,
    labels: Sequence[str] | None,
    seed: int,
    fallback: bool,
    force: bool,
) -> "list[tuple[LeanAdapter, Written]] | None":
    """Generate an adapter for each folder and write it; `None`, and nothing written, where torch has to do it.

    Raises:
        ConfigError: a folder may not be replaced.
        OSError: the disk is full or fails.
    """
    with _one_thread():
        from loragen.lean.generate import generate_lean
        from loragen.lean.zoo import default_root
    root = default_root()
    refuse_to_replace(folders, force=force, read=(root, "sg", ENCODER))
    try:
        made = generate_lean(
            description, labels or (), root, ENCODER, seed=seed, samples=len(folders), fallback=fallback
        )
    except Exception:  # whatever it is, the other path says it, or gets by
        return None
    return [(one, one.save(folder, replace=force)) for one, folder in zip(made, folders, strict=True)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have numpy, where it is imported within, add in one order on any machine; see `loragen.training.threads`."""
    if "numpy" in sys.modules:
        yield
        return
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
