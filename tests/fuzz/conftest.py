"""Profiles of fuzzing, a folder in memory, and the sum of what was tried."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from fuzz.harness import COUNTS

IS_LONG = bool(os.environ.get("LORAGEN_FUZZ"))
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
settings.register_profile("short", derandomize=True, database=None, phases=PHASES, **COMMON)
settings.register_profile("long", phases=(*PHASES, Phase.shrink), **COMMON)
_COLUMNS = ("tried", "accepted", "refused", "crashed", "hung")


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder in memory where the system has such, with no more than a few files at once."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="loragen-fuzz-", dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def _profile() -> Iterator[None]:
    settings.load_profile("long" if IS_LONG else "short")
    yield
    settings.load_profile("loragen")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the counts of a worker over to the process that prints them."""
    if (handed := getattr(session.config, "workeroutput", None)) is not None:
        handed["fuzz"] = {kind: dict(counts) for kind, counts in COUNTS.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Add the counts of a worker."""
    for kind, counts in getattr(node, "workeroutput", {}).get("fuzz", {}).items():
        COUNTS.setdefault(kind, Counter()).update(counts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many mutants of each kind were tried, and what became of them."""
    if not COUNTS or not IS_LONG:
        return
    terminalreporter.section("mutants")
    rows = [(kind, *(counts[name] for name in _COLUMNS)) for kind, counts in sorted(COUNTS.items())]
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    for row in [("", *_COLUMNS), *rows]:
        terminalreporter.write_line(f"{row[0]:<24}" + "".join(f"{cell:>10}" for cell in row[1:]))
