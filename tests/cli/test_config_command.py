import json
from pathlib import Path

import command_line
import yaml
from command_line import widest

run = command_line.run
CONFIGS = Path(__file__).parents[2] / "configs"


def test_ready_configs_are_listed_by_the_names_that_show_takes(run) -> None:
    listed = json.loads(run("config", "list", "--json").out)
    names = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert {row["name"] for row in listed} == names
    assert all(row["about"] and "\n" not in row["about"] for row in listed)
    shown = run("config", "list")
    assert widest(shown.out) <= 80
    assert all(name in shown.out for name in names)
    assert "loragen config copy NAME --out FILE.yaml" in shown.out


def test_a_config_is_shown_as_it_is(run) -> None:
    for name in ("train/sg", "train/sg.yaml"):
        assert run("config", "show", name).out == (CONFIGS / "train" / "sg.yaml").read_text().rstrip() + "\n"
    refused = run("config", "show", "train/nope")
    assert refused.status == 2
    assert "no ready config 'train/nope'; `loragen config list`" in refused.err


def test_a_config_is_copied_into_a_folder_or_to_a_file_and_replaces_nothing(run) -> None:
    assert run("config", "copy", "train/sg").out == "✓ train-sg.yaml\n"
    assert json.loads(run("config", "copy", "train/sg", "--out", "new/[mine].yaml", "--json").out) == {
        "file": "new/[mine].yaml"
    }
    for path in ("train-sg.yaml", "new/[mine].yaml"):
        assert yaml.safe_load(Path(path).read_text())["generator"] == "sg"
    Path("train-sg.yaml").write_text("mine")
    refused = run("config", "copy", "train/sg")
    assert refused.status == 2
    assert "train-sg.yaml is there already; give another --out" in refused.err
    assert Path("train-sg.yaml").read_text() == "mine"
