"""Errors a user can cause and mend. The command line prints them and exits with status 2.

LoragenError
├── ConfigError            a YAML config or a command-line value does not fit
├── AdapterError           an adapter folder is damaged, unsupported or does not fit its base
├── TaskError              task data or a task description cannot be used
├── ZooError               the zoo is empty, damaged or made for something else
├── GeneratorError         a trained generator is missing, damaged or made for another zoo
└── MissingExtraError      an optional dependency is not installed

Each message says what was met, what was wanted and the way out.
"""

from reprlib import Repr

LONGEST = 900
"""Characters of a message."""


class _Short(Repr):
    """Values cut in length, number and depth."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 2, 80, 80, 40
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 4

    def repr_int(self, value: int, level: int) -> str:
        """Python writes no number of thousands of digits."""
        return super().repr_int(value, level) if value.bit_length() < 1000 else f"a number of {value.bit_length()} bits"


_SHORT = _Short()


def shown(value: object) -> str:
    """A value as a message shows it: cut in length, number and depth, however large it is."""
    return _SHORT.repr(value)


def cut(text: object, most: int = 200) -> str:
    """The text of a library's error, a path or a name as a message repeats it: one line, cut in the middle if long."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - most // 3 - 1]}…{line[-(most // 3) :]}"


class LoragenError(Exception):
    """Root of every error that loragen raises on purpose."""

    def __init__(self, message: object = "") -> None:
        text = str(message)
        if len(text) > LONGEST:  # the way out stands at the end
            text = f"{text[: LONGEST - LONGEST // 3 - 1]}…{text[-(LONGEST // 3) :]}"
        super().__init__(text)


class ConfigError(LoragenError, ValueError):
    """A config file or a command-line value does not fit."""


class AdapterError(LoragenError, ValueError):
    """An adapter is damaged, unsupported, or does not fit its base model."""


class TaskError(LoragenError, ValueError):
    """Task data or a task description cannot be used."""


class ZooError(LoragenError, ValueError):
    """A zoo is empty, damaged, or made for another base model."""


class GeneratorError(LoragenError, ValueError):
    """A trained generator is missing, damaged, or made for another zoo."""


class MissingExtraError(LoragenError, ImportError):
    """An optional dependency is not installed."""
