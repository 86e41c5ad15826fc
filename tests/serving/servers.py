"""Servers for tests: in this process with a client or on a socket, and in processes of their own."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

for _needed in ("fastapi", "httpx", "uvicorn", "prometheus_client"):
    pytest.importorskip(_needed)

from starlette.testclient import TestClient  # noqa: E402

from loragen.serving.guard import App  # noqa: E402

DESCRIPTION, LABELS = "Is the product review good or bad?", ["good", "bad"]
"""Of the adapter that most tests ask."""
BASE = "sentence-transformers/all-MiniLM-L6-v2"
REPOSITORY = Path(__file__).parents[2]
_RUN = """
import sys, loragen
from loragen.serving.settings import Limits
loragen.serve(sys.argv[1], port=0, api_key=sys.argv[2] or None, limits=Limits.model_validate_json(sys.argv[3]),
              on_ready=lambda address: print("at", address, flush=True))
"""
"""A server with caps of its own, which the command line does not take."""


@dataclass(frozen=True)
class Process:
    """A server in a process of its own."""

    run: subprocess.Popen[str]
    address: str
    adapters: Path


def client_of(app: App) -> TestClient:
    """A client that gets what a browser on this machine would, faults of the server as status 500."""
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


class Processes:
    """Starts servers in processes of their own, and ends them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._begun = folder, list[Process]()

    def start(self, adapters: Path | None = None, *, key: str = "", limits: str | None = None) -> Process:
        """A server by the command line or, where it has caps, by the library."""
        folder = adapters or self._folder / str(len(self._begun)) / "adapters"
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "loragen", "serve", "--port", "0", "--adapters", str(folder)]
        if limits is not None:
            command = [sys.executable, "-c", _RUN, str(folder), key, limits]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "LORAGEN_API_KEY": key, "OMP_NUM_THREADS": "1"}
        run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder.parent)
        assert run.stdout is not None
        met = re.search(r"at (http://[^\s,]+)", run.stdout.readline())
        process = Process(run, met[1] if met else "", folder)
        self._begun.append(process)
        assert met is not None
        return process

    def end(self) -> None:
        """End those that still run."""
        for process in self._begun:
            process.run.kill()
            process.run.communicate()


@contextlib.contextmanager
def on_a_socket(app: App, **options: Any) -> Iterator[str]:
    """The address of an application that listens, in a thread of this process."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, **options)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        while not running.started and thread.is_alive():
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join()
