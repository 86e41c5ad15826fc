from dataclasses import replace

import pytest
import torch
from models import tiny_bert, write_tiny_encoder

from loragen.bases.hub import resolve_model, weights_hash
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.errors import TaskError

TEXTS = ["warm soup", "tea", "bread and a cold cup of tea, please.", "soup", "a b c d e f g", "Where is my bread?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def base(folder):
    return LabelTextEncoder.load(str(folder))


def hidden(base):
    ids = torch.arange(5, 29).reshape(2, 12)
    with torch.no_grad():
        return base.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def embeddings(base, texts=TEXTS, **options):
    return base.encode(base.tokenize(texts, max_length=64), **options)


# --- loading --------------------------------------------------------------------------------------------------------


def test_a_loaded_base_is_frozen_and_known_by_its_weights(folder, base):
    assert base.name == str(folder)
    assert base.fingerprint == weights_hash(folder)
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert torch.equal(hidden(base), hidden(replace(base, model=tiny_bert())))


# --- tokens and embeddings ------------------------------------------------------------------------------------------


def test_texts_become_ids_cut_at_a_length(base):
    assert base.tokenize(["warm soup", "tea"], max_length=64) == [[2, 62, 59, 3], [2, 63, 3]]
    assert base.tokenize(["warm soup"], max_length=3) == [[2, 62, 3]]


def test_pairs_are_joined_and_the_longer_half_is_cut_first(base):
    soup, bread, tea = 59, 60, 63
    assert base.tokenize(["soup", "tea"], ["bread", "soup"], max_length=64) == [
        [2, soup, 3, bread, 3],
        [2, tea, 3, soup, 3],
    ]
    assert base.tokenize(["soup " * 9], ["tea"], max_length=6) == [[2, soup, soup, 3, tea, 3]]
    assert base.tokenize(["tea"], ["soup " * 9], max_length=6) == [[2, tea, 3, soup, soup, 3]]


def test_both_halves_of_a_pair_count(base):
    rows = base.encode(base.tokenize(["tea", "tea", "soup"], ["soup", "bread", "soup"], max_length=64))
    assert torch.pdist(rows).min() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
def test_rows_do_not_depend_on_their_batch_and_keep_their_order(base, batch_size):
    alone = torch.cat([base.embed([row]) for row in base.tokenize(TEXTS, max_length=64)])
    assert torch.pdist(alone).min() > 1e-3
    assert torch.allclose(embeddings(base, batch_size=batch_size), alone, atol=1e-6)
    assert torch.allclose(embeddings(base, TEXTS[::-1], batch_size=batch_size), alone.flip(0), atol=1e-6)


def test_batches_hold_texts_of_like_length(base, monkeypatch):
    batches = []
    states = LabelTextEncoder.states
    monkeypatch.setattr(
        LabelTextEncoder,
        "states",
        lambda self, ids, **how: (batches.append([len(row) for row in ids]), states(self, ids, **how))[1],
    )
    embeddings(base, batch_size=2)
    lengths = [length for batch in batches for length in batch]
    assert lengths == sorted(lengths)
    assert list(map(len, batches)) == [2, 2, 2]


def test_no_texts_are_refused(base):
    with pytest.raises(TaskError, match="no text to encode"):
        base.encode([])


@pytest.mark.parametrize(("separator", "joint"), [(None, "\n"), ("?", "")])
def test_a_line_break_joins_a_pair_where_a_tokenizer_has_no_separator(base, separator, joint):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: i for i, letter in enumerate("?abcdefghijklmnopqrstuvwxyz \n")}
    letters = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, [])), sep_token=separator)
    by_letter = replace(base, tokenizer=letters)

    def read(*texts, max_length):
        return [
            "".join(letters.convert_ids_to_tokens(ids)) for ids in by_letter.tokenize(*texts, max_length=max_length)
        ]

    pairs = read(["warm soup", "tea"], ["good", "bad"], max_length=64)
    assert pairs == [f"warm soup{joint}good", f"tea{joint}bad"]
    assert read(["warm soup"], ["good"], max_length=9 + len(joint)) == [f"warm {joint}good"], "the text is cut"
    assert read(["warm soup"], max_length=64) == ["warm soup"]


# --- states ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def token_states(folder):
    """For each of the texts its last hidden states (tokens, 16), by transformers alone and without padding."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_states_are_means_over_the_tokens_of_a_text(base, token_states, batch_size):
    ids = base.tokenize(TEXTS, max_length=64)
    wanted = torch.stack([states.mean(0) for states in token_states])
    assert torch.pdist(wanted).min() > 1e-3
    assert torch.allclose(base.encode_states(ids, batch_size=batch_size), wanted, atol=1e-6)
    assert torch.allclose(base.states(ids), wanted, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_last_state_is_that_of_the_last_token_and_not_of_padding(base, token_states, batch_size):
    ids = base.tokenize(TEXTS, max_length=64)
    wanted = torch.stack([states[-1] for states in token_states])
    assert torch.pdist(wanted).min() > 1e-3
    assert torch.allclose(base.encode_states(ids, pooling="last", batch_size=batch_size), wanted, atol=1e-6)
    assert torch.allclose(base.states(ids, pooling="last"), wanted, atol=1e-6)


def test_embeddings_are_normalised_states(base):
    ids = base.tokenize(TEXTS, max_length=64)
    states = base.encode_states(ids)
    assert (states.norm(dim=1) - 1).abs().min() > 0.1, "states have a length of their own"
    wanted = states / states.norm(dim=1, keepdim=True)
    assert torch.allclose(base.encode(ids), wanted, atol=1e-6)
    assert torch.allclose(base.embed(ids), wanted, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_states_of_a_base_in_bfloat16_are_float32(folder, pooling):
    half = LabelTextEncoder.load(str(folder), dtype=torch.bfloat16)
    assert half.encode_states(half.tokenize(TEXTS, max_length=64), pooling=pooling).dtype == torch.float32


def test_embeddings_of_minilm_are_those_of_sentence_transformers():
    from sentence_transformers import SentenceTransformer

    from loragen.bases.hub import quiet_loading

    texts = ["Which label fits?", "naïve café — 東京 🙂 don't", "a long text that goes on and on, " * 60]
    minilm = LabelTextEncoder.load("all-MiniLM-L6-v2")
    with quiet_loading():
        reference = SentenceTransformer(str(resolve_model("all-MiniLM-L6-v2")), device="cpu")
    wanted = reference.encode(texts, convert_to_tensor=True, show_progress_bar=False)
    met = minilm.encode(minilm.tokenize(texts, max_length=256))
    assert torch.allclose(met, wanted, atol=1e-5)
    assert torch.allclose(met.norm(dim=1), torch.ones(3), atol=1e-6)
