"""Runs commands of loragen in forks of itself; each may be killed, or failed by the disk, at its N-th file-system call.

A script: requests come as lines of JSON on standard input, and answers go to standard output. It has imported all that
the commands need, so that a fork costs no more than the command itself.
"""

import errno
import importlib
import io
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

WARM = (
    *("torch", "lightning", "sklearn.manifold", "sklearn.linear_model", "matplotlib.figure", "faiss", "peft"),
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "transformers.models.bert.modeling_bert"),
    *("transformers.models.bert.tokenization_bert", "transformers.models.auto.modeling_auto", "loragen.cli.app"),
    *("loragen.evaluation.figures", "loragen.training.lightning_fit", "loragen.zoo.build", "loragen.zoo.init"),
    *("loragen.generators.sg.fit", "loragen.generators.train", "loragen.evaluation.own_data", "loragen.inference"),
    *("loragen.zoo.import_adapters", "loragen.exporters.merged_model", "loragen.evaluation.evaluate"),
    "loragen.cli.console",
)
KINDS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.symlink"}
"""Events of calls that change the disk, beside opening a file to write; `os.replace` is a rename."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
TAKES_SPACE = {"create", "os.mkdir", "write", "fsync"}
LIMIT_S = 120


class Calls:
    """Counts a process's file-system calls below a folder, and has one of them killed or failed."""

    def __init__(self, request: dict, root: str) -> None:
        self.root, self.request = root, request
        self.seen: list[str] = []
        self.is_off = False

    def watch(self) -> None:
        for name in ("fsync", "write"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        sys.addaudithook(self._hook)

    def _counted(self, name, real):
        def call(handle, *arguments):
            if handle > 2:
                self._met(name, "")
            return real(handle, *arguments)

        return call

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.is_off:
            return
        if event == "open":
            path, _, flags = arguments
            if flags & WRITING and self._is_below(path):
                self._met("create" if flags & os.O_CREAT else "open", path)
        elif event == "ctypes.dlsym" and arguments[1] == "renameat2":
            self._met("renameat2", "")
        elif event in KINDS:
            is_relative_to_handle = any(isinstance(each, int) and each >= 0 for each in arguments[1:])
            if is_relative_to_handle or self._is_below(arguments[0]):
                self._met(event, arguments[0])

    def _is_below(self, path: object) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(path)).startswith(self.root)

    def _met(self, kind: str, path: object) -> None:
        number = len(self.seen)
        self.seen.append(f"{kind} {os.path.basename(os.fsdecode(path)) if not isinstance(path, int) else path}")
        at, fault = self.request.get("at"), self.request.get("errno")
        if at is None or number < at:
            return
        if fault is None:
            if number == at:
                os.kill(os.getpid(), self.request.get("sends", signal.SIGKILL))
            return
        lasts = (fault == errno.EROFS and kind != "fsync") or (fault == errno.ENOSPC and kind in TAKES_SPACE)
        if number == at or lasts:
            raise OSError(fault, os.strerror(fault), os.fsdecode(path) if not isinstance(path, int) else None)


def child(request: dict, out: int, err: int) -> None:
    """Run the command; does not return."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", write_through=True)
    folder = Path(request["cwd"])
    os.chdir(folder)
    os.environ |= {"TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache")}
    import tempfile

    tempfile.tempdir = None
    signal.alarm(LIMIT_S)
    sys.argv = ["loragen", *request["argv"]]
    calls = Calls(request, str(folder) + os.sep)
    from loragen import files
    from loragen.cli.app import main

    if not request.get("exchange", True):
        files.exchange = lambda _one, _other: False
    if (size := request.get("file_size")) is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if request.get("is_killed") else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    calls.watch()
    status: object = 0
    try:
        main()
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        import traceback

        calls.is_off = True
        traceback.print_exc()
        status = 70
    calls.is_off = True
    sys.stderr.write("".join(f"\x00{seen}\n" for seen in calls.seen) if request.get("counts") else "")
    os._exit(status if isinstance(status, int) else 1)


class Fork:
    """A command that runs in a fork of this process."""

    def __init__(self, request: dict) -> None:
        self._request, self._begun, self._is_sent = request, time.monotonic(), False
        pipes = [os.pipe() for _ in range(2)]
        self._pid = os.fork()
        if self._pid == 0:
            child(request, pipes[0][1], pipes[1][1])
        for read, write in pipes:
            os.close(write)
            os.set_blocking(read, False)
        self._pipes, self._content = [read for read, _ in pipes], [b"", b""]
        self.answer: dict | None = None

    def look(self) -> bool:
        """Read what it printed, send it the signal that is due, and tell if it has ended."""
        if self.answer is not None:
            return True
        if self._request.get("signal") and not self._is_sent and self._seconds() >= self._request["after"]:
            os.kill(self._pid, self._request["signal"])
            self._is_sent = True
        self._drain()
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            self._end(os.waitstatus_to_exitcode(status))
        return bool(pid)

    def _end(self, status: int) -> None:
        self._drain()
        for pipe in self._pipes:
            os.close(pipe)
        out, err = (content.decode(errors="replace") for content in self._content)
        err, _, seen = err.partition("\x00")
        calls = [call.rstrip("\n") for call in seen.split("\x00")] if seen else []
        self.answer = {"status": status, "out": out, "err": err, "calls": calls, "seconds": self._seconds()}

    def _seconds(self) -> float:
        return time.monotonic() - self._begun

    def _drain(self) -> None:
        for place, pipe in enumerate(self._pipes):
            try:
                while data := os.read(pipe, 1 << 16):
                    self._content[place] += data
            except BlockingIOError:
                pass


def handle(requests: list[dict]) -> list[dict | None]:
    """Run commands at the same time, and say how they ended."""
    forks = [Fork(request) for request in requests]
    while not all([fork.look() for fork in forks]):
        time.sleep(0.002)
    return [fork.answer for fork in forks]


def main() -> None:
    for name in WARM:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    answers.write('"ready"\n')
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(handle(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
