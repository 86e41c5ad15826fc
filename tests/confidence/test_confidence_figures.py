"""Figures that need no labels, on readings that were made up by hand."""

import pytest
import torch

from loragen.adaptation.pseudo_labels import PseudoLabels
from loragen.adapters.products import cosine
from loragen.bases.tokenised import Readout
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.confidence.figures import of_description, of_labels, of_texts
from loragen.generation import Pipeline
from loragen.zoo.zoo import Zoo


def reading(*rows):
    logits = torch.tensor(rows)
    return Readout(torch.eye(len(rows)), logits, torch.zeros(len(rows)))


SURE, UNSURE = (
    reading([9.0, 0.0], [0.0, 9.0], [9.0, 0.0], [0.0, 9.0]),
    reading([0.1, 0.0], [0.1, 0.0], [0.1, 0.0], [0.0, 0.1]),
)


def test_sure_and_even_predictions_hold_all_information_and_unsure_ones_none():
    guess = PseudoLabels(SURE.logits.softmax(1), SURE.logits.argmax(1))
    found = of_texts(UNSURE, SURE, guess)
    assert found["confidence"] == pytest.approx(1, abs=1e-3)
    assert found["information"] == pytest.approx(1, abs=1e-2)
    assert found["evenness"] == pytest.approx(1)
    assert found["base: confidence"] < 0.06
    assert found["base: information"] < 0.01
    assert found["base: evenness"] == pytest.approx(0.811, abs=1e-3)
    assert found["agrees with base"] == 0.75
    assert found["agrees with clusters"] == 1


def test_one_class_for_all_is_no_information_however_sure():
    one = reading([9.0, 0.0], [9.0, 0.0])
    found = of_texts(one, one, PseudoLabels(one.logits.softmax(1), one.logits.argmax(1)))
    assert found["information"] == pytest.approx(0, abs=1e-3)
    assert found["evenness"] == 0


def test_figures_of_a_description_are_those_of_its_adapter(toys):
    zoo, encoder = Zoo.open(toys / "zoo"), TextEncoder.load(str(toys / "base"))
    own, merge = (
        Pipeline.open(name, zoo, encoder).generate(Evidence("Is it bread?"))[0] for name in ("nearest", "topk")
    )
    shared = zoo.adapter("drinks")
    found = of_description(own.adapter, own.neighbours, merge=merge.adapter, shared=shared)
    assert found["nearest expert"] == pytest.approx(own.neighbours[0].similarity)
    assert found["norm"] == pytest.approx(own.adapter.norm())
    assert found["agrees with the merge"] == pytest.approx(cosine(own.adapter, merge.adapter, centre=shared))
    assert found["beyond the shared adapter"] >= 0


def test_like_labels_are_alike(toys):
    encoder = TextEncoder.load(str(toys / "base"))
    same = of_labels(["bread", "bread"], "bread", encoder)
    assert same["likeness of labels"] == pytest.approx(1, abs=1e-4)
    assert same["labels and description"] == pytest.approx(1, abs=1e-4)
    other = of_labels(["bread", "cold", "soup"], "bread", encoder)
    assert other["likest labels"] < 1
    assert other["labels"] == pytest.approx(1.0986, abs=1e-3)
