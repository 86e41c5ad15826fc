import json
import shutil

import command_line
import pytest
from command_line import widest, write_adapter

run = command_line.run


@pytest.fixture
def copy(tiny_zoo, tmp_path):
    shutil.copytree(tiny_zoo.root, tmp_path / "copy")
    return tmp_path / "copy"


def test_zoo_list_and_show(run, tiny_zoo) -> None:
    everything = json.loads(run("zoo", "list", "--zoo", tiny_zoo.root, "--json").out)
    assert [card["id"] for card in everything] == list(tiny_zoo.ids)
    for spelling in ("--licence", "--license"):
        free = json.loads(run("zoo", "list", "--zoo", tiny_zoo.root, spelling, "mit", "--json").out)
        assert {card["licence"] for card in free} == {"MIT"}
    (spare,) = json.loads(run("zoo", "list", "--zoo", tiny_zoo.root, "--split", "validation", "--json").out)
    assert spare["id"] == "shop"
    shown = run("zoo", "list", "--zoo", tiny_zoo.root).out
    assert "tiny: 8 experts" in shown
    assert "0.500→0.500" in shown
    assert "Sort requests about credit cards." in run("zoo", "show", "card", "--zoo", tiny_zoo.root).out
    assert json.loads(run("zoo", "show", "card", "--zoo", tiny_zoo.root, "--json").out)["id"] == "card"
    unknown = run("zoo", "show", "cart", "--zoo", tiny_zoo.root)
    assert unknown.status == 2
    assert "did you mean 'card'" in unknown.err


def test_zoo_search_finds_the_task_that_is_asked_for(run, tiny_zoo) -> None:
    text = tiny_zoo.card("rain").description
    ask = ("zoo", "search", text, "--zoo", tiny_zoo.root)
    hits = json.loads(run(*ask, "--top-k", 3, "--json").out)
    assert [len(hits), hits[0]["id"]] == [3, "rain"]
    assert hits[0]["similarity"] > 0.9
    found = {card["id"] for card in json.loads(run(*ask, "--top-k", 99, "--json").out)}
    assert found == set(tiny_zoo.ids) - {"shop"}, "generators do not draw on experts for validation"
    assert len(json.loads(run(*ask, "--top-k", 99, "--all", "--json").out)) == 8


def test_experts_with_brackets_are_shown_whole(run, copy) -> None:
    (copy / "experts" / "card").rename(copy / "experts" / "card[v1]")
    card = copy / "experts" / "card[v1]" / "card.yaml"
    card.write_text(
        card.read_text().replace("id: card", "id: card[v1]").replace("Sort requests about", "Sort [/b] about")
    )
    assert "card[v1] " in run("zoo", "list", "--zoo", copy).out
    shown = run("zoo", "search", "Sort credit cards.", "--zoo", copy, "--top-k", 7)
    assert shown.status == 0
    assert "Sort [/b] about credit cards." in shown.words
    assert "card[v1] " in shown.out
    assert "id: card[v1]\n" in run("zoo", "show", "card[v1]", "--zoo", copy).out


def test_tables_of_the_bundled_zoo_are_80_columns_wide_and_name_every_expert(run) -> None:
    from loragen import Zoo

    listed, ids = run("zoo", "list"), Zoo.open().ids
    assert widest(listed.out) <= 80
    assert set(ids) <= {line.partition(" ")[0] for line in listed.out.splitlines()}
    found = run("zoo", "search", "What is the hotel guest's complaint about?", "--top-k", 101)
    assert widest(found.out) <= 80
    drawn_on = {card["id"] for card in json.loads(run("zoo", "list", "--split", "experts", "--json").out)}
    assert drawn_on <= {line.partition(" ")[0] for line in found.out.splitlines()}


def test_zoo_check_names_the_damaged_expert(run, tiny_zoo, copy) -> None:
    whole = run("zoo", "check", "--zoo", tiny_zoo.root)
    assert (whole.status, whole.out) == (0, "✓ 8 experts, all whole\n")
    weights = copy / "experts" / "news" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    result = run("zoo", "check", "--zoo", copy)
    assert result.status == 2
    assert "error: news: " in result.err
    assert "bank" not in result.err
    assert list(json.loads(run("zoo", "check", "--zoo", copy, "--json").out)["faults"]) == ["news"]


def test_zoo_check_speaks_of_folds_too(run, tiny_zoo, copy) -> None:
    from loragen.zoo.folds import FOLDS, Fold, FoldPlan, write_fold

    write_fold(copy / FOLDS / "0", Fold(FoldPlan(far=("bank",), near=()), tiny_zoo.adapter("bank")))
    assert "8 experts and 1 folds, all whole" in run("zoo", "check", "--zoo", copy).out
    facts = {"experts": 8, "folds": 1, "faults": {}, "generators": []}
    assert json.loads(run("zoo", "check", "--zoo", copy, "--json").out) == facts


def test_zoo_build_shows_its_plan_every_stage_and_the_experts(run, tiny_zoo, tmp_path, monkeypatch) -> None:
    import loragen

    class Plan:
        def lines(self):
            return ["2 experts [of 3]"]

    def build_zoo(config, overrides, *, progress, on_plan, only_plan):
        assert (config.name, list(overrides)) == ("zoo.yaml", ["name=x"])
        if on_plan is not None:
            on_plan(Plan())
        if only_plan:
            return None
        progress("experts", 3, 3)
        return tiny_zoo

    monkeypatch.setattr(loragen, "build_zoo", build_zoo, raising=False)
    ask = ("zoo", "build", "zoo.yaml", "--set", "name=x")
    plan = run(*ask, "--plan")
    assert (plan.status, plan.out) == (0, "2 experts [of 3]\n")
    built = run(*ask)
    assert built.out.startswith("2 experts [of 3]\ntiny: 8 experts")
    assert built.err == "experts: 3 of 3\n"
    assert len(json.loads(run(*ask, "--json").out)) == 8


def test_zoo_import_shows_what_came_in_and_what_was_not_checked(run, tmp_path) -> None:
    sources = [write_adapter(tmp_path / name, "org/[none]", seed=seed) for seed, name in enumerate(("one[v1]", "two"))]
    told = ("--description", "Is it [a/b]?", "--description", "Is it tea?", "--id", "one", "--id", "two")
    result = run("zoo", "import", *sources, "--zoo", "new", *told)
    assert result.status == 0, result.err
    assert " at 4 sites of org/[none] expert " in result.words
    assert "Is it [a/b]?" in result.out
    assert "! The config of org/[none] is not at hand: sites and shapes were compared with one another" in result.out
    assert widest(result.out.partition("!")[0]) <= 80
    few = run("zoo", "import", *sources, "--zoo", "new", "--id", "one")
    assert few.status == 2
    assert "--id was given 1 times for 2 adapters" in few.err


def test_zoo_init_names_its_files_and_what_comes_next(run, tmp_path) -> None:
    table = tmp_path / "tasks.csv"
    (tmp_path / "drinks.csv").write_text("text,label\n" + "warm,tea\ncold,soup\n" * 20)
    table.write_text("id,description,labels,train,test\ndrinks,Tea or soup?,tea|soup,drinks.csv,drinks.csv\n")
    result = run("zoo", "init", table, "--out", "own")
    assert result.status == 0, result.err
    for file in ("zoo.yaml", "train-sg.yaml"):
        assert f"✓ own/{file}\n" in result.out
        assert (tmp_path / "own" / file).is_file()
    assert "Next:  loragen zoo build own/zoo.yaml\n       loragen train own/train-sg.yaml\n" in result.out
