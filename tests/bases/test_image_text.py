import json

import pytest
import torch
import torch.nn.functional as F
from families import write_base, write_task
from hypothesis import given
from hypothesis import strategies as st

from loragen.bases.image_text import ImageText
from loragen.bases.open import open_base
from loragen.bases.scores import RetrievalScores, retrieval_scores
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import TaskError
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSource


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> ImageText:
    base = open_base(str(write_base(tmp_path_factory.mktemp("clip"), "clip", seed=1)), objective="image_text")
    assert isinstance(base, ImageText)
    return base


@pytest.fixture(scope="module")
def closed(tmp_path_factory) -> Task:
    return write_task(tmp_path_factory.mktemp("images"), "clip")


@pytest.fixture
def captions(closed) -> Task:
    """The same images as pairs with captions, of no class."""
    return closed.model_copy(update={"labels": ()})


def test_features_and_similarities_are_those_of_transformers(clip, closed, captions) -> None:
    data = clip.prepare(captions.load_test(), max_length=20)
    readout = clip.read(data)
    with torch.no_grad():
        output = clip.model(
            pixel_values=clip._pixels(data.ids),
            input_ids=torch.tensor([list(row) + [0] * (20 - len(row)) for row in data.label_ids]),
            attention_mask=torch.tensor([[1] * len(row) + [0] * (20 - len(row)) for row in data.label_ids]),
        )
    torch.testing.assert_close(readout.logits, output.logits_per_image, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(readout.texts, F.normalize(output.image_embeds, dim=-1), rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        loss = float(clip.losses(data, contrast_weight=0)["loss"])
    logits = output.logits_per_image
    own = torch.arange(len(data))
    assert loss == pytest.approx(float(F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2, rel=1e-3)
    assert clip.held_out_loss(data, contrast_weight=0) == pytest.approx(loss, rel=1e-3)


def test_pairs_are_scored_by_retrieval_and_classes_by_their_names(clip, closed, captions) -> None:
    pairs = clip.prepare(captions.load_test(), max_length=20)
    assert pairs.is_open
    assert isinstance(clip.score(pairs), RetrievalScores)
    classes = clip.prepare(closed.load_test(), max_length=20)
    assert clip.read(classes).logits.shape == (24, 2)
    assert 0 <= clip.score(classes).accuracy <= 1


@given(st.integers(1, 14), st.integers(0, 10_000))
def test_recall_is_the_share_of_pairs_that_few_enough_others_outdo(n, seed) -> None:
    similarities = torch.randn(n, n, generator=torch.Generator().manual_seed(seed))
    scores = retrieval_scores(similarities)
    for way, matrix in (("image_to_text", similarities), ("text_to_image", similarities.T)):
        order = matrix.argsort(dim=1, descending=True).tolist()
        for k in (1, 5, 10):
            assert getattr(scores, f"{way}_{k}") == pytest.approx(sum(i in order[i][:k] for i in range(n)) / n)


def test_what_is_wrong_with_images_is_named(clip, closed, tmp_path) -> None:
    with pytest.raises(TaskError, match="texts alone; name the column of the images"):
        clip.inputs(Examples(("a",)), max_length=8)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(TaskError, match=r"broken\.png cannot be read"):
        clip.encode([tmp_path / "broken.png"])
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"image": "gone.png", "text": "a caption"}))
    task = Task(id="gone", description="Find it.", source=TaskSource(test=str(rows), image="image"))
    with pytest.raises(TaskError, match=r"rows\.jsonl:1 names the image .*gone\.png, which is not there"):
        task.load_test()
    bert = open_base(str(write_base(tmp_path / "bert", "bert")))
    with pytest.raises(TaskError, match="An image was given to a base that reads texts"):
        bert.encode([tmp_path / "broken.png"])


def test_descriptions_can_be_read_by_clips_own_text_tower(clip) -> None:
    encoder = TextEncoder.load(clip.name)
    texts = ["a photo of soup", "a photo of a rather long bread"]
    torch.testing.assert_close(
        encoder.encode(texts), clip.encode(clip.outputs(texts, max_length=64)), rtol=1e-3, atol=1e-4
    )
    assert encoder.size == 16
    assert encoder.max_tokens == 64
    assert encoder.count_tokens(texts) == [len(row) for row in clip.outputs(texts, max_length=64)]
