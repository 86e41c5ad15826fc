"""`loragen generate --history`."""

import json
from pathlib import Path

import command_line
import pytest

run = command_line.run


@pytest.fixture
def ask(toys):
    return ("--generator", "topk", "--zoo", toys / "zoo", "--encoder", toys / "base")


FILES = {
    "mine.jsonl": '{"text": "tea a", "label": "tea"}\n{"text": "warm b", "label": "warm"}\n',
    "mine.csv": "message,intent\ntea a,tea\nwarm b,warm\n",
    "mine.txt": "tea a\nwarm b\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_history_is_read_from_a_file_and_told(run, ask, name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    (card,) = json.loads(run("generate", "Is it tea?", "--history", name, *ask, "--out", "made", "--json").out)
    assert card["history"] == {"texts": 2, "labelled": name != "mine.txt", "pool": "untrained"}
    assert any("no trained pool of histories" in note for note in card["notes"])


def test_without_a_description_the_folder_is_named_by_the_file(run, ask, tmp_path):
    (tmp_path / "my mail.txt").write_text("tea a\nwarm b\n")
    result = run("generate", "", "--history", "my mail.txt", *ask)
    assert "from 2 past texts; verified on disk" in result.words
    assert Path("adapters/my-mail/adapter_model.safetensors").is_file()
    assert run("check", "adapters/my-mail").status == 0


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (None, (), "Cannot read mine.csv"),
        ("note\ntea\n", (), "no column 'text'; columns met: note"),
        ("text,label\ntea,a\nsoup,\n", (), "has no 'label'"),
        ("text\n", (), "holds no example"),
        ("text\ntea\n", ("--text-column", "body"), "no column 'body'"),
    ],
)
def test_what_cannot_be_read_is_refused(run, ask, tmp_path, content, options, said):
    if content is not None:
        (tmp_path / "mine.csv").write_text(content)
    result = run("generate", "Is it tea?", "--history", "mine.csv", *options, *ask)
    assert result.status == 2 or result.status == 1
    assert said in result.err
    assert not Path("adapters").exists()


def test_a_folder_that_holds_the_history_is_not_replaced(run, ask, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("tea a\n")
    result = run("generate", "Is it tea?", "--history", "made/mine.txt", *ask, "--out", "made", "--force")
    assert result.status != 0
    assert (tmp_path / "made" / "mine.txt").is_file()
