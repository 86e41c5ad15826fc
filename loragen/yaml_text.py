"""YAML from outside as plain values: its size, depth, number of nodes and the length of its numbers are bounded.

The bounds hold before anything is made of the text, so that a short one cannot stand for a value that fills the memory.
"""

from collections.abc import Hashable
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.resolver import Resolver

from loragen.errors import ConfigError, cut

try:
    from yaml._yaml import CParser as _Parser
except ImportError:  # PyYAML was built without libyaml

    class _Parser(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):  # type: ignore[no-redef]
        def __init__(self, text: str) -> None:
            yaml.reader.Reader.__init__(self, text)
            yaml.scanner.Scanner.__init__(self)
            yaml.parser.Parser.__init__(self)


LARGEST = 4_000_000
"""Bytes of a text."""
MOST_NODES = 100_000
"""Keys, values, lists and mappings, where what an alias stands for counts each time."""
DEEPEST = 50
"""Levels of lists and mappings."""
LONGEST_NUMBER = 100
"""Characters of a value that is no string."""

_STRING, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_OTHER_KINDS = ("binary", "set", "omap", "pairs")
"""Tags of values that no file of ours holds."""
_NO_VALUE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError)
"""Raised by PyYAML over scalars that are none, such as the date 2024-02-30."""


class _Loader(Composer, _Parser, SafeConstructor, Resolver):
    """Counts nodes and levels as they come, and makes plain values; a key may stand once in a mapping."""

    def __init__(self, text: str) -> None:
        _Parser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._nodes = self._depth = 0
        self._sizes: dict[str | None, int] = {}
        """Anchor → nodes that it stands for, once they are all known."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._sizes:
                raise yaml.YAMLError(f"the alias *{event.anchor} stands within what it names")
            self._count(self._sizes.get(event.anchor, 1))
            return super().compose_node(parent, index)
        before = self._nodes
        self._count(1)
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"lists and mappings within one another over {DEEPEST} levels deep")
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._nodes - before
        if isinstance(node, yaml.ScalarNode) and node.tag != _STRING and len(node.value) > LONGEST_NUMBER:
            raise yaml.YAMLError(f"a number or date of {len(node.value):,} characters; put texts in quotes")
        return node

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            raise yaml.YAMLError(f"over {MOST_NODES:,} keys and values, counting what aliases stand for")

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except _NO_VALUE as error:
            kind, value = cut(node.tag.rpartition(":")[2], 40), cut(node.value, 80)
            raise ConstructorError(None, None, f"{value!r} is no {kind}", node.start_mark) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        # Before keys of others are merged in, which its own may override.
        own = [key for key, _ in node.value if key.tag != _MERGE] if isinstance(node, yaml.MappingNode) else []
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        seen: set[Any] = set()
        for key in own:
            value = self.construct_object(key, deep=True)
            if value in seen:
                raise ConstructorError(None, None, f"the key {cut(key.value, 80)} stands twice", key.start_mark)
            seen.add(value)
        return mapping


def _refused(_loader: _Loader, node: Any) -> None:
    kind = node.tag.rpartition(":")[2]
    raise ConstructorError(None, None, f"a {kind}, which no file of loragen holds", node.start_mark)


for _kind in _OTHER_KINDS:
    yaml.add_constructor(f"tag:yaml.org,2002:{_kind}", _refused, _Loader)


def parse_yaml(text: str | bytes, place: str) -> Any:
    """The plain values of a YAML document.

    Args:
        text: the document; bytes are UTF-8.
        place: its origin, for messages.

    Raises:
        ConfigError: it is no YAML of one document; or beyond the bounds above; or a key stands twice in a mapping.
    """
    if len(text) > LARGEST:
        raise ConfigError(f"{place} has {len(text):,} bytes; no config has over {LARGEST:,}.")
    try:
        loader = _Loader(text.decode() if isinstance(text, bytes) else text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the second of bytes that are no text
        reason = cut(str(error).replace('in "<unicode string>", ', "at "), 300)
        raise ConfigError(f"{place} is not readable YAML: {reason}") from error
