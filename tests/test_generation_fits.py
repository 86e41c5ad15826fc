"""Fits as the library is called for them: chosen by cross-validation, and begun at the best of several samples."""

import pytest
import torch

import loragen
from loragen.errors import ConfigError, GeneratorError
from loragen.exporters.card import GeneratedCard
from loragen.generation import Pipeline
from loragen.generators.base import Generation
from loragen.recipes.few_shot import FewShotRecipe
from loragen.recipes.few_shot_fits import CROSS_VALIDATING, losses_on
from loragen.tasks.examples import Examples
from loragen.zoo.zoo import Zoo

TASK = "Is it bread or cold?"
DRAWN = ("drinks", "meals", "weather")


@pytest.fixture
def ask(toys):
    return {"zoo": toys / "zoo", "encoder": str(toys / "base"), "generator": "topk"}


@pytest.fixture
def examples(toys):
    train = Examples.from_file(toys / "data" / "plates.train.jsonl")
    return train.few(8, rng=torch.Generator().manual_seed(0))


@pytest.fixture
def random_generator(toys, monkeypatch):
    """topk, as if it drew at random: one expert after the other."""
    zoo = Zoo.open(toys / "zoo")
    generator = type(Pipeline.open("topk", zoo, str(toys / "base")).generator)
    monkeypatch.setattr(generator, "is_stochastic", True)

    def draw(_self, _condition, *, rng, num_samples=1):
        return [Generation(zoo.adapter(name), ()) for name in DRAWN[:num_samples]]

    monkeypatch.setattr(generator, "generate", draw)
    return zoo


def test_eight_of_a_class_are_cross_validated_and_the_card_says_what_came_of_it(ask, examples, tmp_path):
    told = []
    made = loragen.generate(TASK, examples=examples, fit=True, progress=lambda *step: told.append(step), **ask)
    choice = made.card.choice
    assert made.card.fitted == FewShotRecipe()
    assert (CROSS_VALIDATING, 90, 90) in told
    assert choice.chosen in choice.trials
    made.save(tmp_path / "made")
    assert GeneratedCard.from_yaml(tmp_path / "made" / "card.yaml") == made.card
    assert "as cross-validation within them chose" in (tmp_path / "made" / "README.md").read_text()


def test_the_fit_begins_at_the_best_of_those_drawn(ask, examples, random_generator):
    base = random_generator.load_base()
    losses = losses_on([random_generator.adapter(name) for name in DRAWN], base.prepare(examples, max_length=64), base)
    best = losses.index(min(losses))
    assert best != 0
    made = loragen.generate(TASK, examples=examples, fit=True, best_of=3, **ask)
    assert (made.card.sample, made.card.best_of) == (best, 3)
    two = loragen.generate_samples(TASK, examples=examples, fit=True, best_of=3, samples=2, **ask)
    assert [one.card.sample for one in two] == sorted(range(3), key=losses.__getitem__)[:2]
    first = loragen.generate(TASK, examples=examples, fit=True, **ask)
    assert (first.card.sample, first.card.best_of) == (0, None)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"fit": False}, ConfigError, "best on labelled examples; add --fit"),
        ({"best_of": 0}, ConfigError, "best 1 of 0 adapters"),
        ({"best_of": 10_001}, ConfigError, "draw 1 to 10,000"),
        ({}, GeneratorError, "'topk' draws nothing at random"),
    ],
)
def test_what_has_no_best_is_refused(ask, examples, changes, error, said):
    with pytest.raises(error, match=said):
        loragen.generate(**({"description": TASK, "examples": examples, "fit": True, "best_of": 3} | ask | changes))


def test_rows_are_clipped_where_it_is_asked_for_and_the_card_says_so(ask, toys):
    train = Examples.from_file(toys / "data" / "plates.train.jsonl")
    few = train.few(3, rng=torch.Generator().manual_seed(0))
    begun, clipped = (
        loragen.generate(TASK, examples=few if fit else None, fit=fit, clip_rows=1.0 if fit else None, **ask)
        for fit in (False, True)
    )
    assert clipped.card.fitted == FewShotRecipe(clip_rows=1.0)
    for site in begun.lora.sites:
        limit = float(begun.lora.delta_weight(site).norm(dim=1).mean())
        assert float(clipped.lora.delta_weight(site).norm(dim=1).max()) <= 1.01 * limit
