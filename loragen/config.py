"""YAML configs, checked by pydantic: unknown keys are refused and every fault is named with its place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from loragen.errors import ConfigError, cut, shown
from loragen.paths import read_capped
from loragen.yaml_text import LARGEST, parse_yaml

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
LONGEST_STRING = 100_000
"""Characters of a value."""
_FAULTS = 600
"""Characters of a list of faults, beyond which their number is said."""


class StrictModel(BaseModel):
    """A frozen pydantic model that refuses keys it does not know."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=LONGEST_STRING, hide_input_in_errors=True
    )

    @classmethod
    def from_yaml(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file, apply ``key.sub=value`` overrides, and check the result.

        Raises:
            ConfigError: the file is missing, is no YAML mapping, or holds values that do not fit.
        """
        values = read_yaml(path)
        for override in overrides:
            apply_override(values, override)
        return cls.checked(values, source=str(path))

    @classmethod
    def checked(cls, values: Any, *, source: str) -> Self:
        """Validate plain values; ``source`` names their origin in the error."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{cut(source)} does not fit {cls.__name__}:\n{_told(error)}") from error

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
    values = parse_yaml(read_capped(path, LARGEST, kind="config"), cut(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{cut(path)} holds {type(values).__name__}; a mapping of keys to values was wanted.")
    return values


def _told(error: ValidationError) -> str:
    """The faults, a line each, as many as a message takes."""
    faults = error.errors(include_url=False, include_context=False)
    lines: list[str] = []
    for fault in faults:
        place = cut(".".join(map(str, fault["loc"])), 100) or "(whole file)"
        lines.append(f"  {place}: {cut(fault['msg'])} (met: {cut(shown(fault['input']), 120)})")
        if sum(map(len, lines)) > _FAULTS and len(lines) < len(faults):
            return "\n".join([*lines, f"  and {len(faults) - len(lines)} more"])
    return "\n".join(lines)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Put the value of ``key.sub=value`` in its place; the value is read as YAML.

    Raises:
        ConfigError: it has no such form.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"The override {shown(override)} has no '='; write --set key.sub=value.")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"The override {shown(override)} goes through {shown(parent)}, which is not a mapping.")
    values[last] = parse_yaml(text, f"The value of the override {shown(override)}")
