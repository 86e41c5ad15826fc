"""Adapters that a server writes for another engine as well, and labels that a language model judges."""

import json
from pathlib import Path

import pytest
from language_zoo import write_language_zoo
from servers import client_of

import loragen
from loragen.adapters.adapter import Lora
from loragen.errors import ConfigError
from loragen.serving.app import make_app
from loragen.serving.settings import ServeSettings

ASKED = {"description": "Name what somebody drinks.", "name": "drinks", "generator": "mean", "labels": ["soup", "tea"]}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    return write_language_zoo(tmp_path_factory.mktemp("language"))


@pytest.fixture
def dropping(zoo, tmp_path):
    """A client of a server that drops adapters for vLLM."""
    settings = ServeSettings(
        adapters=tmp_path / "adapters",
        zoo=str(zoo),
        generator="mean",
        drop=tmp_path / "dropped",
        base_name="org/served",
    )
    with client_of(make_app(settings)) as client:
        yield client


def test_every_adapter_is_written_for_the_engine_too(dropping, tmp_path) -> None:
    answer = dropping.post("/v1/adapters", json=ASKED)
    assert answer.status_code == 201, answer.text
    kept, dropped = (Lora.load(tmp_path / place / "drinks") for place in ("adapters", "dropped"))
    config = json.loads((tmp_path / "dropped" / "drinks" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/served"
    assert config["target_modules"] == ["q_proj", "v_proj"]
    for site in kept.sites:
        assert (kept.delta_weight(site) - dropped.delta_weight(site)).abs().max() < 1e-6


def test_it_is_deleted_and_replaced_in_both_places(dropping, tmp_path) -> None:
    dropping.post("/v1/adapters", json=ASKED)
    assert dropping.post("/v1/adapters", json=ASKED | {"replace": True}).status_code == 201
    assert dropping.delete("/v1/adapters/drinks").status_code == 200
    assert not (tmp_path / "adapters" / "drinks").exists()
    assert not (tmp_path / "dropped" / "drinks").exists()


def test_what_somebody_put_there_is_left_alone(dropping, tmp_path) -> None:
    (tmp_path / "dropped" / "drinks").mkdir(parents=True)
    (tmp_path / "dropped" / "drinks" / "thesis.txt").write_text("mine")
    answer = dropping.post("/v1/adapters", json=ASKED)
    assert answer.status_code == 422
    assert (tmp_path / "dropped" / "drinks" / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "adapters" / "drinks").exists()


def test_what_the_engine_would_refuse_is_not_kept(tmp_path) -> None:
    settings = ServeSettings(adapters=tmp_path / "adapters", drop=tmp_path / "dropped")
    with client_of(make_app(settings)) as client:
        answer = client.post("/v1/adapters", json={"description": "Sort letters.", "name": "post"})
    assert answer.status_code == 424
    assert "vLLM" in answer.json()["error"]["message"]
    assert not (tmp_path / "adapters" / "post").exists()


def test_an_engine_that_nobody_knows_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no engine that picks up folders"):
        loragen.serve(tmp_path, drop=tmp_path / "dropped", drop_for="gguf")


def test_a_language_model_judges_labels_by_their_likelihood(dropping, zoo, tmp_path) -> None:
    dropping.post("/v1/adapters", json=ASKED)
    texts = ["a soup b", "warm tea"]
    answer = dropping.post("/predict", json={"inputs": texts, "model": "drinks"})
    assert answer.status_code == 200, answer.text
    own = loragen.Adapter.load(tmp_path / "adapters" / "drinks").classify(texts)
    for row, wanted in zip(answer.json(), own, strict=True):
        assert row[0]["label"] == wanted.label
        assert {one["label"]: round(one["score"], 4) for one in row} == pytest.approx(wanted.by_label, abs=2e-4)


def test_the_base_is_known_by_its_folders_name_alone(dropping, zoo) -> None:
    told = dropping.get("/info").text + dropping.get("/v1/models").text + dropping.get("/zoo").text
    assert str(zoo.parent) not in told
    assert dropping.get("/info").json()["model_id"] == "base"
    assert dropping.post("/embed", json={"inputs": "warm tea", "model": "base"}).status_code == 200
