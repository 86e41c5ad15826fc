import json
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.bases.hub import quiet_loading, resolve_model
from loragen.conditions.text_encoder import TextEncoder, default_cache
from loragen.errors import ConfigError, TaskError

TEXTS = [
    "Sort short messages by what their writers want.",
    "a",
    "naïve café — 東京 🙂 don't",
    "word " * 100,
    "a long text that goes on and on, " * 60,  # beyond 256 tokens
    "Which label fits?",
]


@pytest.fixture(scope="module")
def reference():
    from sentence_transformers import SentenceTransformer

    with quiet_loading():
        return SentenceTransformer(str(resolve_model("all-MiniLM-L6-v2")), device="cpu")


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder.load()


def write_tiny_encoder(folder, *, pooling, words=("soup", "bread", "cold", "warm")):
    """A random BERT of width 8 with a pooling module, as sentence-transformers saves them."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": false}')
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, **modes}))
    return folder


def counting_encoder(cache):
    """An encoder whose model is a count of letters; the texts that reach it are kept."""
    encoder = TextEncoder("letters", Path("/nowhere"), "0" * 16, cache)
    met = []

    def embed(texts):
        met.extend(texts)
        return torch.tensor([[len(text), text.count("a"), 1.0] for text in texts])

    encoder.__dict__["_embed"] = embed
    return encoder, met


def letters(texts):
    raw = torch.tensor([[len(text), text.count("a"), 1.0] for text in texts])
    return raw / raw.norm(dim=1, keepdim=True)


def test_the_fast_path_equals_sentence_transformers(reference, encoder):
    assert len(reference.tokenizer(TEXTS[4])["input_ids"]) > 256
    found = encoder.encode(TEXTS)
    wanted = torch.from_numpy(reference.encode(TEXTS, show_progress_bar=False))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert encoder.size == found.shape[1] == 384


def test_the_fast_path_needs_no_sentence_transformers_and_says_nothing(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert TextEncoder.load("all-MiniLM-L6-v2").encode(["soup"]).shape == (1, 384)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_other_encoders_equal_sentence_transformers(tmp_path, pooling, monkeypatch, capfd):
    from sentence_transformers import SentenceTransformer

    folder = write_tiny_encoder(tmp_path / "tiny", pooling=pooling)
    texts = ["cold soup", "warm bread warm soup", "soup " * 40]
    with quiet_loading():
        wanted = SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
    capfd.readouterr()
    encoder = TextEncoder.load(str(folder))
    if pooling == "mean_tokens":
        monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    torch.testing.assert_close(encoder.encode(texts), torch.from_numpy(wanted), atol=1e-5, rtol=0)
    assert encoder.size == 8
    assert capfd.readouterr().err == ""


def test_a_default_prompt_is_honoured(tmp_path):
    folder = write_tiny_encoder(tmp_path / "tiny", pooling="mean_tokens")
    wanted = TextEncoder.load(str(folder)).encode(["warm warm soup"])
    prompts = {"prompts": {"query": "warm warm "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    torch.testing.assert_close(TextEncoder.load(str(folder)).encode(["soup"]), wanted, atol=1e-5, rtol=0)


def test_vectors_are_unit_float32_and_may_enter_a_graph(encoder):
    vectors = encoder.encode(["soup", "bread"])
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    weight = torch.ones(384, requires_grad=True)
    (vectors * weight).sum().backward()
    torch.testing.assert_close(weight.grad, vectors.sum(0))


@given(st.lists(st.text(alphabet="ab ", min_size=1, max_size=6).filter(str.strip), max_size=80))
def test_order_and_repeats_are_kept(texts):
    encoder, met = counting_encoder(None)
    if texts:
        torch.testing.assert_close(encoder.encode(texts), letters(texts))
    assert len(met) == len(set(texts))


@pytest.mark.parametrize("text", ["", " \n", "caf\udce9"])
def test_texts_that_cannot_be_embedded_are_refused(text):
    with pytest.raises(TaskError, match=r"is empty|no valid Unicode"):
        counting_encoder(None)[0].encode(["soup", text])


def test_no_texts_give_no_rows(encoder):
    assert encoder.encode([]).shape == (0, 384)


def test_cached_texts_need_no_weights(tmp_path, monkeypatch):
    first = TextEncoder.load(cache=tmp_path).encode(["soup", "bread"])
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    again = TextEncoder.load(cache=tmp_path)
    assert again.encode(["bread", "soup"]).equal(first.flip(0))
    assert again.size == 384
    with pytest.raises(ConfigError, match="import of tokenizers halted"):
        again.encode(["stew"])


def test_the_cache_grows_and_is_shared(tmp_path):
    one, met_by_one = counting_encoder(tmp_path)
    two, met_by_two = counting_encoder(tmp_path)
    one.encode(["soup", "bread"])
    two.encode(["bread", "stew"])
    found = one.encode(["stew", "soup", "bread"])
    assert (met_by_one, met_by_two) == (["soup", "bread"], ["stew"])
    torch.testing.assert_close(found, letters(["stew", "soup", "bread"]))


def test_what_another_process_wrote_meanwhile_is_kept(tmp_path):
    slow, _ = counting_encoder(tmp_path)
    fast, met = counting_encoder(tmp_path)
    embed = slow._embed
    slow.__dict__["_embed"] = lambda texts: (fast.encode(["stew"]), embed(texts))[1]
    slow.encode(["soup"])
    met.clear()
    fast.encode(["stew", "soup"])
    assert met == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: safetensors.torch.save({"vectors": torch.ones(1, 3)}),
        lambda data: safetensors.torch.save(
            {"vectors": torch.ones(2, 3), "keys": torch.zeros(1, 32, dtype=torch.uint8)}
        ),
        lambda data: safetensors.torch.save(
            {**safetensors.torch.load(data), "vectors": torch.full((1, 3), float("nan"))},
        ),
    ],
)
def test_a_damaged_cache_is_rewritten(tmp_path, damage):
    encoder, met = counting_encoder(tmp_path)
    encoder.encode(["soup"])
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    torch.testing.assert_close(encoder.encode(["soup"]), letters(["soup"]))
    encoder.encode(["soup"])
    assert met == ["soup", "soup"]


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path):
    (tmp_path / "file").write_text("")
    encoder, _ = counting_encoder(tmp_path / "file" / "cache")
    torch.testing.assert_close(encoder.encode(["soup"]), letters(["soup"]))


def test_other_settings_are_another_cache(tmp_path):
    folder = write_tiny_encoder(tmp_path / "tiny", pooling="mean_tokens")
    mean = TextEncoder.load(str(folder), cache=tmp_path / "cache")
    found = mean.encode(["soup bread"])
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 3, "do_lower_case": false}')
    cut = TextEncoder.load(str(folder), cache=tmp_path / "cache")
    assert cut.fingerprint == mean.fingerprint
    assert not torch.allclose(cut.encode(["soup bread"]), found, atol=1e-4)


def test_a_text_longer_than_the_encoder_reads_is_told_by_its_tokens(reference, encoder):
    assert encoder.max_tokens == 256
    counts = encoder.count_tokens(TEXTS)
    assert counts == [len(ids) for ids in reference.tokenizer(TEXTS, truncation=False, verbose=False)["input_ids"]]
    assert [count > 256 for count in counts] == [False, False, False, False, True, False]
    assert encoder.count_tokens([]) == []
    room = "soup " * 254  # with its beginning and end, 256
    longer = [f"{room}{word}" for word in ("bread", "bread and tea")]
    assert encoder.count_tokens([room, *longer]) == [256, 257, 259]
    assert encoder.encode([room]).equal(encoder.encode(longer[:1])), "what goes beyond does not count"


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_other_encoders_tell_their_length_too(tmp_path, pooling):
    folder = write_tiny_encoder(tmp_path / "tiny", pooling=pooling)
    encoder = TextEncoder.load(str(folder))
    assert encoder.max_tokens == 16
    assert encoder.count_tokens(["soup", "soup " * 40]) == [3, 42]
    prompts = {"prompts": {"query": "warm warm "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert TextEncoder.load(str(folder)).count_tokens(["soup"]) == [5], "the prompt takes room"


def test_an_encoder_without_a_tokenizer_file_or_a_length_says_so(tmp_path):
    folder = write_tiny_encoder(tmp_path / "tiny", pooling="mean_tokens")
    (folder / "tokenizer.json").unlink()
    (folder / "sentence_bert_config.json").unlink()
    encoder = TextEncoder.load(str(folder))
    assert encoder.max_tokens is None
    assert encoder.count_tokens(["soup"]) is None


def test_default_cache_follows_xdg(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/loragen")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "loragen"
