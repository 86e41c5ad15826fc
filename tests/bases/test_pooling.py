"""Embeddings of a base are those of sentence-transformers, however it pools."""

import json

import pytest
import torch
from models import write_tiny_encoder

from loragen.bases.text_encoder import LabelTextEncoder, pooling_of
from loragen.errors import ConfigError
from loragen.tasks.examples import Examples

TEXTS = ("warm soup", "a cold cup of tea, please.", "bread")


@pytest.fixture
def saved(tmp_path):
    """From a mode of pooling to a folder that sentence-transformers wrote, and the model that wrote it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    def save(mode):
        transformer = Transformer(str(write_tiny_encoder(tmp_path / "tiny", seed=3)))
        model = SentenceTransformer(modules=[transformer, Pooling(16, pooling_mode=mode)], device="cpu")
        model.save(str(tmp_path / mode))
        return tmp_path / mode, model

    return save


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
def test_texts_embed_as_sentence_transformers_embeds_them(saved, mode):
    folder, model = saved(mode)
    base = LabelTextEncoder.load(str(folder))
    data = base.prepare(Examples(TEXTS, label_names=("tea", "soup")), max_length=64)
    wanted = torch.nn.functional.normalize(model.encode(list(TEXTS), convert_to_tensor=True), dim=1)
    torch.testing.assert_close(base.read(data).texts, wanted, atol=1e-5, rtol=0)


def test_a_pooling_that_is_not_supported_is_refused(saved):
    folder, _model = saved("max")
    with pytest.raises(ConfigError, match="pools by max; the mean, the first or the last"):
        LabelTextEncoder.load(str(folder))


def test_a_further_module_is_refused(tmp_path):
    modules = [{"type": f"sentence_transformers.models.{name}", "path": ""} for name in ("Transformer", "Dense")]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="has a module 'Dense' after its transformer"):
        pooling_of(tmp_path)


@pytest.mark.parametrize(("key", "pooling"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")])
def test_older_configs_switch_modes_one_by_one(tmp_path, key, pooling):
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "1"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1").mkdir()
    switches = dict.fromkeys(("cls_token", "mean_tokens", "max_tokens", "lasttoken"), False) | {key: True}
    config = {f"pooling_mode_{name}": on for name, on in switches.items()} | {"word_embedding_dimension": 8}
    (tmp_path / "1" / "config.json").write_text(json.dumps(config))
    assert pooling_of(tmp_path) == pooling


def test_any_other_folder_is_pooled_by_the_mean(tmp_path):
    assert pooling_of(tmp_path) == "mean"
