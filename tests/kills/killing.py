"""Runs a command that is killed, or failed, at one of its calls, and looks at what it left."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kill_cases import FOREIGN, Case

TIMES = (
    re.compile(rb',\s*"forgetting_seconds": ?[\d.e-]+'),
    re.compile(rb'"seconds": ?(?:[\d.e-]+|\{[^}]*\})'),
    re.compile(rb"seconds: [\d.e-]+"),
    re.compile(rb'"time": ?"[^"]+"'),
    re.compile(rb"\d+ s: scores on the test files [^\n]*"),
)
"""What differs between two runs."""
OURS = ".loragen.json"
INTERRUPTED = "error: interrupted; what was finished is kept, and the same command goes on from there.\n"

Tree = Mapping[str, bytes]
TALLY: Counter[str] = Counter()
"""Runs that were killed or failed, by command."""


FUZZ = os.environ.get("LORAGEN_FUZZ", "")
"""Empty in the short run; "all" for all calls; anything else for as many as there is time for."""
SECONDS = 900 / 90
"""Of a test in a long run; there are some 90."""


def is_long() -> bool:
    """True if more than some calls of some commands are to be tried, as `make fuzz` asks."""
    return bool(FUZZ)


def chosen(calls: Sequence[str], number: int, *, stride: int = 1) -> Iterator[int]:
    """Places of calls: in the short run some, after renames and spread over all; else at random while there is time."""
    if not is_long():
        renames = [place + 1 for place, call in enumerate(calls[:-1]) if call.startswith(("renameat2", "os.rename"))]
        spread = [len(calls) - 1 - place * len(calls) // number for place in range(number)]
        yield from list(dict.fromkeys(renames[-number // 2 :] + spread))[:number]
        return
    places = list(range(len(calls) - 1, -1, -stride))
    if FUZZ != "all":
        random.Random(len(calls)).shuffle(places)
    end = time.monotonic() + (SECONDS if FUZZ != "all" else float("inf"))
    for place in places:
        yield place
        if time.monotonic() > end:
            return


class Server:
    """The other process, which runs commands in forks of itself."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("kill_server.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def run(self, folder: Path, *argv: object, **options: object) -> dict:
        return self.run_all(folder, argv, **options)[0]

    def run_all(self, folder: Path, *commands: Sequence[object], **options: object) -> list[dict]:
        """Run commands at the same time."""
        assert self._process.stdin is not None
        (folder / "tmp").mkdir(exist_ok=True)
        requests = [{"cwd": str(folder), "argv": [str(each) for each in argv], **options} for argv in commands]
        self._process.stdin.write(json.dumps(requests) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> list[dict]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def tree(folder: Path) -> dict[str, bytes]:
    """Files by their relative names, without times that differ from run to run; folders that are empty are empty."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] in ("tmp", "cache"):
            continue
        if path.is_dir():
            if not any(path.iterdir()):
                found[name + "/"] = b""
            continue
        content = path.read_bytes()
        for pattern in TIMES:
            content = pattern.sub(b"", content)
        found[name] = content
    return found


def is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part != OURS for part in name.split("/"))


def visible(found: Tree) -> dict[str, bytes]:
    return {name: content for name, content in found.items() if not is_hidden(name) and not name.endswith("/")}


def part(found: Tree, unit: str) -> dict[str, bytes]:
    return {name: content for name, content in found.items() if name == unit or name.startswith(f"{unit}/")}


class Trial:
    """One case: what stood before, what a whole run leaves, and its calls."""

    def __init__(self, server: Server, shop: Path, case: Case, root: Path) -> None:
        self.server, self.case = server, case
        self._fresh, self._here = root / "fresh", root / "here"
        self._fresh.mkdir(parents=True)
        for name, content in FOREIGN.items():
            (self._fresh / name).parent.mkdir(exist_ok=True)
            (self._fresh / name).write_text(content)
        case.prepare(shop, self._fresh)
        self.old = tree(self._fresh)
        made = self.run(self.begin(), counts=True)
        assert made["status"] == 0, made["err"]
        assert made["err"].count("error") == 0
        self.new, self.calls = tree(self._here), made["calls"]
        self.check_clean(self.new)

    def begin(self) -> Path:
        """A new folder to run in."""
        shutil.rmtree(self._here, ignore_errors=True)
        shutil.copytree(self._fresh, self._here)
        return self._here

    def run(self, folder: Path, *more: str, **options: object) -> dict:
        return self.server.run(folder, *self.case.argv, *more, **self.case.options, **options)

    def kill_at(self, number: int) -> None:
        """Kill before a call, look, and run the command again."""
        TALLY[self.case.name] += 1
        made = self.run(self.begin(), at=number)
        assert made["status"] in (-9, 0), made["err"]
        self.check_left()
        self.check_again()

    def interrupt_at(self, number: int) -> None:
        """Press Ctrl-C before a call, look, and run the command again."""
        TALLY[self.case.name] += 1
        self.check_interrupted(self.run(self.begin(), at=number, sends=signal.SIGINT))

    def check_interrupted(self, made: dict) -> None:
        assert made["status"] in (0, 130), made["err"]
        assert "Traceback" not in made["err"]
        assert (made["status"] == 130) == made["err"].endswith(INTERRUPTED), made["err"]
        self.check_left()
        self.check_again()

    def fail_at(self, number: int, fault: int) -> None:
        """Fail a call, and those after it where such a fault lasts; look, and run the command again."""
        TALLY[self.case.name] += 1
        made = self.run(self.begin(), at=number, errno=fault)
        self.check_message(made)
        self.check_left()
        self.check_again()

    def cut_at(self, size: int, *, is_killed: bool) -> None:
        """Let no file grow beyond a size: the write that would is cut off, and fails or kills."""
        TALLY[self.case.name] += 1
        made = self.run(self.begin(), file_size=size, is_killed=is_killed)
        if not is_killed:
            self.check_message(made)
        self.check_left()
        self.check_again()

    @staticmethod
    def check_message(made: dict) -> None:
        assert made["status"] in (0, 1, 2), made["err"]
        assert "Traceback" not in made["err"]
        said = [line.startswith("error:") for line in made["err"].splitlines()]
        assert sum(said) == (made["status"] != 0), made["err"]
        assert not made["status"] or said[-1], made["err"]

    def check_left(self) -> None:
        """Nothing is half written, and what is not ours is as it was."""
        met = tree(self._here)
        for name in FOREIGN:
            assert met.get(name) == self.old[name], name
        for name, content in visible(met).items():
            known = {self.old.get(name), self.new.get(name)}
            if name in self.case.grows:
                assert self.new[name].startswith(content[: content.rfind(b"\n") + 1]), name
            else:
                assert content in known, f"{name} is neither the old nor the new one"
        for name in visible(self.old):
            assert name in met or name not in self.new or self._is_aside(name), f"{name} is lost"
        for unit in self.case.units:
            assert part(met, unit) in (part(self.old, unit), part(self.new, unit), {}), f"{unit} is mixed"
            if part(self.old, unit) and not part(met, unit):
                assert self._is_aside(unit), f"{unit} is lost"

    def _is_aside(self, name: str) -> bool:
        """True where the old folder was moved aside, on a system without an exchange."""
        unit = next((unit for unit in self.case.units if name == unit or name.startswith(f"{unit}/")), None)
        if unit is None or self.case.options.get("exchange", True):
            return False
        aside = str(Path(unit).with_name(f".{Path(unit).name}.retired"))
        met = part(tree(self._here), aside)
        return {key.removeprefix(aside): value for key, value in met.items()} == {
            key.removeprefix(unit): value for key, value in part(self.old, unit).items()
        }

    def check_again(self) -> None:
        """The same command ends as if nothing had been, and leaves nothing of the run that was killed."""
        made = self.run(self._here)
        if made["status"] == 2 and visible(tree(self._here)) != visible(self.new):
            assert self.case.last_resort, made["err"]
            assert self.case.last_resort[-1] in made["err"]
            made = self.run(self._here, *self.case.last_resort)
            assert made["status"] == 0, made["err"]
        assert made["status"] in (0, 2), made["err"]
        done = "there already|would replace|exists already|an expert meals already|has no expert 'meals'"
        assert made["status"] == 0 or re.search(done, made["err"]), made["err"]
        met = tree(self._here)
        assert visible(met).keys() == visible(self.new).keys()
        for name, content in visible(met).items():
            assert content == self.new[name], f"{name} is not as an uninterrupted run writes it"
        self.check_clean(met)

    def check_clean(self, met: Tree) -> None:
        left = [name for name in met if name not in self.old and (is_hidden(name) or name.endswith("/"))]
        assert not left, f"left: {left}"
        assert not list((self._here / "tmp").iterdir()), "left in the folder of temporary files"
        assert not [path.name for path in (self._here / "cache").rglob(".*")], "left in the cache"
