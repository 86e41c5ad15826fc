"""Sources of a task's examples: local files or a data set of the Hub, and the columns that hold each part."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from loragen.config import StrictModel
from loragen.errors import MissingExtraError, TaskError, cut
from loragen.tasks.columns import Row, optional_text, text
from loragen.tasks.remote_files import joined, place_of
from loragen.tasks.tables import Table, read_table

Part = Literal["train", "test"]


class TaskSource(StrictModel):
    """Place of a task's examples: local files (JSONL, JSON, CSV, text or Parquet by suffix) or a data set of the Hub.

    A local file can also be a URI, such as s3://BUCKET/train.jsonl, see `remote_files`.

    ``text``, ``text_pair``, ``label``, ``completion`` and ``image`` name columns. A file in which no row has a
    ``text_pair`` holds single texts. An image is a file, relative to the one that names it; its text is its caption.
    Numbered labels go by the data set's own names where those are the task's, else by position.
    """

    train: str | None = None
    test: str | None = None
    hub: str | None = None
    hub_config: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    completion: str | None = None
    image: str | None = None

    @model_validator(mode="after")
    def _is_one_place(self) -> Self:
        if self.hub and (self.train or self.test):
            raise ValueError("wanted either local files (train, test) or a Hub data set (hub)")
        if self.hub_config and not self.hub:
            raise ValueError("hub_config goes with hub")
        return self

    @property
    def is_placed(self) -> bool:
        """True if it names files or a data set; the source of a table need not, where columns of the table do."""
        return bool(self.hub or self.train or self.test)

    def located(self, root: Path | str, task_id: str) -> "TaskSource":
        """Put ``task_id`` in place of ``{id}`` everywhere and ``root``, a path or a URI, before relative files.

        Raises:
            TaskError: a file is a URI of an unknown scheme.
        """
        values = {
            key: value.replace("{id}", task_id) if isinstance(value, str) else value
            for key, value in self.model_dump().items()
        }
        for key in ("train", "test"):
            values[key] = str(joined(root, values[key])) if values[key] else None
        return TaskSource(**values)

    def table(self, part: Part, task_id: str) -> Table:
        """Rows of the train or the test part; at least one.

        Raises:
            TaskError: the task has no such part, or it is empty, or its file cannot be read.
            MissingExtraError: the examples lie on the Hub and ``datasets`` is not installed.
        """
        file, split = (self.train, self.train_split) if part == "train" else (self.test, self.test_split)
        if self.hub:
            table = _hub_table(self, split)
        elif file:
            table = read_table(place_of(file))
        else:
            raise TaskError(f"Task {task_id} names no {part} file; add 'source: {{{part}: FILE}}' to its config.")
        if not table.rows:
            raise TaskError(f"{table.name} holds no examples for task {task_id}.")
        return table

    def pairs(self, rows: Sequence[Row]) -> tuple[str, ...] | None:
        """Second texts; `None` where no row has one."""
        column = self.text_pair
        if column is None or not any(optional_text(row, column) for row in rows):
            return None
        return tuple(text(row, column) for row in rows)

    def images(self, rows: Sequence[Row], part: Part) -> tuple[Path, ...] | None:
        """Files of the images of one part; `None` for a task of texts.

        Raises:
            TaskError: a file is not there.
        """
        if self.image is None:
            return None
        named_in = self.train if part == "train" else self.test
        if named_in and not isinstance(place_of(named_in), Path):
            raise TaskError(f"{cut(named_in)} names images, which are read from local files alone; copy them here.")
        folder = Path(named_in).parent if named_in else Path()
        files = tuple(folder / text(row, self.image) for row in rows)
        for row, file in zip(rows, files, strict=True):
            if not file.is_file():
                raise TaskError(
                    f"{row[0]} names the image {file}, which is not there; give its place relative to the file of rows."
                )
        return files


def _hub_table(source: TaskSource, split: str) -> Table:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"The data set {source.hub} lies on the Hub, and 'datasets' is not installed: pip install 'loragen[hub]'"
        ) from error
    place = f"{source.hub}[{split}]"
    shows_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        data = datasets.load_dataset(source.hub, source.hub_config, split=split)
    except (OSError, ValueError) as error:
        raise TaskError(f"Cannot load {place} from the Hub: {error}") from error
    finally:
        if shows_bars:
            datasets.enable_progress_bars()
    names = getattr(data.features.get(source.label), "names", None)
    rows = tuple((f"{place} (row {number})", row) for number, row in enumerate(data, 1))
    return Table(place, rows, {} if names is None else {source.label: tuple(names)})
