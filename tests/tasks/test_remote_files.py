"""Files of tasks named by URI: read as local ones are, within bounds, and fetched once."""

import gzip
import time
from pathlib import Path

import fsspec
import pytest

from loragen.errors import ConfigError, MissingExtraError, TaskError
from loragen.tasks import remote_files
from loragen.tasks.remote_files import clear_copies, is_uri, joined, local_copy, place_of
from loragen.tasks.tables import read_table
from loragen.tasks.task_set import TaskSet

ROWS = '{"text": "warm soup", "label": "hot"}\n{"text": "cold tea", "label": "cold"}\n'
ITEM = "{id: drinks, description: Is it hot?, labels: [hot, cold], source: {train: drinks.jsonl, test: TEST}}"


@pytest.fixture
def bucket():
    """Writes files into fsspec's memory."""
    files = fsspec.filesystem("memory")

    def write(name: str, data: str | bytes) -> str:
        files.pipe(f"/{name}", data.encode() if isinstance(data, str) else data)
        return f"memory://{name}"

    yield write
    clear_copies()
    files.store.clear()


def test_a_path_stays_a_path_and_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_files, "_file_system", None)
    assert place_of("data/a.csv") == Path("data/a.csv")
    assert place_of("C:/data/a.csv") == Path("C:/data/a.csv")
    assert place_of("file:///data/a.csv") == Path("/data/a.csv")
    assert joined(tmp_path, "a.csv") == tmp_path / "a.csv"
    assert joined(tmp_path, "../a.csv") == tmp_path / "../a.csv"
    assert joined(tmp_path, "/data/a.csv") == joined("s3://b", "/data/a.csv") == Path("/data/a.csv")
    assert joined("s3://b/c/", "d/a.csv") == joined(tmp_path, "s3://b/c/d/a.csv") == "s3://b/c/d/a.csv"
    assert [is_uri(name) for name in ("a/b://c", "c:/x", "s3://x")] == [False, False, True]
    (tmp_path / "a.jsonl").write_text(ROWS)
    assert len(read_table(place_of(f"file://{tmp_path}/a.jsonl")).rows) == 2


def test_tasks_and_their_table_are_read_from_a_root_elsewhere(bucket, tmp_path):
    bucket("data/drinks.jsonl", ROWS)
    bucket("data/drinks.test.jsonl.gz", gzip.compress(ROWS.encode()))
    bucket("data/tasks.csv", "id,description,labels\ndrinks,Is it hot?,hot|cold\n")
    bucket("data/splits.json", '{"experts": ["drinks"]}')
    (tmp_path / "full.yaml").write_text(
        f"root: memory://data\ntasks: [{ITEM.replace('TEST', 'drinks.test.jsonl.gz')}]\nsplits: splits.json\n"
    )
    (tmp_path / "table.yaml").write_text(
        "root: memory://data/\ntable: tasks.csv\ncolumns: {id: id, description: description, labels: labels}\n"
        "source: {train: '{id}.jsonl', test: '{id}.test.jsonl.gz'}\nsplits: splits.json\n"
    )
    (tmp_path / "drinks.jsonl").write_text(ROWS)
    (tmp_path / "local.yaml").write_text(f"tasks: [{ITEM.replace('TEST', 'memory://data/drinks.test.jsonl.gz')}]\n")
    for name in ("full", "table", "local"):
        tasks = TaskSet.from_yaml(tmp_path / f"{name}.yaml")
        (task,) = tasks
        assert task.load_train() == task.load_test()
        assert task.load_test().texts == ("warm soup", "cold tea")
        assert task.load_test().outputs == ("hot", "cold")
        assert name == "local" or tasks.split("experts") == (task,)


def test_a_file_is_fetched_once_and_again_when_it_has_changed(bucket, monkeypatch):
    fetched, copied = [], remote_files._copied
    monkeypatch.setattr(remote_files, "_copied", lambda *args: fetched.append(args[1]) or copied(*args))
    uri = bucket("a.jsonl", ROWS)
    first = read_table(uri)
    assert read_table(uri) == first
    assert fetched == [uri]
    assert first.name == uri
    assert first.rows[1] == (f"{uri}:2", {"text": "cold tea", "label": "cold"})
    time.sleep(0.002)
    bucket("a.jsonl", ROWS + ROWS)
    assert len(read_table(uri).rows) == 4
    assert fetched == [uri, uri]
    with local_copy(uri) as copy:
        folder = copy.parent
    clear_copies()
    assert not folder.exists()


