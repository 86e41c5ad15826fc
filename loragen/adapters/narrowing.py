"""Settings that narrow ``target_modules``: modules left out by name, and layers taken by number, as PEFT reads them."""

import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from loragen.adapters.settings import NARROWING, PATTERN_SECONDS, LoraSettings
from loragen.errors import AdapterError, shown
from loragen.patterns import compiles, group, matches

_FIRST_NUMBER = re.compile(r".*?\.[^.]*\.(\d+)\.")
"""The number of a layer inside a list of any name, which is itself inside something, as PEFT wants it."""


def is_narrowed(config: Mapping[str, Any]) -> bool:
    """True if a config holds any of these settings."""
    return any(config.get(key) not in (None, [], "") for key in NARROWING)


def refuse_left_out(config: Mapping[str, Any], settings: LoraSettings, sites: Iterable[str]) -> None:
    """Refuse weights for modules that a config leaves out, which PEFT would drop.

    Args:
        config: an ``adapter_config.json``.
        settings: those that were read from it.
        sites: modules that there are weights for.

    Raises:
        AdapterError: there are such weights; or a value is of the wrong kind, or a pattern takes too long.
    """
    excluded, layers, lists = (
        _checked(config, key) for key in ("exclude_modules", "layers_to_transform", "layers_pattern")
    )
    begun = time.monotonic()
    for site in sites:
        if _is_excluded(site, excluded):
            key = "exclude_modules"
        elif not settings.targets(site):
            key = "target_modules"
        elif not _is_in_layers(site, settings, layers, lists):
            key = "layers_to_transform"
        else:
            key = None
        if key is not None:
            raise AdapterError(
                f"{site} has weights, but {key}={shown(config.get(key))} leaves it out, so that PEFT would not load "
                "them; correct that, or drop its weights."
            )
        if time.monotonic() - begun > PATTERN_SECONDS:
            raise AdapterError(
                f"its patterns take over {PATTERN_SECONDS:.0f} s; write exclude_modules and layers_pattern without "
                "nested repetitions, or list the names of the modules."
            )


def _checked(config: Mapping[str, Any], key: str) -> Any:
    value = config.get(key)
    listed = value if isinstance(value, list) else [value]
    if value in (None, [], ""):
        return None
    if key == "layers_to_transform":
        is_good = all(isinstance(each, int) and not isinstance(each, bool) for each in listed)
    else:
        is_good = all(isinstance(each, str) for each in listed) and (
            (key == "exclude_modules" and isinstance(value, list)) or all(map(compiles, listed))
        )
    if not is_good:
        raise AdapterError(
            f"{key} is {shown(value)}; names of modules, an expression, or numbers of layers were wanted."
        )
    return value


def _is_excluded(site: str, excluded: Any) -> bool:
    if isinstance(excluded, str):
        return matches(excluded, site)
    return any(site == name or site.endswith(f".{name}") for name in excluded or ())


def _is_in_layers(site: str, settings: LoraSettings, layers: Any, lists: Any) -> bool:
    """True if a module is in one of the layers; the choice of layers does not bear on modules named in full."""
    if layers is None or isinstance(settings.target_modules, str) or site in settings.target_modules:
        return True
    if lists is None:
        found = match[1] if (match := _FIRST_NUMBER.match(site)) else None
    else:
        patterns = [lists] if isinstance(lists, str) else lists
        numbers = (group(rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.", site, "idx") for pattern in patterns)
        found = next((number for number in numbers if number is not None), None)
    return found is not None and int(found) in (layers if isinstance(layers, list) else [layers])
