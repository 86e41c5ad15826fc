"""The command line, run in this process in an empty folder."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers.utils.logging  # noqa: F401 - keeps the stderr that it is first imported under: not one test's

from loragen.adapters.adapter import Lora
from loragen.cli import app


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """All output with one space between words, so that a table's line breaks do not count."""
        return " ".join(self.out.split())


Run = Callable[..., Result]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path) -> Run:
    """Run the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["loragen", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            app.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(int(exit_info.value.code or 0), captured.out, captured.err)

    return call


def write_adapter(folder: Path, base: object, *, seed=0, r=4, size=16, sites=None, task_type="FEATURE_EXTRACTION"):
    """A random adapter of a BERT's queries and values that visibly changes it."""
    sites = sites or [f"encoder.layer.{i}.attention.self.{name}" for i in (0, 1) for name in ("query", "value")]
    rng = torch.Generator().manual_seed(seed)
    Lora.from_factors(
        {site: torch.randn(r, size, generator=rng) for site in sites},
        {site: torch.randn(size, r, generator=rng) / 3 for site in sites},
        base_model_name_or_path=str(base),
        task_type=task_type,
    ).save(folder)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))
