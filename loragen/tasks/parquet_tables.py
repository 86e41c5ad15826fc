"""Rows of Parquet files, and the names that Hugging Face data sets keep for their numbered labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loragen.errors import TaskError, shown
from loragen.tasks.columns import Row
from loragen.tasks.json_tables import parse_json
from loragen.tasks.table_files import LARGEST, MOST_COLUMNS, checked_file

_AT_ONCE = 16_384
"""Rows that are read at once."""


def parquet_rows(path: Path, most: int) -> tuple[list[Row], Mapping[str, tuple[str, ...]]]:
    """All rows but for columns of times, and names of numbered labels by column, see `class_names`.

    Args:
        path: the file.
        most: rows; a file of more is refused before it is read.

    Raises:
        OSError: there is no such file.
        TaskError: it is damaged or too large, or holds values that Python has no type for.
    """
    import pyarrow
    import pyarrow.parquet

    checked_file(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _refuse_large(file.metadata, path, most)
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise TaskError(f"{path} names a column twice; give each column a name of its own.")
            columns = [one.name for one in file.schema_arrow if not pyarrow.types.is_temporal(one.type)]
            batches = file.iter_batches(batch_size=_AT_ONCE, columns=columns, use_threads=False)
            rows = [row for batch in batches for row in batch.to_pylist()]
            classes = class_names(file.schema_arrow.metadata or {}, path)
    except TaskError:
        raise
    except (pyarrow.ArrowException, OSError, MemoryError) as error:
        raise TaskError(f"{path} is not a readable Parquet file: {_first_line(error)}") from error
    except (ValueError, OverflowError, ArithmeticError, ImportError, TypeError) as error:
        raise TaskError(
            f"{path} holds values that cannot be read ({_first_line(error)}); write texts and labels alone into it."
        ) from error
    return [(f"{path} (row {number})", row) for number, row in enumerate(rows, 1)], classes


def _refuse_large(metadata: Any, path: Path, most: int) -> None:
    size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    for met, largest, what in (
        (metadata.num_rows, most, "rows"),
        (metadata.num_columns, MOST_COLUMNS, "columns"),
        (size, LARGEST, "bytes unpacked"),
    ):
        if met > largest:
            raise TaskError(f"{path} has {met:,} {what}, and {largest:,} are the most; give a part of it.")


def class_names(metadata: Mapping[bytes, bytes], path: Path) -> dict[str, tuple[str, ...]]:
    """Names of numbered labels by column, from the features that the library ``datasets`` writes into the schema."""
    written = metadata.get(b"huggingface")
    if written is None:
        return {}
    features: Any = parse_json(written.decode("utf-8", "replace"), f"The schema of {path}")
    for key in ("info", "features"):
        features = features.get(key) if isinstance(features, dict) else None
    if not isinstance(features, dict):
        return {}
    found = {}
    for column, feature in features.items():
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            names = feature.get("names")
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TaskError(f"{path} has names for the column {shown(column)} that are no texts: {shown(names)}.")
            found[column] = tuple(names)
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
