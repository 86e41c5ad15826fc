"""`loragen generate` with texts, and what it says of its adapters; `loragen classify --adapt`."""

import io
import json
from pathlib import Path

import command_line
import pytest
from generation_toys import with_confidence

run = command_line.run

TASK = "Is it bread or cold?"


@pytest.fixture
def texts(toys, tmp_path):
    rows = [json.loads(line) for line in (toys / "data" / "plates.train.jsonl").read_text().splitlines()]
    path = tmp_path / "texts.csv"
    path.write_text("message\n" + "\n".join(row["text"] for row in rows))
    return path


@pytest.fixture
def ask(toys, tmp_path):
    def command(**gains):
        zoo = with_confidence(toys, tmp_path / "zoo", **gains) if gains else toys / "zoo"
        return ("generate", TASK, "--generator", "topk", "--zoo", zoo, "--encoder", toys / "base", "--out", "made")

    return command


def test_texts_are_adapted_to_with_progress_and_the_next_step_is_said(run, ask, texts):
    result = run(*ask(adapted=0.08), "--labels", "bread,cold", "--texts", texts, "--text-column", "message")
    assert "adapting to the texts: 1 of 15" in result.err
    assert "adapted to " in result.out
    assert "Expected over the base, from your texts: +0.08" in result.words
    assert "Improve it: eight labelled examples a class" in result.out
    assert run("check", "made").status == 0


def test_texts_come_from_standard_input_too(run, ask, texts, monkeypatch):
    lines = "\n".join(texts.read_text().splitlines()[1:])
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    (card,) = json.loads(run(*ask(), "--labels", "bread,cold", "--texts", "-", "--shares", "1,3", "--json").out)
    assert card["texts"] == len(set(lines.splitlines()))
    assert card["adapted"]["fit"]["steps"] == 15


def test_words_alone_are_marked_where_they_may_harm(run, ask):
    result = run(*ask(generated=0.04, shared=0.1))
    assert "! The task is" in result.out
    assert "+0.04 in accuracy" in result.words
    assert "--texts FILE --labels first,second" in result.words


def test_another_adapter_than_the_generators_is_announced_with_the_reason(run, ask):
    result = run(*ask(generated=-0.04, shared=0.02))
    assert "This is the zoo's one adapter for all tasks: it is expected to gain +0.02" in result.words
    assert Path("made/adapter_model.safetensors").exists()


def test_where_nothing_is_expected_nothing_is_written_and_the_way_out_is_said(run, ask):
    command = ask(generated=-0.04, shared=-0.02)
    result = run(*command)
    assert result.status == 2
    assert "No adapter is given out" in result.err
    assert "--no-fallback" in result.err
    assert not Path("made").exists()
    assert "✓ made" in run(*command, "--no-fallback").out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--texts", "texts.csv"), "names of the task's labels"),
        (("--labels", "bread,cold", "--shares", "1,2"), "give these with --texts"),
        (("--labels", "bread,cold", "--texts", "few.txt"), "at least 20 are wanted"),
        (("--labels", "bread,cold", "--texts", "missing.csv"), "missing.csv"),
        (("--labels", "bread,cold", "--texts", "texts.csv", "--shares", "1,x"), "no list of numbers"),
        (("--labels", "bread,cold", "--texts", "texts.csv", "--shares", "1,2,3"), "one above 0 for each of the 2"),
    ],
)
def test_what_does_not_go_together_is_refused(run, ask, texts, options, said):
    Path("few.txt").write_text("one\ntwo\n")
    assert texts == Path("texts.csv").absolute()
    column = () if "few.txt" in options else ("--text-column", "message")
    result = run(*ask(), *options, *column)
    assert result.status == 2
    assert said in result.err


def test_classify_adapts_to_the_texts_it_is_to_classify(run, ask, texts):
    run(*ask(), "--labels", "bread,cold")
    plain = json.loads(run("classify", "made", "--data", texts, "--text-column", "message", "--json").out)
    result = run("classify", "made", "--file", texts, "--text-column", "message", "--adapt", "--json")
    adapted = json.loads(result.out)
    assert "adapting to the texts" in result.err
    assert [row["base_probability"] for row in plain] == [row["base_probability"] for row in adapted]
    assert [row["probability"] for row in plain] != [row["probability"] for row in adapted]
    assert "add --adapt" in run("classify", "made", "a text", "--shares", "1,2").err
    assert "at least 20" in run("classify", "made", "a text", "--adapt").err
