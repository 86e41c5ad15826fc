"""Attacks: small inputs that broke something, here or elsewhere, and what each must give, in time and in one line.

The files under ``attacks`` list them. An attack changes what `SOUND` writes, runs a command there, and names the status
(or those that will do) and, where it matters, what the output must hold, what it must not, and what must not be there.
"""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
import yaml
from command_line import run, write_adapter  # noqa: F401 - a fixture
from fuzz.harness import bounded
from fuzz.zoos import OLD
from models import write_tiny_encoder
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parent / "attacks"
ATTACKS = [
    attack for file in sorted(FOLDER.glob("*.yaml")) for attack in yaml.safe_load(file.read_text(encoding="utf-8"))
]
KEYS = {
    "name",
    "run",
    "status",
    "says",
    "lacks",
    "config",
    "files",
    "remove",
    "replace",
    "keys",
    "dtype",
    "absent",
    "links",
    "move",
}
SECONDS = 2.0
LONGEST = 1_000
"""Characters of an error."""
CODE = "from pathlib import Path\nPath('ran').touch()\n"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """What attacks start from: a base, an adapter of it, the zoo of an older version, tables and configs; all sound."""
    folder = tmp_path_factory.mktemp("sound")
    write_tiny_encoder(folder / "base")
    write_adapter(folder / "adapter", "base")
    shutil.copytree(OLD / "zoo", folder / "zoo")
    rows = [{"text": f"text {i}", "label": ("yes", "no")[i % 2]} for i in range(20)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {"id": "a", "description": "Yes or no?", "labels": ["yes", "no"]}
    tasks = [{**task, "source": {"train": "texts.jsonl", "test": "texts.jsonl"}}]
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    settings = {"name": "mine", "out": "mine", "base": "base", "tasks": "tasks.yaml", "workers": 1}
    (folder / "zoo.yaml").write_text(yaml.safe_dump(settings))
    training = {"generator": "sg", "zoo": "zoo", "encoder": "base", "out": "sg", "epochs": 1, "steps_per_epoch": 1}
    (folder / "train.yaml").write_text(yaml.safe_dump(training))
    return folder


@pytest.fixture
def here(sound, tmp_path):
    """A copy of it, in which the command runs."""
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack["name"] for attack in ATTACKS])
def test_attack(attack, run, here):  # noqa: F811
    assert attack.keys() <= KEYS
    _warm_up(run, here)
    prepare(here, attack)
    before = {path for path in here.parent.iterdir()}
    with bounded(SECONDS):
        status, out, err = run(*map(built, attack["run"]))
    wanted = attack.get("status", 2)
    is_wanted = status in (wanted if isinstance(wanted, list) else [wanted])
    assert is_wanted, f"status {status}: {out[-500:]}{err[-500:]}"
    if status:
        told = (err.partition("error: ")[2] or err).strip()
        assert len(told) <= LONGEST, f"an error of {len(told)} characters"
        assert [line.startswith("error:") or "─ Error ─" in line for line in err.splitlines()].count(True) == 1
    strange = {letter for letter in out + err if unicodedata.category(letter) in ("Cc", "Cs")} - {"\n"}
    assert not strange, "control characters on the screen"
    said = " ".join((out + err).split())
    missing = [text for text in _listed(attack, "says") if text not in said]
    assert not missing, f"{missing} not in {said[:500]}"
    assert not [text for text in _listed(attack, "lacks") if text in said]
    for name in _listed(attack, "absent"):
        assert not (here / name).exists()
    assert {path for path in here.parent.iterdir()} == before, "something was written beside the folder"
    assert not list(here.rglob(".*.????????.partial"))
    assert not (here / "ran").exists(), "code was run"


_WARM: set[str] = set()


def _warm_up(run, folder):  # noqa: F811
    """Import what commands need, which takes seconds once."""
    if not _WARM:
        _WARM.add("done")
        there = set(folder.iterdir())
        run("classify", "adapter", "a text", "--labels", "a,b")
        run("check", "adapter")
        run("zoo", "build", "zoo.yaml", "--plan")
        run("zoo", "import", "adapter", "--zoo", "warm-zoo", "--description", "Is it?")
        run("evaluate", "adapter", "--data", "texts.jsonl", "--zoo", "zoo", "--encoder", "base")
        run("merge", "adapter", "--out", "warm-model")
        run("train", "train.yaml", "--set", "out=warm-sg")
        run("generate", "Is it?", "--zoo", "zoo", "--encoder", "base", "--generator", "topk", "--out", "warm")
        for path in set(folder.iterdir()) - there:
            shutil.rmtree(path)


def prepare(folder, attack):
    """Change what is sound as an attack says."""
    if "config" in attack:
        path = folder / "adapter" / "adapter_config.json"
        changes = {key: built(value) for key, value in attack["config"].items()}
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if "keys" in attack or "dtype" in attack:
        _change_weights(folder / "adapter" / "adapter_model.safetensors", attack)
    for name in attack.get("remove", ()):
        (folder / name).unlink()
    for name, content in attack.get("files", {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = built(content)
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", errors="surrogatepass"))
    for name, (old, new) in attack.get("replace", {}).items():
        path = folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, built(new)))
    if "move" in attack:
        (folder / attack["move"][1]).parent.mkdir()
        (folder / attack["move"][0]).rename(folder / attack["move"][1])
    for name, target in attack.get("links", {}).items():
        (folder / name).symlink_to(target)


def _change_weights(path, attack):
    """Give tensors other keys, by pairs of texts, or another dtype."""
    import torch

    tensors = load_file(path)
    for old, new in attack.get("keys", {}).items():
        tensors = {key.replace(old, new): tensor for key, tensor in tensors.items()}
    dtype = getattr(torch, attack.get("dtype", "float32"))
    save_file({key: tensor.to(dtype) for key, tensor in tensors.items()}, path)


def built(value):
    """A value of an attack: as it stands, or built where it would be long.

    ``{repeat, times}`` is a text many times over, with ``{n}`` for the number of each; ``{join}`` puts values together;
    ``{header}`` is a safetensors file with this header, and ``{length}`` what it says of the header's length.
    """
    match value:
        case {"repeat": text, "times": times}:
            return "".join(text.replace("{n}", str(number)) for number in range(times))
        case {"join": parts}:
            return "".join(map(built, parts))
        case {"header": header, **more}:
            data = built(header).encode()
            return more.get("length", len(data)).to_bytes(8, "little") + data + bytes(more.get("zeros", 0))
    return value


def _listed(attack, key):
    found = attack.get(key, [])
    return found if isinstance(found, list) else [found]
