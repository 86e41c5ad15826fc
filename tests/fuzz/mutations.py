"""Mutations that know no kind of file: of trees of plain values, and of bytes."""

import copy
import json
import math
from collections.abc import Sequence
from typing import Any

import yaml
from hypothesis import strategies as st

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3.5, 0.0, -0.0, 1e-320, 1e308, math.nan, math.inf, -math.inf),
    *(2**31, 2**63, 2**64, -(2**63) - 1, 10**12, 10**400, 1e12, "1", "2.5", "true", "null", "nan"),
    *("", " ", "a", "\n", "\x00", "\ud800", "\u202e", "\ufeff", "é" * 40, "a" * 5_000, "\x1b[31m", "[bold]", "<b>"),
    *("../x", "/proc/self/mem", "/dev/null/x", "~nobody/x", "a/../../b", "C:\\x", "a\x00b", "n" * 300, "hub:a/b"),
    *(
        "(a+)+x",
        "(.*.*)*x",
        "x{99999999999}",
        "(" * 3_000,
        "(?:a|aa)+b",
        "{id.foo}",
        "{id:>99999999999}",
        "{",
        "2024-02-30",
    ),
    *([], {}, [[]], [{}], {"a": {}}, [None], ["a", "a"], [1, "a", None], {"": ""}, {"a": math.nan}, list(range(500))),
)
"""Values of every type, at the ends of ranges and beyond them."""

TOKENS = (
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b"\n\n", b"\t", b" ", b"\\", b"\\u0000"),
    *(b"{", b"}", b"[", b"]", b"[" * 3_000, b"{" * 3_000, b'{"a":' * 1_500, b"(" * 3_000, b'"', b"'", b",", b":", b"#"),
    *(b"- ", b"? ", b": ", b"---\n", b"...\n", b"%YAML 9.9\n", b"&a ", b"*a", b"<<: *a\n", b"!!int ''", b"!!binary x"),
    *(b"!!python/object/apply:os.system [exit]", b"!!timestamp x", b"2024-02-30", b"0b_", b"0x_", b"1_", b"190:20:30"),
    *(
        b"9" * 5_000,
        b"1e999",
        b".inf",
        b".nan",
        b"NaN",
        b"-Infinity",
        b"null",
        b"true",
        b"<!--" * 500,
        b"```",
        b"|",
        b";",
    ),
    b"a: &a [x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nd: &d [*c, *c, *c, *c]\ne: [*d, *d, *d, *d]\n",
)


def odd_values() -> st.SearchStrategy[Any]:
    """Any plain value."""
    return (
        st.sampled_from(ODD).map(copy.deepcopy)
        | st.integers(-3, 300)
        | st.floats(width=32)
        | st.text(max_size=12)
        | st.text("abq01.*+?()[]{}^$|\\", max_size=8)
    )


def places(tree: Any) -> list[tuple[Any, ...]]:
    """Paths to all values of a tree."""
    found: list[tuple[Any, ...]] = []
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        found += [(key,), *((key, *rest) for rest in places(value))]
    return found


@st.composite
def mutated_tree(draw: st.DrawFn, tree: Any, names: Sequence[str] = (), *, most: int = 3) -> Any:
    """A tree of plain values with one to ``most`` of them replaced, dropped, swapped or added; ``names`` are keys."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, most))):
        if not (found := places(tree)):
            return tree
        *way, last = draw(st.sampled_from(found))
        holder = _at(tree, way)
        if isinstance(holder, dict) and draw(st.integers(0, 3)) == 0:
            _change_keys(draw, holder, last, names)
        elif draw(st.integers(0, 4)) == 0:
            holder[last] = copy.deepcopy(_at(tree, draw(st.sampled_from(found))))
        else:
            holder[last] = draw(odd_values() | st.sampled_from(_wrapped(holder[last])))
    return tree


def _at(tree: Any, path: Sequence[Any]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _change_keys(draw: st.DrawFn, holder: dict[Any, Any], key: Any, names: Sequence[str]) -> None:
    """Drop a key, give it another name, or add one."""
    other = draw(st.sampled_from([*names, "of_tomorrow", ""]))
    match draw(st.sampled_from(["drop", "rename", "add"])):
        case "drop":
            del holder[key]
        case "rename":
            holder[other] = holder.pop(key)
        case "add":
            holder[other] = draw(odd_values())


def _wrapped(value: Any) -> list[Any]:
    """A value inside others, as text, and many times over."""
    return [[value], {"a": value}, str(value), [value] * 2, [value] * 40]


@st.composite
def mutated_bytes(draw: st.DrawFn, data: bytes, tokens: Sequence[bytes] = TOKENS) -> bytes:
    """Bytes that are cut, flipped, repeated, or hold a strange token."""
    for _ in range(draw(st.integers(1, 3))):
        here, there = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
        match draw(st.sampled_from(["cut", "drop", "flip", "repeat", "insert", "insert", "replace"])):
            case "cut":
                data = data[:here]
            case "drop":
                data = data[:here] + data[there:]
            case "flip" if here < len(data):
                data = data[:here] + bytes([data[here] ^ draw(st.integers(1, 255))]) + data[here + 1 :]
            case "repeat":
                data = data[:there] + data[here:there] * draw(st.sampled_from([1, 2, 20])) + data[there:]
            case "insert":
                data = data[:here] + draw(st.sampled_from(tokens)) + data[here:]
            case "replace":
                data = data[:here] + draw(st.sampled_from(tokens)) + data[min(here + 8, there) :]
    return data[:200_000]


def as_json(tree: Any) -> bytes:
    """A tree as JSON, escaped, so that any text can stand in it."""
    return json.dumps(tree, indent=1, default=str).encode()


def as_yaml(tree: Any) -> bytes:
    """A tree as YAML, or as the JSON that YAML can read too where it holds what YAML has no words for."""
    try:
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode()
    except (yaml.YAMLError, UnicodeError, ValueError, OverflowError):
        return as_json(tree)


def mutated_yaml(data: bytes, names: Sequence[str] = ()) -> st.SearchStrategy[bytes]:
    """A YAML file mutated as a tree or as bytes."""
    return mutated_tree(yaml.safe_load(data), names).map(as_yaml) | mutated_bytes(data)
