"""YAML configs, checked by pydantic: unknown keys are refused and every fault is named with its place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from loragen.errors import ConfigError, shown

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


_BAD_SCALARS = (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError)
"""Raised by PyYAML over scalars that are none, such as the date 2024-02-30; and over nesting too deep."""
LARGEST = 4_000_000
"""Bytes of a YAML file."""


class StrictModel(BaseModel):
    """A frozen pydantic model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def from_yaml(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file, apply ``key.sub=value`` overrides, and check the result.

        Raises:
            ConfigError: the file is missing, is no YAML mapping, or holds values that do not fit.
        """
        values = read_yaml(path)
        for override in overrides:
            _apply_override(values, override)
        return cls.checked(values, source=str(path))

    @classmethod
    def checked(cls, values: Any, *, source: str) -> Self:
        """Validate plain values; ``source`` names their origin in the error."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            faults = "\n".join(
                f"  {'.'.join(map(str, fault['loc'])) or '(whole file)'}: {fault['msg']} (met: {shown(fault['input'])})"
                for fault in error.errors()
            )
            raise ConfigError(f"{source} does not fit {cls.__name__}:\n{faults}") from error

    def to_yaml(self) -> str:
        """The model as YAML, in the order of its fields."""
        return dump_yaml(self.model_dump(mode="json"))


def dump_yaml(values: Any) -> str:
    """Plain values as readable YAML in their own order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, cannot be read, or is no YAML mapping.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path} has {path.stat().st_size:,} bytes; no config has over {LARGEST:,}.")
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - both are safe loaders
    except FileNotFoundError as error:
        raise ConfigError(f"There is no config file {path}.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give the path of a YAML file.") from error
    except ConfigError:
        raise
    except (yaml.YAMLError, *_BAD_SCALARS) as error:
        raise ConfigError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}; a mapping of keys to values was wanted.")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"The override {override!r} has no '='; write --set key.sub=value.")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"The override {override!r} goes through {parent!r}, which is not a mapping.")
    try:
        values[last] = yaml.load(text, Loader=_Loader)  # noqa: S506 - both are safe loaders
    except (yaml.YAMLError, *_BAD_SCALARS) as error:
        raise ConfigError(f"The value of the override {override!r} is not readable YAML: {error}") from error
