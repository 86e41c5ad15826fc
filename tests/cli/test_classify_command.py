import csv
import io
import json
import sys
from pathlib import Path

import command_line
import pytest
from command_line import widest, write_adapter
from models import write_tiny_encoder

import loragen

run = command_line.run
TEXTS = ("cold soup", "warm bread", "tea, please")
LABELS = "soup,bread"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("classify") / "encoder", seed=1)


@pytest.fixture(scope="module")
def adapter(encoder, tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("classify") / "adapter", encoder)


@pytest.fixture
def labelled(adapter, tmp_path):
    """The same adapter with a card that names labels."""
    folder = tmp_path / "labelled"
    folder.mkdir()
    for path in adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "card.yaml").write_text("labels: [soup, bread]\n")
    return folder


ODD = ("=HYPERLINK(1)", "+1", "-x", "@SUM(A1)", 'a\rb, "c"', "\x1b[31m soup")


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_texts_are_written_as_they_are_and_read_back(run, labelled, name) -> None:
    data = "".join(json.dumps({"text": text}) + "\n" for text in ODD)
    Path("texts.jsonl").write_text(data)
    assert run("classify", labelled, "--data", "texts.jsonl", "--out", name).status == 0
    assert loragen.Examples.from_file(Path(name)).texts == ODD


def test_classify_shows_adapter_and_base_side_by_side(run, adapter) -> None:
    rows = json.loads(run("classify", adapter, *TEXTS, "--labels", LABELS, "--json").out)
    assert [row["text"] for row in rows] == list(TEXTS)
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
    assert any(row["probability"] != row["base_probability"] for row in rows)
    assert all("true_label" not in row for row in rows)
    shown = run("classify", adapter, *TEXTS, "--labels", LABELS)
    assert "bare base says" in shown.out
    assert "Right:" not in shown.out
    line = next(line for line in shown.out.splitlines() if line.startswith(TEXTS[0]))
    told = [
        f"{rows[0][name]:.2f}" if "p" in name else rows[0][name]
        for name in ("label", "probability", "base_label", "base_probability")
    ]
    assert line.removeprefix(TEXTS[0]).split() == told


def test_labels_come_from_the_card_unless_they_are_given(run, labelled, adapter) -> None:
    (row,) = json.loads(run("classify", labelled, "tea", "--json").out)
    assert list(row["probabilities"]) == ["soup", "bread"]
    (row,) = json.loads(run("classify", labelled, "tea", "--labels", "warm, cold", "--json").out)
    assert list(row["probabilities"]) == ["warm", "cold"]
    refused = run("classify", adapter, "tea")
    assert refused.status == 2
    assert "card names no labels; give them with --labels" in refused.err


# --- files ---


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('text,label\ncold soup,soup\nwarm bread,bread\n"soup, again",soup\n')
    return path


def test_a_labelled_file_is_classified_and_the_accuracies_are_said(run, labelled, data) -> None:
    rows = json.loads(run("classify", labelled, "--data", data, "--json").out)
    assert [(row["text"], row["true_label"]) for row in rows] == [
        ("cold soup", "soup"),
        ("warm bread", "bread"),
        ("soup, again", "soup"),
    ]
    right, by_base = (sum(row[name] == row["true_label"] for row in rows) for name in ("label", "base_label"))
    said = f"Right: {right} of 3 ({right / 3:.0%}) with the adapter, {by_base} ({by_base / 3:.0%}) by the bare base."
    assert said in run("classify", labelled, "--data", data).out


