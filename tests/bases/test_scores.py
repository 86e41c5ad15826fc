import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from models import write_tiny_encoder

from loragen.adapters.adapter import Lora
from loragen.bases.losses import LOGIT_SCALE
from loragen.bases.scores import accuracy, knn_predictions, macro_f1, scores_of
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.bases.tokenised import Readout, TaskData


def on_circle(*degrees):
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def random_units(n, seed, d=3):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


# --- nearest neighbours ---------------------------------------------------------------------------------------------


def naive_knn(texts, targets, k):
    """The vote as one would count it by hand; also the smallest gap that decided anything."""
    predictions, gaps = [], []
    for i in range(len(texts)):
        others = [(float(texts[i].double() @ texts[j].double()), targets[j]) for j in range(len(texts)) if j != i]
        others.sort(reverse=True)
        gaps += [a[0] - b[0] for a, b in pairwise(others)]
        votes, closeness = {}, {}
        for cosine, target in others[:k]:
            votes[target] = votes.get(target, 0) + 1
            closeness[target] = closeness.get(target, 0) + cosine
        leaders = sorted((closeness[target] for target in votes if votes[target] == max(votes.values())), reverse=True)
        gaps += [leaders[0] - leaders[1]] if len(leaders) > 1 else []
        predictions.append(max(votes, key=lambda target: (votes[target], closeness[target])))
    return predictions, min(gaps, default=1.0)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(1, 14), st.integers(0, 2**31))
def test_the_vote_is_that_of_a_naive_count(targets, k, seed):
    texts = random_units(len(targets), seed)
    wanted, gap = naive_knn(texts, targets, k)
    assume(gap > 1e-5)
    assert knn_predictions(texts, torch.tensor(targets), k=k).tolist() == wanted


@pytest.mark.parametrize(
    ("zero", "one", "winner"), [((10, 50), (20, 60), 0), ((20, 60), (10, 50), 1), ((10, 100), (60, 20), 1)]
)
def test_equal_votes_go_to_the_larger_summed_cosine(zero, one, winner):
    texts = on_circle(0, *zero, *one)
    targets = torch.tensor([2, 0, 0, 1, 1])
    assert int(knn_predictions(texts, targets, k=4)[0]) == winner


def test_closeness_never_beats_a_vote():
    # Two texts of class 0 lie opposite; one of class 1 is the same text over again.
    texts = on_circle(0, 0, 179, 181)
    targets = torch.tensor([2, 1, 0, 0])
    assert int(knn_predictions(texts, targets, k=3)[0]) == 0
    assert int(knn_predictions(texts, targets, k=1)[0]) == 1


def test_far_neighbours_still_vote_for_their_class():
    texts = on_circle(0, 120, 180, 240)  # no cosine above zero, and class 0 has no vote
    assert int(knn_predictions(texts, torch.tensor([0, 1, 1, 1]))[0]) == 1


def test_a_text_does_not_vote_for_itself():
    texts = on_circle(0, 5, 90, 95)
    assert knn_predictions(texts, torch.tensor([0, 1, 2, 3]), k=1).tolist() == [1, 0, 3, 2]


def test_all_others_are_asked_where_there_are_fewer_than_k():
    texts, targets = random_units(5, 0), torch.tensor([0, 1, 1, 0, 1])
    wanted = knn_predictions(texts, targets, k=4)
    assert torch.equal(knn_predictions(texts, targets, k=100), wanted)
    assert torch.equal(knn_predictions(texts, targets), wanted)


def test_ten_neighbours_are_asked():
    near, far = torch.linspace(1, 40, 10).tolist(), torch.linspace(50, 90, 11).tolist()
    texts = on_circle(0, *near, *far)
    targets = torch.tensor([2] + [0] * 5 + [1] * 5 + [1] * 11)
    assert int(knn_predictions(texts, targets)[0]) == 0, "five votes each, and class 0 is nearer"
    assert int(knn_predictions(texts, targets, k=11)[0]) == 1


