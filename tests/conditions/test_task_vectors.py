from dataclasses import replace

import pytest
import torch
from models import tiny_llama, write_tiny_encoder

from loragen.adapters.adapter import Lora
from loragen.bases.hub import weights_hash
from loragen.conditions.task_vectors import Reader, Reading
from loragen.errors import ConfigError, TaskError
from loragen.tasks.examples import Examples

SITES = [f"encoder.layer.{i}.attention.self.{name}" for i in (0, 1) for name in ("query", "value")]
DESCRIPTIONS = ["Is it soup or tea?", "warm", "Is the bread cold, or is it warm? Say so in a word."]
TEXTS = ("warm soup", "tea", "bread and a cold cup of tea, please.", "soup " * 40, "a b c d e f g")
PAIRS = ("cold tea", "soup", "bread", "tea", "warm bread, and then some more of it")
LABELS = ("soup", "tea", "tea", "soup", "bread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def reader(folder):
    return Reader.load(Reading(model=str(folder)))


def examples_of(texts, outputs=None, pairs=None):
    """Examples of named labels."""
    if outputs is None:
        return Examples(texts, pairs)
    names = tuple(dict.fromkeys(outputs))
    return Examples(texts, pairs, labels=tuple(names.index(label) for label in outputs), label_names=names)


def read_by(reader, **changes):
    """The same model read in another way."""
    return replace(reader, reading=reader.reading.model_copy(update=changes))


def own_adapter(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return Lora.from_factors(
        {site: torch.randn(2, 16, generator=rng) for site in SITES},
        {site: torch.randn(16, 2, generator=rng) for site in SITES},
        base_model_name_or_path="tiny",
        scaling=0.5,
    )


def reference(folder, prompts, *, pooling="mean", max_length=64, adapter=None):
    """States of prompts (text, second text or None), one at a time, by transformers alone; an adapter is merged in."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for site in () if adapter is None else adapter.sites:
        model.get_submodule(site).weight.data += adapter.delta_weight(site)
    rows = []
    for prompt in prompts:
        tokens = tokenizer(
            *prompt, truncation=True, max_length=max_length, return_token_type_ids=False, return_tensors="pt"
        )
        with torch.no_grad():
            states = model(**tokens).last_hidden_state[0]
        rows.append(states.mean(0) if pooling == "mean" else states[-1])
    return torch.stack(rows)


def assert_same(met, wanted):
    """Equal up to rounding, and every row differs from every other, so that no mix-up could pass."""
    assert torch.pdist(wanted).min() > 1e-2
    assert torch.allclose(met, wanted, atol=1e-5)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("max_length", [12, 64])
def test_states_are_those_of_transformers_one_prompt_at_a_time(reader, folder, pooling, max_length):
    reader = read_by(reader, pooling=pooling, max_length=max_length)
    how = {"pooling": pooling, "max_length": max_length}
    single, paired = examples_of(TEXTS, LABELS), examples_of(TEXTS, LABELS, PAIRS)
    joined = [f"{text} {pair}" for text, pair in zip(TEXTS, PAIRS, strict=True)]
    for met, prompts in (
        (reader.descriptions(DESCRIPTIONS), [(text,) for text in DESCRIPTIONS]),
        (reader.texts(single), [(text,) for text in TEXTS]),
        (reader.texts(paired), list(zip(TEXTS, PAIRS, strict=True))),
        (reader.examples(single), list(zip(TEXTS, LABELS, strict=True))),
        (reader.examples(paired), list(zip(joined, LABELS, strict=True))),
    ):
        assert_same(met, reference(folder, prompts, **how))


def test_the_last_state_of_a_short_prompt_does_not_feel_the_padding(reader):
    last = read_by(reader, pooling="last")
    alone = last.descriptions(["warm"])
    assert torch.allclose(last.descriptions(["warm", "tea " * 50])[0], alone[0], atol=1e-6)
    assert not torch.allclose(reader.descriptions(["warm"]), alone, atol=1e-2)


@pytest.mark.parametrize("pairs", [None, PAIRS])
def test_labels_count_in_examples_and_not_in_texts(reader, pairs):
    one, other = (examples_of(TEXTS, labels, pairs) for labels in (LABELS, LABELS[::-1]))
    assert torch.equal(reader.texts(one), reader.texts(other))
    moved = (reader.examples(one) - reader.examples(other)).abs().amax(1) > 1e-3
    assert moved.tolist() == [a != b for a, b in zip(LABELS, LABELS[::-1], strict=True)]


def test_the_label_of_a_text_that_is_cut_still_counts(reader):
    short = read_by(reader, max_length=8)
    good, bad = (short.examples(examples_of(("soup " * 40,), (label,))) for label in ("warm", "cold"))
    assert not torch.allclose(good, bad, atol=1e-3)


def test_completions_count_as_labels_do(reader):
    named, open_ended = examples_of(TEXTS, LABELS), Examples(TEXTS, completions=LABELS)
    assert torch.equal(reader.examples(named), reader.examples(open_ended))


def test_examples_without_labels_are_not_read_as_labelled(reader):
    with pytest.raises(TaskError, match="without labels were given where labelled ones are read"):
        reader.examples(Examples(TEXTS, label_names=("soup", "tea")))


def test_pairs_count_in_texts_and_in_examples(reader):
    one, other, none = (examples_of(TEXTS[:2], LABELS[:2], pairs) for pairs in (PAIRS[:2], PAIRS[1::-1], None))
    for read in (reader.texts, reader.examples):
        states = [read(few) for few in (one, other, none)]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert (states[a] - states[b]).abs().amax(1).min() > 1e-3


# --- task vectors ---------------------------------------------------------------------------------------------------


def test_task_vectors_are_means_over_the_examples(reader, folder):
    vectors = reader.task_vectors(DESCRIPTIONS[0], examples=examples_of(TEXTS, LABELS))
    assert set(vectors) == {"description", "texts", "examples"}
    assert all(vector.shape == (16,) for vector in vectors.values())
    wanted = {
        "description": reference(folder, [(DESCRIPTIONS[0],)]),
        "texts": reference(folder, [(text,) for text in TEXTS]),
        "examples": reference(folder, list(zip(TEXTS, LABELS, strict=True))),
    }
    assert_same(
        torch.stack([vectors[kind] for kind in wanted]), torch.stack([rows.mean(0) for rows in wanted.values()])
    )


def test_there_are_vectors_for_the_evidence_that_is_given(reader):
    assert set(reader.task_vectors("warm")) == {"description"}
    assert set(reader.task_vectors("warm", examples=examples_of(TEXTS))) == {"description", "texts"}
    assert set(reader.task_vectors("warm", examples=examples_of(TEXTS, LABELS))) == {"description", "texts", "examples"}


def test_the_vector_of_label_names_is_their_mean(reader, folder):
    vectors = reader.task_vectors("warm", labels=("soup", "cold tea", "bread"))
    assert set(vectors) == {"description", "labels"}
    wanted = reference(folder, [("soup",), ("cold tea",), ("bread",)])
    assert torch.allclose(vectors["labels"], wanted.mean(0), atol=1e-5)
    assert torch.pdist(wanted).min() > 1e-2


def test_reading_through_an_own_adapter_is_reading_the_adapted_model(reader, folder):
    adapter, few = own_adapter(), examples_of(TEXTS, LABELS, PAIRS)
    bare = reader.task_vectors(DESCRIPTIONS[0], examples=few)
    met = read_by(reader, through="own_adapter").task_vectors(DESCRIPTIONS[0], examples=few, adapter=adapter)
    with reader.base.adapted(adapter):
        adapted = {
            "description": reader.descriptions(DESCRIPTIONS[:1])[0],
            "texts": reader.texts(few).mean(0),
            "examples": reader.examples(few).mean(0),
        }
    assert set(met) == set(adapted) == set(bare)
    for kind, wanted in adapted.items():
        assert torch.equal(met[kind], wanted)
        assert (met[kind] - bare[kind]).abs().max() > 0.1
    merged = reference(folder, [(text,) for text in DESCRIPTIONS[:1]], adapter=adapter)[0]
    assert torch.allclose(met["description"], merged, atol=1e-5)
    again = reader.task_vectors(DESCRIPTIONS[0], examples=few)
    assert all(torch.equal(again[kind], bare[kind]) for kind in bare), "the adapter is gone"


# --- models ---------------------------------------------------------------------------------------------------------


def test_the_model_is_known_by_its_weights(folder, tmp_path):
    whole = Reading(model=str(folder), model_hash=weights_hash(folder))
    assert Reader.load(whole).reading == whole
    other = write_tiny_encoder(tmp_path / "other", seed=1)
    wanted, met = weights_hash(folder)[:12], weights_hash(other)[:12]
    with pytest.raises(TaskError, match=f"of the weights {wanted}, but those that go by this name are {met}; use"):
        Reader.load(whole.model_copy(update={"model": str(other)}))


def test_a_model_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="There is no model 'nobody/nothing'"):
        Reader.load(Reading(model="nobody/nothing"))


@pytest.fixture(scope="module")
def causal_folder(tmp_path_factory):
    """A language model of letters whose tokenizer has neither a separator nor padding, as many have."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "causal"
    vocabulary = {letter: i for i, letter in enumerate("?abcdefghijklmnopqrstuvwxyz., \n")}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, []))).save_pretrained(folder)
    tiny_llama().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_causal_model_reads_text_and_label_with_a_line_break_between(causal_folder, pooling):
    reader = Reader.load(Reading(model=str(causal_folder), pooling=pooling))
    texts, labels, pairs = ("warm soup", "tea", "bread and a cup of tea"), ("good", "bad", "good"), ("cold", "a", "tea")
    few = examples_of(texts, labels, pairs)
    rows = list(zip(texts, pairs, labels, strict=True))
    for met, prompts in (
        (reader.texts(examples_of(texts)), list(texts)),
        (reader.texts(few), [f"{text}\n{pair}" for text, pair, _ in rows]),
        (reader.examples(few), [f"{text} {pair}\n{label}" for text, pair, label in rows]),
    ):
        assert_same(met, reference(causal_folder, [(prompt,) for prompt in prompts], pooling=pooling))


def test_the_last_token_of_a_causal_model_has_read_all_others(causal_folder):
    reader = Reader.load(Reading(model=str(causal_folder), pooling="last"))
    one, other = reader.descriptions(["warm soup", "cold soup"])
    assert (one - other).abs().max() > 1e-3
