import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from fetch_tasks import (  # noqa: E402
    CARDS,
    COLUMNS,
    OWN,
    SPLITS,
    convert,
    load_families,
    main,
    paths,
    read_cards,
    repository,
    separate,
    splits,
    table,
)
from task_readers import READERS, examples, key_of  # noqa: E402

CONFIG = ROOT / "configs" / "tasks" / "public.yaml"
BANKING = "banking77_top_ups"
TOP_UPS = {"automatic_top_up": "automatic top up", "pending_top_up": "pending top up", "verify_top_up": "verify top up"}


@pytest.fixture(scope="module")
def cards() -> dict:
    return read_cards()


@pytest.fixture(scope="module")
def families() -> dict:
    return load_families()


@pytest.fixture
def clones(tmp_path: Path) -> Path:
    """A made-up clone of the source of Banking77."""
    folder = tmp_path / "clones" / "task-specific-datasets" / "banking_data"
    folder.mkdir(parents=True)
    rows = [f'"Question  {n} about &amp; my {label}, please",{label}' for label in TOP_UPS for n in range(20)]
    rows += ["shared with the test,pending_top_up", "Twice said,pending_top_up", "twice said!,verify_top_up", "x,other"]
    (folder / "train.csv").write_text("\n".join(["text,category", *rows]) + "\n")
    tests = [
        "text,category",
        "Shared with the test.,pending_top_up",
        *(f"Asked of {label},{label}" for label in TOP_UPS),
    ]
    (folder / "test.csv").write_text("\n".join(tests) + "\n")
    return tmp_path / "clones"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_table_says_what_the_cards_say(cards: dict, families: dict) -> None:
    rows = table(cards, families)
    assert len(rows) == len(cards) == 141
    assert len(families) == 61
    for row in rows:
        assert {field: row[column] for column, field in COLUMNS.items()} == {
            field: cards[row["id"]][field] for field in COLUMNS.values()
        }
    assert sorted(task for tasks in splits(cards, families).values() for task in tasks) == sorted(cards)
    assert set(yaml.safe_load(CONFIG.read_text())["columns"].values()) <= set(rows[0])


def test_families_of_the_sources_are_those_of_the_cards(cards: dict, families: dict) -> None:
    for family, spec in families.items():
        assert {cards[task]["family"] for task in spec["tasks"]} == {family}
        assert len({(cards[task]["origin"], cards[task]["commit"]) for task in spec["tasks"]}) == 1
        assert spec["read"] in READERS


def test_cards_of_validation_tasks_agree_with_the_oracles(cards: dict) -> None:
    for card in (yaml.safe_load(path.read_text()) for path in CARDS[1].glob("*/card.yaml")):
        assert {name: card[name] for name in COLUMNS.values()} == {
            name: cards[card["id"]][name] for name in COLUMNS.values()
        }


def test_table_equals_that_of_the_shared_tasks(cards: dict, families: dict) -> None:
    shared = ROOT.parent / "shared" / "tasks"
    if not shared.is_dir():
        pytest.skip("the folder of the original texts is not here")
    columns = yaml.safe_load(CONFIG.read_text())["columns"].values()
    theirs = json.loads((shared / "tasks.json").read_text())
    assert [{name: row[name] for name in columns} for row in table(cards, families)] == [
        {name: row[name] for name in columns} for row in theirs
    ]
    assert {name: sorted(ids) for name, ids in splits(cards, families).items()} == {
        name: sorted(ids) for name, ids in json.loads((shared / "splits.json").read_text()).items()
    }


def test_converter_writes_the_files_of_its_tasks(clones: Path, tmp_path: Path, families: dict, cards: dict) -> None:
    spec = {**families["Banking77"], "known": cards[BANKING]["labels"]}
    parts = convert(clones / "task-specific-datasets", spec)
    texts = {example.text: example.label for example in parts["train"]}
    assert len(texts) == 60
    assert texts["Question 3 about & my verify_top_up, please"] == "verify top up"
    assert {example.text for example in parts["test"]} == {
        "Shared with the test.",
        *(f"Asked of {label}" for label in TOP_UPS),
    }
    (clones / "task-specific-datasets" / "banking_data" / "test.csv").write_text("text,category\n")
    code = main(["--out", str(tmp_path / "out"), "--from", str(clones), "--family", "Banking77"])
    assert code == 2
    assert not list((tmp_path / "out").glob("*.jsonl"))
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["splits.json", "tasks.json"]


