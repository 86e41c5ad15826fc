"""Commands that write to one place at the same time: one at a time does, and the others say who holds it."""

import re
import shutil

import pytest
from kill_cases import cases
from killing import is_hidden, is_long, tree, visible

from loragen.zoo.zoo import Zoo

HELD = re.compile(r"is being written by another process \(number \d+\)|exists already|would replace|which is there")


def check(made, here, *, least=1):
    """Some succeed, the others end in one line, and nothing is left."""
    for one in made:
        assert one["status"] in (0, 2), one["err"]
        if one["status"] == 2:
            assert HELD.search(one["err"]), one["err"]
            assert sum(line.startswith("error:") for line in one["err"].splitlines()) == 1
    assert sum(one["status"] == 0 for one in made) >= least
    assert not [name for name in tree(here) if is_hidden(name) and not name.startswith((".out.swp", ".hidden"))]


@pytest.mark.parametrize("name", ["generate", "generate-force"])
def test_of_eight_generates_into_one_folder_one_wins_or_one_after_the_other(trial, name):
    tried = trial(name)
    here = tried.begin()
    made = tried.server.run_all(here, *[tried.case.argv] * 8)
    check(made, here)
    if name == "generate":
        assert sum(one["status"] == 0 for one in made) == 1
    assert visible(tree(here)) == visible(tried.new), "nothing is mixed"


@pytest.mark.parametrize("name", ["train", *(["build", "evaluate"] if is_long() else [])])
def test_of_two_that_take_long_one_wins(trial, name):
    tried = trial(name)
    here = tried.begin()
    made = tried.server.run_all(here, tried.case.argv, tried.case.argv)
    check(made, here)
    assert visible(tree(here)) == visible(tried.new)


@pytest.mark.parametrize("name", ["import-new", "import-add"])
def test_of_two_imports_into_one_zoo_none_is_lost(server, shop, tmp_path, name):
    for turn in range(10 if is_long() else 2):
        here = tmp_path / str(turn)
        here.mkdir()
        if name == "import-add":
            shutil.copytree(shop / "zoo", here / "out")
        options = ("--max-loss", "1", "--zoo", "out", "--description", "Is it tea?")
        commands = [("zoo", "import", shop / source, *options) for source in ("one", "two")]
        made = server.run_all(here, *commands)
        assert [one["status"] for one in made if one["status"] not in (0, 2)] == []
        there = Zoo.open(here / "out")
        for source, one in zip(("one", "two"), made, strict=True):
            assert (source in there.cards) == (one["status"] == 0), one["err"]
        assert {fault for _, fault in there.check()} == {None}
        for command, one in zip(commands, made, strict=True):
            assert one["status"] == 0 or server.run(here, *command)["status"] == 0, "run again, it comes in"
        assert {"one", "two"} <= set(Zoo.open(here / "out").ids)


def test_a_lock_of_a_process_that_is_gone_is_broken(trial):
    tried = trial("generate")
    here = tried.begin()
    (here / ".out.lock").write_text("999999")
    assert tried.run(here)["status"] == 0
    assert visible(tree(here)) == visible(tried.new)
    tried.check_clean(tree(here))


def test_all_commands_are_tried(shop):
    from test_disk_faults import MORE
    from test_disk_faults import QUICK as FAILED
    from test_kills import QUICK, SLOW

    names = {case.name for case in cases(shop)}
    assert names == {*QUICK, *SLOW}
    assert {*FAILED, *MORE} <= names
