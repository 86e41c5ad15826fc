"""How a zoo covers a task, from words, from texts and from both; and what its experts' texts look like."""

import shutil

import pytest
import torch
from models import write_tiny_encoder

import loragen
from loragen.conditions.text_encoder import TextEncoder
from loragen.confidence.describe import HELD_OUT, SEEN, describe_zoo
from loragen.confidence.descriptors import DESCRIPTORS, Descriptor, Descriptors, features
from loragen.confidence.novelty import novelty
from loragen.errors import ConfigError, TaskError, ZooError
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import TaskSet
from loragen.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return TextEncoder.load(str(write_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny", seed=1)))


@pytest.fixture(scope="module")
def base(toys):
    return Zoo.open(toys / "zoo").load_base()


@pytest.fixture(scope="module")
def described(toys, base, tmp_path_factory):
    root = tmp_path_factory.mktemp("described") / "zoo"
    shutil.copytree(toys / "zoo", root)
    told = []
    made = describe_zoo(toys / "tasks.yaml", Zoo.open(root), base=base, progress=lambda *step: told.append(step[1:]))
    assert told == [(done, 7) for done in range(8)]
    assert made.file == root / DESCRIPTORS
    assert (made.experts, made.missing) == (Zoo.open(root).ids, ())
    return Zoo.open(root)


def test_a_description_of_an_expert_is_covered_by_it(tiny_zoo, encoder):
    states = []
    for card in tiny_zoo.select(splits={"experts"}):
        made = loragen.novelty(card.description, zoo=tiny_zoo, encoder=encoder)
        assert (made.nearest[0].id, made.knows, made.beside) == (card.id, "description", None)
        assert len(made.nearest) == 3
        states.append(made.state)
    assert states.count("covered") >= 5
    assert "new" not in states


def test_validation_experts_do_not_cover_anything(tiny_zoo, encoder):
    made = novelty(tiny_zoo.card("shop").description, zoo=tiny_zoo.root, encoder=encoder)
    assert "shop" not in [one.id for one in made.nearest]


def test_a_zoo_of_few_families_cannot_tell(tiny_zoo, encoder):
    few = tiny_zoo.select(without={"bank", "card", "cook"})
    with pytest.raises(ZooError, match="fewer than 5 families"):
        novelty("Is it raining?", zoo=few, encoder=encoder)


def test_the_zoo_keeps_what_the_first_texts_look_like(described, toys, base):
    read, task = Descriptors.load(described.root), TaskSet.from_yaml(toys / "tasks.yaml")["cups"]
    assert read.base_hash == described.manifest.base_hash
    examples = task.load_train()
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
    assert len(order) < SEEN + HELD_OUT
    rows = features(examples.subset(order), base, max_length=described.manifest.recipe.max_length)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(100))
    wanted = Descriptor.fit(rows[:80])
    torch.testing.assert_close(read.of["cups"].centre, wanted.centre, atol=1e-3, rtol=0)
    assert read.of["cups"].texts == 80


@pytest.mark.parametrize("rule", ["means", "errors"])
def test_new_texts_of_an_expert_are_nearest_to_it(described, toys, base, rule):
    task = TaskSet.from_yaml(toys / "tasks.yaml")["words"]
    made = novelty(texts=task.load_test(), zoo=described, rule=rule, base=base)
    assert made.knows == "texts"
    assert rule == "errors" or made.nearest[0].id == "words"


def test_texts_of_no_experts_kind_are_new(described, base):
    strange = [f"cold cold {letter} cold cold cold, cold" for letter in "abcdefghijklmnopqrstuvwxyz"]
    for rule in ("means", "errors"):
        assert novelty(texts=strange, zoo=described, rule=rule, base=base).state == "new"


def test_with_both_the_lesser_counts(described, encoder, base):
    card = described.card("weather")
    strange = [f"cold cold {letter} cold cold cold, cold" for letter in "abcdefghijklmnopqrstuvwxyz"]
    both = novelty(card.description, texts=strange, zoo=described, encoder=encoder, base=base)
    words = novelty(card.description, zoo=described, encoder=encoder)
    assert (both.knows, both.state, both.action) == ("texts", "new", "train")
    assert both.beside == words
    assert words.figure >= 0.5


def test_experts_without_a_task_are_named_and_counted(toys, base, tmp_path):
    shutil.copytree(toys / "zoo", tmp_path / "zoo")
    some = TaskSet(tuple(task for task in TaskSet.from_yaml(toys / "tasks.yaml") if task.id != "cups"))
    made = describe_zoo(some, tmp_path / "zoo", base=base)
    assert made.missing == ("cups",)
    texts = some["drinks"].load_test()
    assert novelty(texts=texts, zoo=tmp_path / "zoo", base=base).undescribed == 1
    with pytest.raises(ConfigError, match="exists already"):
        describe_zoo(some, tmp_path / "zoo", base=base)
    before = (tmp_path / "zoo" / DESCRIPTORS).read_bytes()
    describe_zoo(some, tmp_path / "zoo", base=base, force=True)
    assert (tmp_path / "zoo" / DESCRIPTORS).read_bytes() == before


def test_what_cannot_be_told_is_refused(described, tiny_zoo, toys, base, encoder, tmp_path):
    with pytest.raises(TaskError, match="neither a description"):
        novelty(" ", zoo=described)
    with pytest.raises(TaskError, match="at least 20"):
        novelty(texts=["soup"] * 30, zoo=described, base=base)
    with pytest.raises(ConfigError, match="choose one of means, errors"):
        novelty("Soup?", zoo=described, rule="medians")
    with pytest.raises(ZooError, match="loragen zoo describe"):
        novelty(texts=[f"soup {n}" for n in range(30)], zoo=tiny_zoo, base=base)
    with pytest.raises(ZooError, match="has the name of an expert"):
        describe_zoo(TaskSet(()), toys / "zoo", base=base)
    with pytest.raises(TaskError, match="images"):
        features(Examples(("",), images=(tmp_path,)), base, max_length=8)


def test_descriptors_of_another_base_are_refused(described, base, tmp_path):
    shutil.copytree(described.root, tmp_path / "zoo")
    read = Descriptors.load(tmp_path / "zoo")
    Descriptors("other", read.of, read.own, read.left_out).save(tmp_path / "zoo")
    with pytest.raises(ZooError, match="another base"):
        novelty(texts=[f"soup {n}" for n in range(30)], zoo=tmp_path / "zoo", base=base)
