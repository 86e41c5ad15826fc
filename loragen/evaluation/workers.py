"""Processes that compute the cells of an evaluation, a task each at a time; this process alone writes them down.

A small base gains little from several threads: its matrices are finished so soon that threads wait for one another.
"""

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from loragen.errors import ConfigError
from loragen.evaluation.cells import Cell, Key
from loragen.evaluation.config import EvaluateConfig
from loragen.evaluation.scoring import Scorer
from loragen.evaluation.task_cells import missing_cells
from loragen.evaluation.workspace import Workspace
from loragen.tasks.task_set import Task
from loragen.zoo.executors import available_cores, end_with_parent, interrupts_held_back

Known = Mapping[Key, Cell]
LEAST_CELLS = 200
"""Missing cells from which on several processes are started unasked: each opens base, zoo and generators anew."""


def computed_cells(workspace: Workspace, plan: Mapping[str, Sequence[Key]], known: Known) -> Iterator[Cell]:
    """The cells that are not known, as they are computed; those of one task come in their order.

    Args:
        workspace: the evaluation.
        plan: id of a task → keys of its cells.
        known: cells that were computed before.

    Raises:
        LoragenError: a task, an adapter or a file cannot be used.
        ConfigError: a process was ended from outside.
    """
    # A known cell can lack something as well, so that every task is looked at.
    missing = sum(key not in known for keys in plan.values() for key in keys)
    number = min(_workers(workspace.config, missing), len(workspace.tasks))
    if number > 1:
        yield from _Crew(workspace, plan, known).cells(number)
        return
    scorer, found = Scorer(workspace), dict(known)
    for task in workspace.tasks:
        for cell in missing_cells(workspace, scorer, task, found):
            found[cell.key] = cell
            yield cell


def _workers(config: EvaluateConfig, missing: int) -> int:
    chosen = config.workers or (available_cores() if missing >= LEAST_CELLS else 1)
    return chosen if missing else 1


@dataclass
class _Crew:
    """The processes of one evaluation."""

    workspace: Workspace
    plan: Mapping[str, Sequence[Key]]
    known: Known
    waiting: deque[Task] = field(default_factory=deque)

    def cells(self, number: int) -> Iterator[Cell]:
        """The cells of all tasks, by so many processes."""
        self.waiting.extend(self.workspace.tasks)
        with ExitStack() as opened:
            busy = {self._started(opened, number) for _ in range(number)}
            while busy:
                for pipe in wait(list(busy)):
                    assert isinstance(pipe, Connection)
                    try:
                        said = pipe.recv()
                    except EOFError as error:
                        raise ConfigError(
                            "A process of the evaluation was ended from outside, perhaps for want of memory; what was "
                            "computed is kept. Evaluate again to go on, with fewer 'workers' if memory is short."
                        ) from error
                    if isinstance(said, BaseException):
                        raise said
                    if said is not None:
                        yield said
                    elif not self._give(pipe):
                        busy.discard(pipe)

    def _started(self, opened: ExitStack, number: int) -> Connection:
        """A process, which asks for a task as soon as it is ready; it ends with the stack at the latest."""
        context = get_context("spawn")
        ours, its = context.Pipe()
        threads = max(1, available_cores() // number)
        process = context.Process(target=_work, args=(its, self.workspace.config, threads), daemon=True)
        with interrupts_held_back():
            process.start()
        its.close()
        opened.callback(process.join)
        opened.callback(process.terminate)  # it writes nothing, and callbacks come last first
        opened.callback(ours.close)
        return ours

    def _give(self, pipe: Connection) -> bool:
        """Give a process the next task; False where there is none."""
        if not self.waiting:
            return False
        task = self.waiting.popleft()
        pipe.send((task.id, [self.known[key] for key in self.plan[task.id] if key in self.known]))
        return True


def _work(pipe: Any, config: EvaluateConfig, threads: int) -> None:
    """Compute the cells of tasks as they are given; `None` asks for the next."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with suppress(EOFError, BrokenPipeError):
        try:
            workspace = Workspace.open(config)
            scorer, tasks = Scorer(workspace), {task.id: task for task in workspace.tasks}
            while True:
                pipe.send(None)
                name, cells = pipe.recv()
                for cell in missing_cells(workspace, scorer, tasks[name], {cell.key: cell for cell in cells}):
                    pipe.send(cell)
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:
            error.add_note(traceback.format_exc())  # a traceback does not travel
            pipe.send(error)
    os._exit(0)
