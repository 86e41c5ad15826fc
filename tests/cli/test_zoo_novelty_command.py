import json
import shutil

import command_line
from command_line import widest

run = command_line.run


def test_a_task_is_placed_by_its_words(run, tiny_zoo):
    text = tiny_zoo.card("rain").description
    made = json.loads(run("zoo", "novelty", text, "--zoo", tiny_zoo.root, "--json").out)
    assert (made["state"], made["action"], made["nearest"][0]["id"]) == ("covered", "reuse", "rain")
    shown = run("zoo", "novelty", text, "--zoo", tiny_zoo.root)
    assert shown.status == 0
    assert "Reuse the expert rain." in shown.words
    assert widest(shown.out) <= 80


def test_texts_are_compared_once_the_zoo_knows_its_own(run, toys, tmp_path):
    shutil.copytree(toys / "zoo", tmp_path / "zoo")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"cold, {letter} cold cold" for letter in "abcdefghijklmnopqrstuvwxyz"))
    ask = ("zoo", "novelty", "", "--texts", texts, "--zoo", "zoo")
    refused = run(*ask)
    assert (refused.status, "loragen zoo describe" in refused.err) == (2, True)
    told = run("zoo", "describe", toys / "tasks.yaml", "--zoo", "zoo")
    assert (told.status, "the texts of 7 experts" in told.words) == (0, True)
    again = run("zoo", "describe", toys / "tasks.yaml", "--zoo", "zoo")
    assert (again.status, "--force" in again.err) == (2, True)
    assert (
        json.loads(run("zoo", "describe", toys / "tasks.yaml", "--zoo", "zoo", "--force", "--json").out)["missing"]
        == []
    )
    made = json.loads(run(*ask, "--json").out)
    assert (made["knows"], made["state"], made["beside"]) == ("texts", "new", None)
    both = run("zoo", "novelty", "Is it soup or tea?", *ask[3:])
    assert "By description" in both.out
    assert "By texts" in both.out
    assert "alone would say" in both.words
    assert widest(both.out) <= 80
    assert run(*ask, "--rule", "medians").status == 2


def test_without_words_and_texts_there_is_nothing_to_say(run, tiny_zoo):
    refused = run("zoo", "novelty", "", "--zoo", tiny_zoo.root)
    assert (refused.status, "neither a description" in refused.err) == (2, True)
