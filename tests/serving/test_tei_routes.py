"""Routes of Text Embeddings Inference: shapes, numbers and codes, and the Hub's client."""

import shutil

import pytest
import torch
from servers import BASE, DESCRIPTION, LABELS

from loragen.inference import Adapter
from loragen.serving.routes import openai as openai_routes

TEXTS = ["It broke after a day.", "Lovely, would buy again.", "It is a lamp."]
JSON = {"content-type": "application/json"}


@pytest.fixture
def damaged(client, adapters, reviews) -> str:
    """An adapter whose weights are none."""
    shutil.copytree(adapters / reviews, adapters / "damaged")
    (adapters / "damaged" / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    yield "damaged"
    shutil.rmtree(adapters / "damaged")


def test_embed_gives_rows_of_length_one(client, reviews) -> None:
    one = client.post("/embed", json={"inputs": TEXTS[0], "model": reviews}).json()
    rows = client.post("/embed", json={"inputs": TEXTS, "model": reviews}).json()
    assert torch.allclose(torch.tensor(one), torch.tensor(rows[:1]), atol=1e-5)
    assert torch.allclose(torch.tensor(rows).norm(dim=1), torch.ones(3), atol=1e-5)
    bare = client.post("/embed", json={"inputs": TEXTS}).json()
    assert bare == client.post("/embed", json={"inputs": TEXTS, "model": BASE}).json()
    assert bare != rows


def test_a_text_is_cut_unless_that_is_unwanted(client) -> None:
    long = "soup " * 200
    assert client.post("/embed", json={"inputs": long}).status_code == 200
    assert client.post("/embed", json={"inputs": long, "truncate": False}).status_code == 413
    assert client.post("/embed", json={"inputs": "soup " * 126, "truncate": False}).status_code == 200
    assert client.post("/embed", json={"inputs": "soup", "normalize": False}).status_code == 422


@pytest.mark.parametrize("labels", [None, ["praise", "complaint", "neither"]])
def test_predict_gives_what_the_library_gives(client, adapters, reviews, labels) -> None:
    asked = {"inputs": TEXTS, "model": reviews} | ({"labels": labels} if labels else {})
    rows = client.post("/predict", json=asked).json()
    own = Adapter.load(adapters / reviews).classify(TEXTS, labels)
    for row, prediction in zip(rows, own, strict=True):
        assert row[0]["label"] == prediction.label
        assert {one["label"]: one["score"] for one in row} == pytest.approx(prediction.by_label, abs=1e-4)
        assert sorted((one["score"] for one in row), reverse=True) == [one["score"] for one in row]
    assert client.post("/predict", json=asked | {"inputs": TEXTS[0]}).json()[0]["label"] == own[0].label
    assert client.post("/predict", json=asked | {"inputs": [[text] for text in TEXTS]}).status_code == 422


def test_predict_wants_labels_that_differ(client, reviews) -> None:
    for labels in ([], ["one"], ["a", "a", "b"], ["a", ""], ["a", "\0"]):
        assert client.post("/predict", json={"inputs": "a", "labels": labels}).status_code == 422, labels
    assert client.post("/predict", json={"inputs": "a"}).status_code == 422  # the base has none of its own
    assert client.post("/predict", json={"inputs": "a", "labels": [str(i) for i in range(201)]}).status_code == 413


def test_label_vectors_follow_a_replaced_adapter(client, adapters) -> None:
    asked = {"description": DESCRIPTION, "labels": LABELS, "name": "replaced"}
    client.post("/v1/adapters", json=asked)
    client.post("/predict", json={"inputs": TEXTS, "model": "replaced"})
    client.post("/v1/adapters", json=asked | {"description": "Which food is it about?", "replace": True})
    rows = client.post("/predict", json={"inputs": TEXTS, "model": "replaced"}).json()
    own = Adapter.load(adapters / "replaced").classify(TEXTS)
    assert [max(row, key=lambda one: one["score"])["label"] for row in rows] == [one.label for one in own]
    assert {one["label"]: one["score"] for one in rows[0]} == pytest.approx(own[0].by_label, abs=1e-4)
    client.delete("/v1/adapters/replaced")


def test_rerank_and_similarity_are_of_one_mind(client, reviews) -> None:
    asked = {"query": "a broken lamp", "texts": TEXTS, "model": reviews}
    ranked = client.post("/rerank", json=asked | {"raw_scores": True, "return_text": True}).json()
    likeness = client.post(
        "/similarity", json={"inputs": {"source_sentence": "a broken lamp", "sentences": TEXTS}, "model": reviews}
    ).json()
    assert [one["index"] for one in ranked] == sorted(range(3), key=lambda at: -likeness[at])
    for one in ranked:
        assert one["score"] == pytest.approx(likeness[one["index"]], abs=1e-5)
        assert one["text"] == TEXTS[one["index"]]
    scaled = client.post("/rerank", json=asked).json()
    assert all(0 <= one["score"] <= 1 and one.keys() == {"index", "score"} for one in scaled)


def test_info_health_and_metrics(client, reviews) -> None:
    told = client.get("/info").json()
    assert told["model_id"] == BASE
    assert told["max_client_batch_size"] == 32
    assert told["model_type"] == {"embedding": {"pooling": "mean"}}
    assert "sg" in told["generators"]
    assert client.get("/health").content == b""
    client.post("/embed", json={"inputs": TEXTS})
    figures = client.get("/metrics").text
    assert 'loragen_requests_total{route="/embed"}' in figures
    assert "loragen_adapter_cache_bytes" in figures


@pytest.mark.parametrize("route", ["/embed", "/predict", "/rerank", "/similarity", "/v1/embeddings", "/v1/adapters"])
def test_codes_of_what_is_malformed_or_wrong(client, route) -> None:
    for body in (b"{", b"\xff\xfe\x00", b"[" * 50_000, b'{"a": NaN', b"'a'"):
        assert client.post(route, content=body, headers=JSON).status_code == 400, body[:10]
    for body in (b"[]", b"{}", b"null", b'"text"', b'{"inputs": 5, "input": 5, "model": 5}', b""):
        assert client.post(route, content=body, headers=JSON).status_code == 422, body


def test_codes_of_what_is_too_much(client) -> None:
    for route, asked in (
        ("/embed", {"inputs": ["a"] * 33}),
        ("/predict", {"inputs": ["a"] * 33, "labels": LABELS}),
        ("/rerank", {"query": "a", "texts": ["a"] * 33}),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["a"] * 33}}),
        ("/embed", {"inputs": "a" * 100_001}),
        ("/embed", {"inputs": ["a" * 90_000] * 23}),  # 2 MB
        ("/v1/adapters", {"description": "a" * 4_001}),
        ("/v1/adapters", {"description": "a", "samples": 9}),
    ):
        assert client.post(route, json=asked).status_code == 413, route