def test_the_oldest_copies_make_room(bucket, monkeypatch):
    monkeypatch.setattr(remote_files, "MOST_KEPT", 2 * len(ROWS))
    for name in "abc":
        read_table(bucket(f"{name}.jsonl", ROWS))
    assert [uri for uri, _ in remote_files._copies.paths] == ["memory://b.jsonl", "memory://c.jsonl"]
    assert len(list(remote_files._copies.folder.iterdir())) == 2


def test_errors_name_the_uri(bucket):
    for name, data, message in (
        ("gone.jsonl", None, "There is no file memory://gone.jsonl"),
        ("bad.jsonl", '{"text": 1}\n{"te', "memory://bad.jsonl:2 is not JSON"),
        ("bad.csv.gz", b"\x1f\x8b\x08", "memory://bad.csv.gz is not a whole gzip file"),
        ("a.xlsx", b"PK", "memory://a.xlsx ends in none of"),
        ("latin.txt", b"caf\xe9", "memory://latin.txt is not UTF-8"),
    ):
        if data is not None:
            bucket(name, data)
        with pytest.raises(TaskError, match=message) as told:
            read_table(f"memory://{name}")
        assert "loragen-" not in str(told.value)


def test_a_file_that_is_too_large_is_not_read(bucket, monkeypatch):
    uri = bucket("a.jsonl", ROWS)
    monkeypatch.setattr(remote_files, "LARGEST", len(ROWS) - 1)
    with monkeypatch.context() as patched:
        patched.setattr(remote_files, "_copied", None)
        with pytest.raises(TaskError, match=r"has 76 bytes, and 75 are the most"):
            read_table(uri)
    # Also where its size is not told beforehand, or wrongly.
    files = fsspec.filesystem("memory")
    told = files.info(uri)
    for size in (None, 3):
        with monkeypatch.context() as patched:
            patched.setattr(type(files), "info", lambda *_, size=size, **__: {**told, "size": size})
            with pytest.raises(TaskError, match=r"has over 75 bytes"):
                read_table(uri)
    assert not list(remote_files._copies.folder.iterdir())


def test_a_file_that_does_not_come_is_waited_for_no_longer_than_agreed(bucket, monkeypatch):
    uri = bucket("a.jsonl", ROWS)
    monkeypatch.setattr(remote_files, "LONGEST_FETCH", 0.05)
    monkeypatch.setattr(remote_files, "_copied", lambda *_: time.sleep(0.5))
    begun = time.monotonic()
    with pytest.raises(TaskError, match=r"could not be fetched within 0.05 seconds"):
        read_table(uri)
    assert time.monotonic() - begun < 0.4
    time.sleep(0.5)  # the thread that was left behind ends before its fixture does


@pytest.mark.parametrize(("uri", "library"), [("s3://bucket/a.jsonl", "s3fs"), ("gs://bucket/a.jsonl", "gcsfs")])
def test_a_library_that_is_missing_is_told_by_name(monkeypatch, uri, library):
    def missing(kind):
        raise ImportError(f"Install {library}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(MissingExtraError, match=f"needs '{library}', which is not installed: pip install {library}"):
        read_table(uri)


def test_unknown_schemes_and_faults_of_a_library_are_told(bucket, monkeypatch, tmp_path):
    (tmp_path / "tasks.yaml").write_text(f"root: ftp://host/data\ntasks: [{ITEM}]\n")
    with pytest.raises(
        (TaskError, ConfigError), match=r"scheme ftp; files are read from paths, file://, s3:// and gs://"
    ):
        TaskSet.from_yaml(tmp_path / "tasks.yaml")

    def refuse(*_args, **_options):
        raise RuntimeError("no credentials")

    uri = bucket("a.jsonl", ROWS)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", refuse)
    with pytest.raises(TaskError, match=r"Cannot read memory://a.jsonl: no credentials.*credentials in the env"):
        read_table(uri)


def test_images_lie_beside_local_files_alone(bucket, tmp_path):
    bucket("drinks.jsonl", '{"text": "tea", "image": "a.png"}\n')
    (tmp_path / "tasks.yaml").write_text(
        "tasks: [{id: a, description: Images., source: {train: 'memory://drinks.jsonl', image: image}}]\n"
    )
    (task,) = TaskSet.from_yaml(tmp_path / "tasks.yaml")
    with pytest.raises(TaskError, match="read from local files alone"):
        task.load_train()