def test_own_split_follows_from_the_text_and_keeps_groups_together(tmp_path: Path) -> None:
    rows = [f"question {n % 40},answer {n},{n % 2}" for n in range(400)]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    spec = {
        **{"split": "own", "read": "table", "columns": ["text", "pair", "label"], "train": ["*.csv"]},
        **{"pair": "{pair}", "group": "{text}", "labels": {"yes": "1", "no": "0"}, "known": ["no", "yes"]},
    }
    parts = convert(tmp_path, spec, everything=True)
    assert len(parts["train"]) + len(parts["test"]) == 400
    assert 40 < len(parts["test"]) < 180
    assert not {example.text for example in parts["train"]} & {example.text for example in parts["test"]}
    (tmp_path / "pairs.csv").write_text("\n".join(reversed(rows)))
    again = convert(tmp_path, spec, everything=True)
    assert {part: set(found) for part, found in again.items()} == {part: set(found) for part, found in parts.items()}


def test_no_train_text_of_a_task_is_tested_by_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task, train, test in (("a", ["one", "two"], ["three"]), ("b", ["Three!", "four"], ["two."])):
        for part, texts in (("train", train), ("test", test)):
            written = "".join(json.dumps({"text": text, "label": "x"}) + "\n" for text in texts)
            paths(tmp_path, task)[part].write_text(written)
    separate(tmp_path, ["a", "b", "not there"])
    assert [row["text"] for row in lines(tmp_path / "a.train.jsonl")] == ["one"]
    assert [row["text"] for row in lines(tmp_path / "b.train.jsonl")] == ["four"]
    assert "left out 1" in capsys.readouterr().out


def test_sample_holds_a_label_to_its_share(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("\n".join(f"{n % 10 > 0}\ttext {n}" for n in range(5000)))
    (tmp_path / "test.tsv").write_text("\n".join(f"{n % 2 > 0}\tnew {n}" for n in range(800)))
    spec = {
        **{"split": "original", "read": "lines", "separator": "\t", "columns": ["label", "text"]},
        **{"train": ["*.tsv"], "test": ["test.tsv"], "known": ["true", "false"], "hold": {"true": 0.5}},
    }
    parts = convert(tmp_path, spec)
    assert [example.label for example in parts["train"]].count("true") == 500
    assert (len(parts["train"]), len(parts["test"])) == (1000, 500)
    assert convert(tmp_path, spec) == parts


def test_texts_with_two_labels_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nGood day,x\ngood  day!,y\nLate &lt; early,x\nLate <early>,y\n")
    found = examples(tmp_path, {"read": "table", "train": ["a.csv"], "known": ["x", "y"]}, "train")
    assert [example.text for example in found] == ["Late < early", "Late <early>"]


def test_keys_tell_texts_apart_by_their_words() -> None:
    assert key_of("It's  fine.") == key_of("its FINE")
    assert key_of("a", "b") != key_of("ab")
    assert key_of(":-)") != key_of(":-(")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "{out}", "--from", "{out}/nowhere"], "no folder {out}/nowhere"),
        (["--out", "{out}", "--from", "{out}", "--family", "Bank"], "no family Bank"),
        ([], "name a folder to write to"),
    ],
)
def test_mistakes_end_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format(out=tmp_path) for word in words]) == 2
    error = capsys.readouterr().err
    assert said.format(out=tmp_path) in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_missing_clone_is_named_and_partial_lets_it_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--out", str(tmp_path / "out"), "--from", str(tmp_path), "--family", "CLINC150"]
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[0].startswith(f"CLINC150: no folder {tmp_path}/oos-eval; clone https://")
    assert len(error) == 11
    assert main([*words, "--partial"]) == 0


def test_source_is_cloned_at_its_commit(clones: Path) -> None:
    git = ["git", "-C", str(clones / "task-specific-datasets"), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "Texts"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    with repository(str(clones / "task-specific-datasets"), commit, None) as folder:
        assert (folder / "banking_data" / "train.csv").is_file()
    assert not folder.exists()


def test_list_names_every_family(families: dict, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 1 + len(families)
    assert all(family in line and "https://" in line for family, line in zip(families, shown[1:], strict=True))


def test_table_owns_up_to_splits_by_hash(cards: dict, families: dict) -> None:
    rows = {row["id"]: row["split"] for row in table(cards, families)}
    assert rows["subjectivity"] == OWN
    assert rows["clinc_home"] == "the source's own split"
    assert set(splits(cards, families)) == set(SPLITS)
