"""An expert is trained for a task that is new to a zoo, and for no other."""

import pytest
from builds import changed

from loragen.confidence import adding
from loragen.confidence.adding import add_if_new
from loragen.confidence.coverage import Coverage, NearExpert
from loragen.zoo.build import build_zoo
from loragen.zoo.zoo import Zoo

pytest_plugins = ("build_fixtures",)


@pytest.fixture
def zoo(zoo_config, tmp_path) -> Zoo:
    build_zoo(changed(zoo_config, out=tmp_path / "zoo", workers=1, only=("drinks", "weather")))
    return Zoo.open(tmp_path / "zoo")


def standing(state, figure):
    near = NearExpert(id="drinks", value=0.5)
    return Coverage(state=state, figure=figure, knows="description", nearest=(near,))


@pytest.mark.parametrize(
    ("state", "figure", "is_added"), [("new", 0.2, True), ("near", 0.7, False), ("covered", 0.95, False)]
)
def test_only_what_is_new_is_trained(state, figure, is_added, zoo, word_tasks, monkeypatch):
    asked = []

    def placed(description, **options):
        asked.append((description, options["texts"]))
        return standing(state, figure)

    monkeypatch.setattr(adding, "novelty", placed)
    before = {path: path.read_bytes() for path in zoo.root.rglob("*") if path.is_file()}
    monkeypatch.setattr(adding.TextEncoder, "load", lambda *_: None)
    coverage, added = add_if_new("meals", zoo, word_tasks / "tasks.yaml", score=False)
    assert coverage.state == state
    assert asked[0][0]
    assert asked[0][1] is None, "the zoo has no descriptors, so texts are not looked at"
    assert (added is not None) == is_added
    assert ("meals" in Zoo.open(zoo.root).cards) == is_added
    if not is_added:
        assert {path: path.read_bytes() for path in zoo.root.rglob("*") if path.is_file()} == before


def test_texts_are_looked_at_where_the_zoo_knows_its_own(zoo, word_tasks, monkeypatch):
    asked = []

    def placed(_description, **options):
        asked.append(options["texts"])
        return standing("near", 0.6)

    monkeypatch.setattr(adding, "novelty", placed)
    monkeypatch.setattr(adding.TextEncoder, "load", lambda *_: None)
    (zoo.root / adding.DESCRIPTORS).write_bytes(b"")
    monkeypatch.setattr(adding, "MOST_TEXTS", 7)
    add_if_new("meals", zoo, word_tasks / "tasks.yaml")
    assert len(asked[0]) == 7
