"""A server goes on while experts come to its zoo and go."""

from shutil import copytree, ignore_patterns

import pytest

from loragen.errors import ConfigError
from loragen.exporters.card import GeneratedCard
from loragen.zoo.card import CARD, ZOO_MANIFEST
from loragen.zoo.insert_expert import insert_expert
from loragen.zoo.remove import remove_expert
from loragen.zoo.zoo import default_zoo

pytest.importorskip("fastapi")


@pytest.fixture
def service(tmp_path):
    """Over a copy of the bundled zoo."""
    from loragen.serving.service import Service
    from loragen.serving.settings import ServeSettings

    root = copytree(default_zoo(), tmp_path / "zoo", ignore=ignore_patterns("folds", "rivals", "generators"))
    service = Service.open(ServeSettings(adapters=tmp_path / "adapters", zoo=str(root), generator="topk"))
    yield service
    service.close()


def drawn_on(service) -> set[str]:
    from loragen.serving.schemas import NewAdapter

    (name,) = service.generate(NewAdapter(description="Is it tea or soup?"))
    return {parent.id for parent in GeneratedCard.from_yaml(service.store.folders.root / name / CARD).parents}


def test_it_draws_on_what_its_zoo_holds_when_it_is_asked(service) -> None:
    zoo, first = service.zoo, service.pipeline("topk")
    assert service.pipeline("topk") is first
    (gone, *_) = drawn_on(service)
    card, adapter = zoo.card(gone), zoo.adapter(gone)
    remove_expert(gone, zoo)
    assert gone not in drawn_on(service)
    assert gone not in service.zoo.cards
    assert service.pipeline("mean").experts.zoo.ids == tuple(name for name in zoo.drawn_on.ids if name != gone)
    insert_expert(service.zoo, card, adapter)
    assert gone in drawn_on(service)
    assert service.zoo.ids == zoo.ids


def test_a_zoo_that_cannot_be_read_just_now_is_served_as_it_was(service) -> None:
    zoo, before = service.zoo, drawn_on(service)
    name = next(name for name in zoo.drawn_on.ids if name not in before)
    remove_expert(name, zoo)
    manifest = (zoo.root / ZOO_MANIFEST).read_text()
    (zoo.root / ZOO_MANIFEST).write_text("[")
    assert service.pipeline("topk").experts.zoo.ids == zoo.drawn_on.ids
    assert drawn_on(service) == before
    (zoo.root / ZOO_MANIFEST).write_text(manifest)
    assert name not in service.pipeline("topk").experts.zoo.ids
    with pytest.raises(ConfigError, match="no generator 'sg'"):
        service.pipeline("sg")
