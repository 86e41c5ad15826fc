import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kill_cases import cases, write_shop
from killing import TALLY, Server, Trial, is_long


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(scope="session")
def shop(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the commands read."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder, server.run)
    if is_long():
        assert server.run(folder, "train", "sg.yaml")["status"] == 0
        (folder / "out" / "sg").rename(folder / "trained")
    return folder


@pytest.fixture(scope="session")
def trial(server: Server, shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Trial]]:
    """The trial of a command by its name, with the whole run that the others are compared with."""
    root, known = tmp_path_factory.mktemp("trials"), {}

    def found(name: str) -> Trial:
        if name not in known:
            (case,) = (case for case in cases(shop) if case.name == name)
            known[name] = Trial(server, shop, case, root / name)
        return known[name]

    yield found
    shutil.rmtree(root, ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the counts of a worker over to the process that prints them."""
    if (handed := getattr(session.config, "workeroutput", None)) is not None:
        handed["kills"] = dict(TALLY)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Add the counts of a worker."""
    TALLY.update(getattr(node, "workeroutput", {}).get("kills", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many runs were killed, failed or interrupted, by command."""
    if TALLY and is_long():
        told = ", ".join(f"{name} {number}" for name, number in sorted(TALLY.items()))
        terminalreporter.write_line(f"{sum(TALLY.values())} runs killed, failed or interrupted: {told}")
