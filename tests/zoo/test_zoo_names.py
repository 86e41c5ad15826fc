"""Zoos by name: those that are bundled, and those that a package of their own brings."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from loragen import bundled
from loragen.errors import ZooError
from loragen.zoo.zoo import Zoo, default_zoo


def test_a_bundled_zoo_is_opened_by_its_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Zoo.open(Path("minilm")).root == default_zoo()


def test_a_package_brings_a_zoo(tmp_path, monkeypatch) -> None:
    module = tmp_path / "brought_zoo.py"
    module.write_text(f"FOLDER = {str(default_zoo())!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint(name="brought", value="brought_zoo:FOLDER", group=bundled.ZOOS)
    monkeypatch.setattr(bundled, "entry_points", lambda group: [entry] if group == bundled.ZOOS else [])
    monkeypatch.chdir(tmp_path)
    assert Zoo.open(Path("brought")).root == default_zoo()


def test_a_folder_comes_before_a_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()
    (tmp_path / "minilm" / "zoo.yaml").write_text("name: mine\n")
    with pytest.raises(ZooError, match="manifest is damaged"):
        Zoo.open(Path("minilm"))


def test_a_name_that_nobody_knows_is_told_those_there_are(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZooError, match=r"no zoo in minilmm .*known: .*minilm"):
        Zoo.open(Path("minilmm"))
