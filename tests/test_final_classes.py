"""A class is abstract or final, and a method that is implemented is never overridden."""

import importlib
import inspect
import pkgutil
from functools import cache, cached_property

import pytest
from pydantic import BaseModel

import loragen
from loragen.bases.open import KINDS
from loragen.errors import LoragenError

METHODS = (property, cached_property, classmethod, staticmethod)


@cache
def classes() -> tuple[type, ...]:
    """All classes that the package defines."""
    found = []
    for module in pkgutil.walk_packages(loragen.__path__, "loragen."):
        if not module.name.endswith("__main__"):
            members = vars(importlib.import_module(module.name)).values()
            found += [one for one in members if inspect.isclass(one) and one.__module__ == module.name]
    return tuple(dict.fromkeys(found))


def implemented(one: type) -> set[str]:
    """Names of the methods that a class itself implements, but for dunder methods."""
    return {
        name
        for name, value in vars(one).items()
        if (inspect.isfunction(value) or isinstance(value, METHODS))
        and not getattr(value, "__isabstractmethod__", False)
        and not (name.startswith("__") and name.endswith("__"))
    }


def ancestors(one: type, *, own: bool) -> list[type]:
    """Classes above one that are of the package, or those that are not."""
    return [above for above in one.__mro__[1:] if above.__module__.startswith("loragen") is own]


def overridden(one: type) -> list[str]:
    """Methods that a class overrides though a class of the package above it implements them."""
    hooks = {name for above in ancestors(one, own=False) for name in dir(above)}
    return [
        f"{one.__qualname__}.{name} overrides {above.__qualname__}.{name}"
        for above in ancestors(one, own=True)
        for name in sorted(implemented(above) & vars(one).keys() - hooks)
    ]


def is_abstract(one: type) -> bool:
    return inspect.isabstract(one) or getattr(one, "_is_protocol", False)


def test_no_implemented_method_is_overridden():
    assert [line for one in classes() for line in overridden(one)] == []


def test_only_abstract_classes_have_others_below_them():
    above = {parent for one in classes() for parent in ancestors(one, own=True)}
    # Settings and requests may hold further ones, and errors are told apart by their classes alone.
    assert [one for one in above if not is_abstract(one) and not issubclass(one, BaseModel | LoragenError)] == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_of_base_is_final(kind):
    assert kind.__final__
    assert not inspect.isabstract(kind)


def test_an_overridden_method_would_be_found():
    class Above:
        def told(self):
            """Implemented."""

        @property
        def size(self):
            return 1

    class Below(Above):
        size = 2

        def told(self):
            """Implemented anew."""

    for one in (Above, Below):
        one.__module__ = "loragen.made_up"
    assert len(overridden(Below)) == 2
    assert not is_abstract(Above)
