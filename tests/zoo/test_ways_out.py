"""Names that are paths, and links: nothing is written or read outside of a zoo."""

import shutil

import pytest
import yaml

from loragen.errors import ConfigError, ZooError
from loragen.generators.registry import generator_folder
from loragen.tasks.task_set import TaskSet
from loragen.zoo.zoo import Zoo

NAMES = ["../x", "/x", "..", ".", "a/b", "a\\b", "", ".x", "x\n", "x\0"]


@pytest.fixture
def zoo(tiny_zoo, tmp_path):
    shutil.copytree(tiny_zoo.root, tmp_path / "home" / "zoo")
    return tmp_path / "home" / "zoo"


@pytest.mark.parametrize("name", NAMES)
def test_a_task_that_is_named_by_a_path_is_refused(tmp_path, name):
    task = {"id": name, "description": "Sort mail.", "labels": ["a", "b"], "source": {"train": "a.csv"}}
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"root": ".", "tasks": [task]}))
    with pytest.raises(ConfigError, match="id"):
        TaskSet.from_yaml(tmp_path / "tasks.yaml")


@pytest.mark.parametrize("name", ["../../etc", "/etc", "other"])
def test_a_card_that_names_another_folder_is_refused(zoo, name):
    card = zoo / "experts" / "rain" / "card.yaml"
    card.write_text(yaml.safe_dump(yaml.safe_load(card.read_text()) | {"id": name}))
    with pytest.raises(ZooError, match=r"holds the card of|does not fit Card"):
        Zoo.open(zoo)


@pytest.mark.parametrize("name", ["experts", "experts/rain"])
def test_a_folder_of_experts_that_is_a_link_out_of_the_zoo_is_refused(zoo, tmp_path, name):
    shutil.move(zoo / name, tmp_path / "elsewhere")
    (zoo / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ZooError, match="is a link out of the zoo"):
        Zoo.open(zoo)


def test_a_link_within_the_zoo_is_followed(zoo):
    (zoo / "experts" / "rain").rename(zoo / "rain-2")
    (zoo / "experts" / "rain").symlink_to(zoo / "rain-2")
    assert "rain" in Zoo.open(zoo).ids


@pytest.mark.parametrize("name", ["../../outside", "..", "../generators/sg", "."])
def test_a_name_of_a_generator_does_not_lead_out_of_the_zoo(zoo, tmp_path, monkeypatch, name):
    for folder in (tmp_path / "home" / "outside", zoo, zoo / "generators", zoo / "generators" / "sg"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "generator.yaml").write_text("kind: sg\n")
    monkeypatch.chdir(tmp_path / "home" / "outside")
    (tmp_path / "home" / "outside" / "generator.yaml").unlink()
    opened = Zoo.open(zoo)
    assert generator_folder("sg", opened) == zoo / "generators" / "sg"
    assert generator_folder(name, opened) is None


@pytest.mark.parametrize("expert", ["../experts/rain", "/etc/passwd", "rain/", "./rain", "rain\0"])
def test_an_expert_is_known_by_its_id_alone(zoo, expert):
    with pytest.raises(ZooError, match="has no expert"):
        Zoo.open(zoo).folder(expert)
