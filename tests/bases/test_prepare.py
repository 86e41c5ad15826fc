"""Examples made ready for a base: closed and open ones, with labels that are known or not, and with an instruction."""

import pytest
import torch
from models import word_task, write_tiny_encoder

from loragen.bases.text_encoder import LabelTextEncoder
from loragen.errors import TaskError
from loragen.tasks.examples import Examples

TEXTS = ("warm soup", "tea", "bread")
NAMES = ("soup", "tea")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return LabelTextEncoder.load(str(write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny", seed=1)))


def test_texts_and_labels_are_tokenised_by_the_base(base, tmp_path):
    data = base.prepare(word_task(tmp_path).load_train(), max_length=4)
    assert not data.is_open
    assert data.label_ids == tuple(base.tokenize(["soup", "tea"], max_length=4))
    assert data.targets.tolist() == [i % 2 for i in range(200)]
    assert len(data.ids) == 200
    assert max(map(len, data.ids)) == 4


def test_pairs_are_read_as_the_base_joins_them(base):
    data = base.prepare(Examples(TEXTS, ("a", "b", "c"), label_names=NAMES), max_length=16)
    assert list(data.ids) == base.tokenize(TEXTS, ("a", "b", "c"), max_length=16)


def test_labels_that_are_not_known_count_as_the_first_and_bear_on_no_prediction(base):
    labelled = Examples(TEXTS, labels=(1, 1, 0), label_names=NAMES)
    known, unknown = (base.prepare(examples, max_length=16) for examples in (labelled, labelled.unlabelled()))
    assert unknown.targets.tolist() == [0, 0, 0]
    assert unknown.ids == known.ids
    assert unknown.label_ids == known.label_ids
    assert torch.equal(base.read(unknown).logits, base.read(known).logits)


def test_an_instruction_stands_before_every_text_and_label_and_makes_room_for_itself(base):
    examples = Examples(("soup " * 20, "tea"), labels=(0, 1), label_names=NAMES)
    data = base.prepare(examples, max_length=8, instruction="a b c")
    told = len(base.tokenize(["a b c"], max_length=8)[0])
    longer = base.tokenize(["a b c " + text for text in examples.texts], max_length=8 + told)
    assert list(data.ids) == longer
    assert len(data.ids[0]) == 8 + told
    assert list(data.label_ids) == base.tokenize(["a b c soup", "a b c tea"], max_length=8 + told)


def test_examples_without_names_of_labels_are_open_and_nothing_for_a_text_encoder(base):
    with pytest.raises(TaskError, match="The task has no labels, and a text encoder learns from label texts"):
        base.prepare(Examples(TEXTS), max_length=16)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_texts_are_cut_at_the_positions_of_the_model(tmp_path, kind):
    """A text longer than the model has positions for is cut, where the model would fail with an error of its own."""
    from models import write_tiny_encoder
    from transformers import AutoModel, RobertaConfig

    folder = write_tiny_encoder(tmp_path / kind, seed=0)
    if kind == "roberta":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        AutoModel.from_config(
            RobertaConfig(vocab_size=100, max_position_embeddings=20, pad_token_id=1, **sizes)
        ).save_pretrained(folder)
    base = LabelTextEncoder.load(str(folder))
    assert base.max_tokens is not None
    data = base.prepare(Examples(("soup " * 200,), label_names=("tea", "bread")), max_length=1000)
    assert len(data.ids[0]) == base.max_tokens == (18 if kind == "roberta" else 64)
    assert base.read(data).logits.isfinite().all()
