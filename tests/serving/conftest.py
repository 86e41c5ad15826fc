"""A server over the bundled zoo: in this process with a client, and in a process of its own for sockets and signals."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the client's server keeps its adapters."""
    return tmp_path_factory.mktemp("serving") / "adapters"


@pytest.fixture(scope="session")
def client(adapters: Path) -> Iterator[Any]:
    """A client of a server over the bundled zoo, for all tests of a session; each gives its adapters own names."""
    from servers import client_of

    from loragen.serving.app import make_app
    from loragen.serving.settings import ServeSettings

    with client_of(make_app(ServeSettings(adapters=adapters))) as client:
        yield client


@pytest.fixture(scope="session")
def reviews(client: Any) -> str:
    """Name of an adapter that tests ask and leave as it is."""
    from servers import DESCRIPTION, LABELS

    made = client.post("/v1/adapters", json={"description": DESCRIPTION, "labels": LABELS, "name": "reviews"})
    assert made.status_code == 201, made.text
    return "reviews"


@pytest.fixture(scope="session")
def language_app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server over a tiny language model, with two adapters."""
    pytest.importorskip("fastapi")
    from language_zoo import write_language_adapters, write_language_zoo

    from loragen.serving.app import make_app
    from loragen.serving.settings import Limits, ServeSettings

    folder = tmp_path_factory.mktemp("language")
    zoo = write_language_zoo(folder)
    write_language_adapters(zoo, folder / "adapters")
    limits = Limits(new_tokens=64)
    return make_app(ServeSettings(adapters=folder / "adapters", zoo=str(zoo), generator="topk", limits=limits))


@pytest.fixture(scope="session")
def writer(language_app: Any) -> Iterator[Any]:
    """A client of it."""
    from servers import client_of

    with client_of(language_app) as client:
        yield client


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Starts servers in processes of their own."""
    from servers import Processes

    started = Processes(tmp_path_factory.mktemp("processes"))
    yield started
    started.end()


@pytest.fixture(scope="session")
def server(processes: Any) -> Any:
    """A server that tests leave running."""
    return processes.start()
