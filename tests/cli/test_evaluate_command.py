import json

import command_line
import pytest
from command_line import widest, write_adapter

run = command_line.run


@pytest.fixture
def adapter(tmp_path):
    """A random adapter for the embedded base."""
    return write_adapter(tmp_path / "random", "sentence-transformers/all-MiniLM-L6-v2", size=384)


@pytest.fixture
def data(tmp_path):
    rows = [("The soup is cold.", "kitchen"), ("My bread is warm.", "kitchen"), ("The tea was bitter.", "kitchen")]
    rows += [("The key does not fit.", "door"), ("Our lock is stuck.", "door"), ("I cannot open the gate.", "door")]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows))
    return path


def test_evaluate_judges_an_adapter_on_own_data(run, adapter, data) -> None:
    ask = ("evaluate", adapter, "--data", data)
    judged = json.loads(run(*ask, "--json").out)
    methods = [row["method"] for row in judged["rows"]]
    assert {"base", "mean", "this adapter"} <= set(methods)
    assert "nearest" not in methods, "nothing says what the task is"
    told = json.loads(run(*ask, "--description", "What is the hotel guest's complaint about?", "--json").out)
    assert {"nearest", "topk"} <= {row["method"] for row in told["rows"]}
    table = run(*ask)
    assert "this adapter" in table.out
    assert f"\n{judged['verdict']}\n" in table.out
    tables = "\n".join(line for line in table.out.splitlines() if "  " in line)
    assert widest(tables) <= 80


def test_numbered_labels_are_named_and_columns_found(run, adapter, data, tmp_path) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    path = tmp_path / "numbered.csv"
    lines = [f"{row['text']};{['kitchen', 'door'].index(row['label'])}" for row in rows]
    path.write_text("\n".join(["Sentence;Target", *lines]) + "\n")
    named = json.loads(run("evaluate", adapter, "--data", data, "--json").out)
    numbered = json.loads(
        run("evaluate", adapter, "--data", path, "--label", "kitchen", "--label", "door", "--json").out
    )
    assert numbered["labels"] == named["labels"] == ["kitchen", "door"]
    assert numbered["rows"] == named["rows"]
    assert any("Texts are taken from the column 'Sentence'" in note for note in numbered["notes"])


def test_evaluate_refuses_with_a_reason_and_status_2(run, adapter, data, tiny_zoo, tmp_path) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n')
    numbers, equal = tmp_path / "numbers.jsonl", tmp_path / "equal.jsonl"
    numbers.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    equal.write_text('{"text": "a", "label": "x"}\n{"text": "a", "label": "y"}\n')
    config = tmp_path / "evaluate.yaml"
    config.write_text("zoo: z\n")
    for arguments, message in [
        ((adapter,), "--data"),
        ((adapter, "--data", one), "'x'"),
        ((adapter, "--data", numbers), "are numbers, such as 1; name them in their order"),
        ((adapter, "--data", numbers, "--labels", "a"), "at least two different"),
        (
            (adapter, "--data", numbers, "--labels", "a,b", "--text-column", "body"),
            "no column 'body'; columns met: text",
        ),
        ((adapter, "--data", equal), "are all equal"),
        ((adapter, "--data", data, "--zoo", tiny_zoo.root), "zoo"),
        ((config, "--data", data), "--data goes with an adapter folder"),
        ((config,), "splits"),
        ((tmp_path / "none.yaml",), "none.yaml"),
    ]:
        result = run("evaluate", *arguments)
        assert result.status == 2, arguments
        assert message in result.err
