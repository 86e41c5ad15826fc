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

_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 80, 80, 40
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = 4


def shown(value: object) -> str:
    """A value as a message shows it: cut in length, number and depth, however large it is."""
    return _SHORT.repr(value)


def named(name: str) -> str:
    """A name as a message shows it: as it stands where it is short and printable, else as `shown` has it."""
    return name if len(name) <= 120 and name.isprintable() else shown(name)


class LoragenError(Exception):
    """Root of every error that loragen raises on purpose."""


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
