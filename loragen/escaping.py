"""Text from outside, made safe for its place: Markdown, Python, YAML headers, JSON, CSV, figures, terminals.

Names, descriptions, labels and licences come from other people's files. Each place has its own markup and its own
escape; none of them shows control characters, marks that turn the direction of a text, or characters without width.
"""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_TERMINAL_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours and cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)"  # titles and links
    r"|\x1b[ -/]*[0-~]"
)
_BREAKS = re.compile(r"\r\n|[\t\n\x0b\f\r\x85\u2028\u2029]")
_UNSEEN = (
    "\x00-\x1f\x7f-\x9f"  # control characters
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction
    "\u00ad\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # no width, annotations, tags
)
"""Not the joiners of letters (U+200C, U+200D), with which Persian, Hindi and some emoji are written."""
_HALVES = "\ud800-\udfff"
_UNSEEN_ONES, _SURROGATES = re.compile(f"[{_UNSEEN}]"), re.compile(f"[{_HALVES}]")
_ESCAPED_IN_JSON = re.compile(f"(?!\n)[{_UNSEEN}{_HALVES}\u2028\u2029]")
_MARKUP = re.compile(
    r"[\\`*\[\]<>|&~$]|(?<!\S)#|(?<![^\W_])_|_(?![^\W_])|://|(?<=www)\.", re.IGNORECASE
)  # an underscore or a hash within a word is none
_MARKUP_OF_CODE = re.compile(r"[`<>|&]")
_BLOCK_MARKUP = re.compile(r"(?P<before>\d{0,9})(?P<mark>(?<=\d)[.)](?=\s|$)|(?<!\d)(?:[-+](?!\w)|=))")
"""What begins a list, a rule or an underline, at the start of a line."""
_MARKUP_OF_HTML = re.compile(r"[`<>&]")
_PLAIN_PATH = re.compile(r"[\w.-]*(?:/[\w.-]+)+", re.ASCII)
_MARKUP_OF_HEADERS = frozenset("`<>&[]")


def plain(text: str) -> str:
    """A text on one line, without terminal sequences and characters that cannot be seen.

    Line breaks and tabs become spaces; halves of surrogate pairs, which no file can hold, become U+FFFD.
    """
    line = _BREAKS.sub(" ", _TERMINAL_SEQUENCES.sub("", text))
    return _SURROGATES.sub("\ufffd", _UNSEEN_ONES.sub("", line))


def plain_lines(text: str) -> str:
    """`plain` of each line of a text."""
    return "\n".join(plain(line.removesuffix("\r")) for line in text.split("\n"))


def markdown(text: str) -> str:
    """A text on one line that Markdown, its tables and the HTML in it show as it is."""
    escaped = _MARKUP.sub(r"\\\g<0>", " ".join(plain(text).split()))
    begun = _BLOCK_MARKUP.match(escaped)
    return escaped if begun is None else f"{begun['before']}\\{escaped[begun.start('mark') :]}"


def markdown_code(name: str) -> str:
    """A name in Markdown's code font, or as plain text if it holds what ends or breaks that."""
    line = " ".join(plain(name).split())
    return markdown(line) if _MARKUP_OF_CODE.search(line) or not line else f"`{line}`"


def python_literal(text: str) -> str:
    """A Python literal of exactly this text, which also ends no block of code and begins no HTML."""
    return _MARKUP_OF_HTML.sub(lambda match: f"\\x{ord(match[0]):02x}", repr(text))


def yaml_literal(text: str) -> str:
    """A YAML scalar of this text on one line, which begins no HTML and no link where a header is shown as Markdown."""
    if _PLAIN_PATH.fullmatch(text):
        return text
    quoted = json.dumps(_SURROGATES.sub("\ufffd", text), ensure_ascii=False)
    return "".join(c if c.isprintable() and c not in _MARKUP_OF_HEADERS else f"\\U{ord(c):08x}" for c in quoted)


def json_text(value: Any, encoding: str = "utf-8") -> str:
    """Plain values as JSON in which all that cannot be seen, or that an encoding lacks, is escaped; NaN is null."""
    text = json.dumps(_finite(value), ensure_ascii=False, indent=1)
    text = _ESCAPED_IN_JSON.sub(lambda match: json.dumps(match[0])[1:-1], text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(_finite(value), indent=1)
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV, from which every reader gets the very values back.

    Values that begin with ``=``, ``+``, ``-`` or ``@`` stay as they are too, though a spreadsheet takes them for a
    formula: with a mark before it, a text would be another one.
    """
    written = io.StringIO()
    # Left to itself, the writer quotes no lone carriage return, which readers take for the end of the row.
    has_return = any("\r" in value for row in rows for value in row if isinstance(value, str))
    style: Any = {"quoting": csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL}
    csv.writer(written, lineterminator="\n", **style).writerows(rows)
    return written.getvalue()


def figure_text(text: str) -> str:
    r"""A text on one line as matplotlib shows it: no ``$`` starts a formula, and no ``_`` keeps it out of a legend."""
    line = plain(text).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line