def test_lines_of_input_are_classified_and_empty_ones_left_aside(run, labelled, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("cold soup\n\n  warm bread \n"))
    rows = json.loads(run("classify", labelled, "--data", "-", "--json").out)
    assert [row["text"] for row in rows] == ["cold soup", "warm bread"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    empty = run("classify", labelled, "--data", "-")
    assert empty.status == 2
    assert "There are no texts" in empty.err


def test_labels_are_written_as_csv(run, labelled, data) -> None:
    result = run("classify", labelled, "--data", data, "--out", "new/labels.csv")
    assert result.status == 0, result.err
    assert "✓ new/labels.csv: 3 labels\nRight: " in result.out
    assert "bare base says" not in result.out
    rows = list(csv.DictReader(io.StringIO(Path("new/labels.csv").read_text())))
    wanted = json.loads(run("classify", labelled, "--data", data, "--json").out)
    assert [row["text"] for row in rows] == ["cold soup", "warm bread", "soup, again"]
    for row, other in zip(rows, wanted, strict=True):
        assert row == {name: str(value) for name, value in other.items() if name != "probabilities"}


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl"])
def test_a_file_of_others_is_not_written_over(run, labelled, tmp_path, name) -> None:
    texts = {"data.csv": "text,label\ntea,tea\n", "data.jsonl": '{"text": "tea", "label": "tea"}\n'}[name]
    (tmp_path / name).write_text(texts)
    refused = run("classify", labelled, "--data", name, "--out", name)
    assert refused.status == 2
    assert f"{name} is there and holds no labels of ours" in refused.err
    assert (tmp_path / name).read_text() == texts
    for _ in range(2):
        assert run("classify", labelled, "tea", "--out", f"new-{name}").status == 0, (
            "labels of an earlier call are ours"
        )


def test_labels_are_written_as_jsonl(run, labelled) -> None:
    run("classify", labelled, *TEXTS, "--out", "labels.JSONL")
    rows = [json.loads(line) for line in Path("labels.JSONL").read_text().splitlines()]
    assert rows == json.loads(run("classify", labelled, *TEXTS, "--json").out)


def test_columns_are_chosen_or_found_and_said(run, labelled, tmp_path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("Review;n;Class\ncold soup;1;soup\nwarm bread;0;tea\n")
    found = run("classify", labelled, "--data", path)
    assert found.status == 0, found.err
    assert f"! Texts are taken from the column 'Review' of {path}." in found.out
    assert f"! Labels are taken from the column 'Class' of {path}." in found.out
    assert "! 1 of the labels in the file are not among those to choose from, such as 'tea'." in found.out
    chosen = ("classify", labelled, "--data", path, "--text-column", "Review", "--label-column", "n", "--json")
    rows = json.loads(run(*chosen).out)
    assert [row["true_label"] for row in rows] == ["bread", "soup"], "numbers by the labels of the card"
    rows = json.loads(run(*chosen, "--labels", "warm,cold").out)
    assert [row["true_label"] for row in rows] == ["cold", "warm"]
    unknown = run("classify", labelled, "--data", path, "--text-column", "text")
    assert unknown.status == 2
    assert "no column 'text'; columns met: Review, n, Class" in unknown.err


def test_labels_with_commas_and_a_text_file_of_texts(run, adapter, tmp_path) -> None:
    (tmp_path / "texts.txt").write_text("cold soup, today\n\nwarm bread\n")
    (tmp_path / "names.txt").write_text("soup, hot\nbread\n")
    ask = ("classify", adapter, "--data", tmp_path / "texts.txt", "--json")
    by_name = run(*ask, "--label", "soup, hot", "--label", "bread")
    assert by_name.status == 0, by_name.err
    rows = json.loads(by_name.out)
    assert [row["text"] for row in rows] == ["cold soup, today", "warm bread"]
    assert list(rows[0]["probabilities"]) == ["soup, hot", "bread"]
    assert json.loads(run(*ask, "--labels-file", tmp_path / "names.txt").out) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"caf\xe9\n", "standard input is not UTF-8"), (b"a\0b\n", "standard input:1 holds NUL bytes")],
)
def test_input_that_is_no_text_is_refused(run, labelled, monkeypatch, content, message) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    refused = run("classify", labelled, "--data", "-")
    assert refused.status == 2
    assert message in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give texts, as in: loragen classify ADAPTER"),
        (("tea", "--data", "data.csv"), "or a file of them with --data FILE."),
        (("data.csv",), "data.csv is a file; to classify the texts in it, write --data data.csv"),
        (("tea", "data.csv"), "data.csv is a file"),
        (("--data", "lost.csv"), "lost.csv"),
        (("tea", "--out", "labels.txt"), "--out labels.txt ends in neither .csv nor .jsonl"),
        (("tea", "--labels", "one"), "at least two different"),
        (("tea", "--labels", "same,same"), "at least two different"),
        (("tea", "--labels", " , "), "at least two different"),
        ((" ",), "One of the texts is empty"),
        (("\u200b",), "One of the texts is empty"),
        (("caf\udce9",), "A text holds the character U+DCE9"),
        (("tea", "--labels", "a,caf\udce9"), "a label name holds the character U+DCE9"),
        (("tea", "--labels", "Soup,soup"), "differs from 'Soup' in capitals alone"),
    ],
)
def test_classify_refuses_with_a_reason_and_status_2(run, labelled, data, arguments, message) -> None:
    result = run("classify", labelled, *arguments)
    assert result.status == 2
    assert message in result.err
    assert result.out == ""


def test_a_text_that_only_looks_like_a_file_is_a_text(run, labelled) -> None:
    (row,) = json.loads(run("classify", labelled, "no-such-file.csv", "--json").out)
    assert row["text"] == "no-such-file.csv"


def test_classify_refuses_an_adapter_of_another_base(run, tiny_zoo, encoder) -> None:
    result = run("classify", tiny_zoo.folder("bank"), "text", "--labels", "a,b", "--base", encoder)
    assert result.status == 2
    assert "made for another base model" in result.err


def test_texts_with_brackets_are_shown_whole_and_long_ones_fit(run, labelled) -> None:
    texts = ("a[/b]c [bold]", "soup and bread " * 8)
    result = run("classify", labelled, *texts)
    assert result.status == 0
    assert "a[/b]c [bold]" in result.out
    assert widest(result.out) <= 80
