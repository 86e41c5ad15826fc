"""Files of tables opened with care: regular files of a bounded size, in UTF-8, packed by gzip or not."""

import codecs
import gzip
import io
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from loragen.errors import TaskError

LARGEST = 2_000_000_000
"""Bytes of a file that is read row by row, and characters of what it unpacks to."""
LARGEST_WHOLE = 256_000_000
"""Bytes of a JSON file, which is read at once."""
LONGEST_LINE = 16_000_000
"""Characters of a line."""
MOST_LINES = 10_000_000
MOST_COLUMNS = 10_000
PACKED = ".gz"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn faults of reading a file into errors that name it.

    Raises:
        TaskError: it cannot be read, is not UTF-8, or is damaged.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{path} is not UTF-8 ({error.reason}, byte {error.object[error.start]:#04x}); convert it, for example with"
            " iconv -f CP1252 -t UTF-8."
        ) from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise TaskError(f"{path} is not a whole gzip file ({error}); copy or pack it again.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise TaskError(f"Cannot read {path}: {reason}. Check the name and the folder it is relative to.") from error
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise TaskError(f"Cannot read {str(path)!r:.80}: a name of a file holds no NUL character.") from error


def checked_file(path: Path, *, largest: int = LARGEST) -> None:
    """Refuse what is no file of a bounded size, before it is opened: a pipe would be waited for without end.

    Raises:
        OSError: there is nothing of that name.
        TaskError: it is a folder, a pipe or a device, or too large.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise TaskError(f"{path} is a folder; name a file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise TaskError(f"{path} is a pipe or a device; write what it holds to a file first.")
    if status.st_size > largest:
        raise TaskError(f"{path} has {status.st_size:,} bytes, and {largest:,} are the most; give a part of it.")


@contextmanager
def open_text(path: Path, *, largest: int = LARGEST) -> Iterator[TextIO]:
    """Open a UTF-8 file, unpacked where its name ends in .gz; line ends are kept as they are.

    Raises:
        OSError: it cannot be opened.
        TaskError: it is no regular file, too large, packed under another name, or in UTF-16.
    """
    checked_file(path, largest=largest)
    is_packed = path.suffix.lower() == PACKED
    with gzip.open(path, "rb") if is_packed else path.open("rb") as file:
        start = file.peek(4)[:4]
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
            raise TaskError(f"{path} is not UTF-8 but UTF-16; convert it, for example with iconv -f UTF-16 -t UTF-8.")
        if start.startswith((b"\x1f\x8b", b"PK\x03\x04", b"PAR1")):
            kind = {0x1F: "gzip", 0x50: "zip (as .xlsx is)"}[start[0]] if start != b"PAR1" else "Parquet"
            raise TaskError(f"{path} is a {kind} file under another name; unpack it, or give it its own ending.")
        yield io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def text_of(path: Path) -> str:
    """The whole text of a UTF-8 file of bounded size.

    Raises:
        OSError: it cannot be opened.
        TaskError: it is no regular file, too large, packed under another name, or in UTF-16.
    """
    with open_text(path, largest=LARGEST_WHOLE) as file:
        text = file.read(LARGEST_WHOLE + 1)
    if len(text) > LARGEST_WHOLE:
        raise TaskError(f"{path} unpacks to over {LARGEST_WHOLE:,} characters, which are the most; give a part of it.")
    return text


def lines_of(file: TextIO, place: str) -> Iterator[str]:
    """The lines of a text stream with their ends, within bounds.

    Raises:
        TaskError: a line is too long or holds NUL bytes, or there are too many.
    """
    left = LARGEST
    for number in range(1, MOST_LINES + 2):
        line = file.readline(LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > LONGEST_LINE:
            raise TaskError(f"{place}:{number} has over {LONGEST_LINE:,} characters, which are the most of a line.")
        if "\0" in line:
            raise TaskError(f"{place}:{number} holds NUL bytes, as UTF-16 and damaged files do; convert it to UTF-8.")
        left -= len(line)
        if left < 0 or number > MOST_LINES:
            raise TaskError(f"{place} holds over {LARGEST:,} characters or {MOST_LINES:,} lines; give a part of it.")
        yield line
