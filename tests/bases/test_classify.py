import math

import pytest
import torch
from models import write_tiny_encoder

from loragen.adapters.adapter import Lora
from loragen.bases.classify import classify_texts
from loragen.bases.text_encoder import LabelTextEncoder

TEXTS, LABELS = ("warm soup", "tea", "cold bread"), ("soup", "tea", "bread")
SITE = "encoder.layer.0.attention.self.value"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return LabelTextEncoder.load(str(write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny", seed=1)))


def adapter():
    rng = torch.Generator().manual_seed(0)
    factors = {SITE: torch.randn(2, 16, generator=rng)}, {SITE: torch.randn(16, 2, generator=rng)}
    return Lora.from_factors(*factors, base_model_name_or_path=None)


def cosines(base, lora):
    with base.adapted(lora):
        texts, labels = (base.encode(base.tokenize(some, max_length=64)) for some in (TEXTS, LABELS))
    return texts.double() @ labels.double().T


@pytest.mark.parametrize("lora", [None, adapter()], ids=["bare", "adapted"])
def test_a_text_gets_the_label_of_the_nearest_text_with_the_softmax_as_its_probability(base, lora):
    predictions = classify_texts(base, lora, TEXTS, LABELS)
    for row, prediction in zip(cosines(base, lora).tolist(), predictions, strict=True):
        total = sum(math.exp(20 * cosine) for cosine in row)
        wanted = {label: math.exp(20 * cosine) / total for label, cosine in zip(LABELS, row, strict=True)}
        assert prediction.by_label == pytest.approx(wanted, abs=1e-4)
        assert prediction.label == max(wanted, key=wanted.get)
        assert prediction.probability == pytest.approx(max(wanted.values()), abs=1e-5)


def test_the_order_of_the_labels_does_not_matter(base):
    one, other = (classify_texts(base, None, TEXTS, labels) for labels in (LABELS, LABELS[::-1]))
    assert [prediction.label for prediction in one] == [prediction.label for prediction in other]
    assert [prediction.by_label == pytest.approx(one[i].by_label) for i, prediction in enumerate(other)] == [True] * 3


def test_an_adapter_changes_the_probabilities(base):
    bare, adapted = (classify_texts(base, lora, TEXTS, LABELS) for lora in (None, adapter()))
    assert all(abs(one.probability - other.probability) > 1e-3 for one, other in zip(bare, adapted, strict=True))
