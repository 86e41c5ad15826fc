"""Helpers for tests of building; the tiny base, tasks and zoo are fixtures of `build_fixtures`."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from loragen.zoo.build_config import ZooConfig

WEIGHTS = "adapter_model.safetensors"
TASKS = {"drinks": ("soup", "tea"), "meals": ("bread", "soup"), "weather": ("cold", "warm")}
POOL = ("drinks", "meals", "weather", "stove")  # of three families, for folds

Step = tuple[str, int, int]


def recorded(steps: list[Step]) -> Callable[[str, int, int], None]:
    """A progress callback that keeps the steps."""
    return lambda *step: steps.append(step)


def changed(config: ZooConfig, **values: Any) -> ZooConfig:
    return ZooConfig.model_validate(config.model_dump() | values)


def state(out: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path.relative_to(out)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def tensors_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def four_families(tasks: Path, folder: Path) -> Path:
    """The task file with each task in a family of its own."""
    text = (tasks / "tasks.yaml").read_text()
    assert text.count("family: table") == 2
    (folder / "tasks.yaml").write_text(text.replace("family: table", "family: ''"))
    return folder / "tasks.yaml"


class InThisProcess:
    """Stands in for a pool of processes, each of which would import torch and Lightning anew."""

    def __init__(self, _workers: int, *, mp_context: Any, initializer: Callable[..., None], initargs: Any) -> None:
        initializer(*initargs)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_options: Any) -> None:
        pass