def test_codes_of_adapters_that_are_missing_or_damaged(client, adapters, damaged) -> None:
    for name, code, kind in (("nothing", 404, "not_found"), ("../x", 404, "not_found"), (damaged, 424, "backend")):
        answer = client.post("/embed", json={"inputs": "a", "model": name})
        assert (answer.status_code, answer.json()["error_type"]) == (code, kind)
        assert str(adapters) not in answer.text
    listed = client.get("/v1/adapters")
    assert damaged in listed.json()["broken"]
    assert str(adapters) not in listed.text


def test_a_fault_of_the_server_tells_nothing_of_its_insides(client, monkeypatch) -> None:
    monkeypatch.setattr(openai_routes, "_written", lambda *_args: 1 / 0)
    answer = client.post("/v1/embeddings", json={"input": "a", "model": BASE})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "The server failed at this request (ZeroDivisionError)."


def test_wrong_methods_say_which_are_right(client) -> None:
    answer = client.put("/embed", json={})
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


def test_the_hubs_client_asks_routes_by_their_address(server, monkeypatch) -> None:
    """It posts to the address that it is given, so that is the route; ``text_classification`` is not tried here:
    it reads a list of lists for one text, where TEI gives one list.
    """
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)  # which forbids this machine too
    client = hub.InferenceClient(token="none")
    rows = client.feature_extraction(TEXTS, normalize=True, model=f"{server.address}/embed")
    assert rows.shape == (3, 384)
    found = client.sentence_similarity(TEXTS[0], TEXTS[1:], model=f"{server.address}/similarity")
    assert len(found) == 2
    assert found[0] == pytest.approx(float(rows[0] @ rows[1]), abs=1e-5)
