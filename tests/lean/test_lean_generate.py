"""`loragen generate` on its lean way against the way with torch: folders, output and errors."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command_line import files_of, run  # noqa: F401 - a fixture
from safetensors.numpy import load_file

from loragen.config import read_yaml
from loragen.exporters.card import GeneratedCard
from loragen.inference import Adapter
from loragen.lean import choose

TASKS = (
    ("Sort complaints about noise, rubbish and parking.", ()),
    ("Tell which side a customer of a bank is on.", ("--labels", "yes,no", "--seed", "7")),
    ("Find the emotion of a tweet.", ("--samples", "3", "--seed", "-5")),
    ("Is the first sentence true if the second is?", ("--label", "it is", "--label", "it, is not", "--no-fallback")),
)


@pytest.fixture(params=["lean", "torch"])
def way(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setenv(choose.SWITCH, "0")
    return request.param


def written(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def rounded(value):
    """Plain values whose numbers compare within the rounding of cards, 4 digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return pytest.approx(value, abs=1.5e-4) if isinstance(value, float) else value


def both(run, monkeypatch, folder, *arguments):  # noqa: F811
    """Output and files of a command on both ways, each run in a folder of its own."""
    results = []
    for name, switch in (("lean", "1"), ("torch", "0")):
        (folder / name).mkdir()
        with monkeypatch.context() as patched:
            patched.setenv(choose.SWITCH, switch)
            patched.chdir(folder / name)
            if switch == "1":  # or the test would compare one way with itself
                patched.setattr("loragen.zoo.zoo.Zoo.open", None)
            results.append(run(*arguments))
    return results


@pytest.mark.parametrize(("description", "options"), TASKS)
def test_both_ways_write_the_same(run, monkeypatch, tmp_path, description, options):  # noqa: F811
    lean, slow = both(run, monkeypatch, tmp_path, "generate", description, "--out", "made", *options)
    assert lean == slow
    names = written(tmp_path / "lean")
    assert names == written(tmp_path / "torch")
    assert len(names) >= 5
    for name in names:
        one, other = tmp_path / "lean" / name, tmp_path / "torch" / name
        if one.suffix == ".safetensors":
            tensors, wanted = load_file(one), load_file(other)
            assert tensors.keys() == wanted.keys()
            assert max(np.abs(tensors[key] - wanted[key]).max() for key in wanted) < 1e-5
        elif one.name == "card.yaml":
            card, other_card = ({**read_yaml(each), "versions": None} for each in (one, other))
            assert list(card) == list(other_card)
            assert rounded(card) == rounded(other_card)
        else:
            assert one.read_bytes() == other.read_bytes()


def test_both_ways_print_the_same_json(run, monkeypatch, tmp_path):  # noqa: F811
    facts = ("generate", "Sort questions about travel.", "--labels", "flight,hotel", "--out", "made", "--json")
    lean, slow = (json.loads(one.out) for one in both(run, monkeypatch, tmp_path, *facts))
    assert [rounded({**one, "versions": None}) for one in lean] == [rounded({**one, "versions": None}) for one in slow]
    assert set(lean[0]["versions"]) == {"loragen", "numpy"}
    assert set(lean[0]) >= set(GeneratedCard.model_fields)


def test_what_was_written_is_loaded_as_any_other(run, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    assert run("generate", "Sort letters.", "--labels", "bill,advert", "--out", "made").status == 0
    adapter = Adapter.load(tmp_path / "made")
    assert adapter.card is not None
    assert adapter.labels == ("bill", "advert")


SAME = (
    ("generate", ""),
    ("generate", "a\0b"),
    ("generate", "Sort.", "--labels", "one,ONE"),
    ("generate", "Sort letters.", "--seed", str(2**64)),
    ("generate", "Sort letters.", "--out", "."),
    ("generate", "asdf qwrtz", "--out", "made"),
    ("generate", "word " * 400, "--out", "made"),
)


@pytest.mark.parametrize("arguments", SAME)
def test_what_is_not_straight_says_the_same(run, monkeypatch, tmp_path, arguments):  # noqa: F811
    said = []
    for switch in ("1", "0"):
        monkeypatch.setenv(choose.SWITCH, switch)
        (tmp_path / switch).mkdir()
        monkeypatch.chdir(tmp_path / switch)
        said.append((run(*arguments), written(tmp_path / switch)))
    assert said[0] == said[1]


def test_a_damaged_zoo_is_said_by_the_way_with_torch(run, monkeypatch, tmp_path):  # noqa: F811
    (tmp_path / "zoo" / "minilm").mkdir(parents=True)
    monkeypatch.setattr("loragen.lean.zoo.bundled_folder", lambda name: tmp_path / name)
    monkeypatch.setattr("loragen.zoo.zoo.bundled_folder", lambda name: tmp_path / name)
    monkeypatch.chdir(tmp_path)
    status, _, err = run("generate", "Sort letters.")
    assert status == 2
    assert "zoo's manifest is damaged" in err


def test_a_full_disk_is_one_line_and_leaves_what_was_there(run, monkeypatch, tmp_path, way):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    assert run("generate", "Sort letters.", "--out", "made").status == 0
    before = files_of(tmp_path / "made")
    assert "exists already" in run("generate", "Sort letters.", "--out", "made").err

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device", "made")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_bytes", full)
        status, _, err = run("generate", "Sort letters.", "--out", "made", "--force")
    assert (status, err.count("\n")) == (1, 1), way
    assert "No space left on device; nothing was half written." in err
    assert files_of(tmp_path / "made") == before


@pytest.mark.parametrize("spoilt", [lambda data: data[:-40], lambda data: data.replace(b"lora_A", b"lora_C", 1)])
def test_what_does_not_read_back_is_said_so(run, monkeypatch, tmp_path, spoilt):  # noqa: F811
    from loragen.lean import factors

    files = factors.Factors.files
    monkeypatch.setattr(
        factors.Factors, "files", lambda self: {name: spoilt(data) for name, data in files(self).items()}
    )
    status, _, err = run("generate", "Sort letters.", "--out", tmp_path / "made")
    assert status == 2
    assert "does not read back as it was written; check the disk, and generate again." in " ".join(err.split())


def test_the_lean_way_imports_no_torch(tmp_path):
    script = "import sys; from loragen.cli.app import app; app(standalone_mode=False);"
    script += "sys.exit(sorted({'torch', 'transformers', 'scipy', 'faiss', 'pyarrow'} & sys.modules.keys()) or 0)"
    command = [sys.executable, "-c", script, "generate", "Sort letters.", "--labels", "bill,advert", "--out", "made"]
    made = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, "")
    assert (tmp_path / "made" / "adapter_model.safetensors").is_file()