def test_the_embeddings_stay_as_they_were():
    texts = random_units(6, 0)
    before = texts.clone()
    knn_predictions(texts, torch.tensor([0, 1, 0, 1, 0, 1]))
    assert torch.equal(texts, before)


# --- the scores -----------------------------------------------------------------------------------------------------


def test_perfect_clusters_score_one():
    centres = torch.eye(4)
    targets = torch.arange(4).repeat_interleave(12)
    texts = torch.nn.functional.normalize(centres[targets] + 0.01 * random_units(48, 0, d=4), dim=1)
    scores = scores_of(Readout(texts, LOGIT_SCALE * texts @ centres.T, targets))
    assert (scores.accuracy, scores.macro_f1, scores.knn_accuracy) == (1, 1, 1)
    assert 0 <= scores.cross_entropy < 1e-6


def test_scores_of_a_hand_made_case():
    labels = on_circle(0, 90, 180)
    # Nearest labels: 0, 0, 1, 1, 2, so that the second text alone is wrong.
    texts = on_circle(10, 40, 80, 100, 170)
    targets = torch.tensor([0, 1, 1, 1, 2])
    scores = scores_of(Readout(texts, LOGIT_SCALE * texts @ labels.T, targets))
    assert scores.accuracy == pytest.approx(4 / 5)
    f1_of_0, f1_of_1, f1_of_2 = 2 / 3, 4 / 5, 1  # 2 · right / (predicted + present)
    assert scores.macro_f1 == pytest.approx((f1_of_0 + f1_of_1 + f1_of_2) / 3)

    def loss(angle, target):
        logits = [20 * math.cos(math.radians(angle - label)) for label in (0, 90, 180)]
        return math.log(sum(map(math.exp, logits))) - logits[target]

    wanted = sum(map(loss, (10, 40, 80, 100, 170), (0, 1, 1, 1, 2))) / 5
    assert scores.cross_entropy == pytest.approx(wanted, rel=1e-4)
    # All others are asked, so that class 1 always has the most votes.
    assert scores.knn_accuracy == pytest.approx(3 / 5)


def test_macro_f1_counts_classes_that_occur_on_either_side():
    targets, predicted = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 3])
    assert accuracy(predicted, targets) == 0.75
    assert macro_f1(predicted, targets) == pytest.approx((1 + 2 / 3 + 0) / 3)
    rare = torch.tensor([0] * 9 + [1])
    assert macro_f1(torch.zeros(10, dtype=torch.long), rare) == pytest.approx((18 / 19 + 0) / 2)


# --- through a base -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return LabelTextEncoder.load(str(write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny")))


def test_a_task_is_scored_with_texts_and_labels_through_the_adapted_base(base):
    texts = ["warm soup", "tea", "cold tea, please", "bread and soup", "soup", "a cup of tea"]
    data = TaskData(
        tuple(base.tokenize(texts, max_length=64)),
        torch.tensor([0, 1, 1, 0, 0, 1]),
        tuple(base.tokenize(["soup", "tea"], max_length=64)),
    )
    site = "encoder.layer.0.attention.self.value"
    rng = torch.Generator().manual_seed(0)
    factors = {site: torch.randn(2, 16, generator=rng)}, {site: torch.randn(16, 2, generator=rng)}
    adapter = Lora.from_factors(*factors, base_model_name_or_path=None)
    bare = base.read(data)
    adapted = base.read(data, adapter)
    assert torch.equal(bare.texts, base.encode(data.ids))
    with base.adapted(adapter):
        assert torch.equal(adapted.texts, base.encode(data.ids))
        labels = base.encode(data.label_ids)
    assert torch.equal(adapted.logits, LOGIT_SCALE * adapted.texts @ labels.T)
    for before, after in ((bare.texts, adapted.texts), (bare.logits, adapted.logits)):
        assert not torch.allclose(before, after, atol=1e-2)
    assert torch.equal(adapted.targets, data.targets)
    assert base.score(data, adapter) == scores_of(adapted)
    assert base.score(data) == scores_of(bare) != scores_of(adapted)
