"""Models and embeddings in OpenAI's form: against the library's own, and with OpenAI's client."""

import base64
import json

import numpy as np
import pytest
import torch
from servers import BASE

from loragen.inference import Adapter

TEXTS = ["The soup was cold.", "Great value, works as described!", "meh"]


def embed(client, **asked):
    content = json.dumps({"input": TEXTS, "model": BASE} | asked)
    return client.post("/v1/embeddings", content=content, headers={"content-type": "application/json"})


def vectors(answer) -> torch.Tensor:
    assert answer.status_code == 200, answer.text
    return torch.tensor([row["embedding"] for row in answer.json()["data"]])


@pytest.fixture(scope="module")
def own(adapters, reviews) -> dict[str, torch.Tensor]:
    """Embeddings by the library, under the adapter and under the base."""
    adapter = Adapter.load(adapters / reviews)
    base = adapter.opened_base
    rows = base.tokenize(TEXTS, max_length=128)
    found = {BASE: base.encode(rows)}
    with base.adapted(adapter.lora):
        found[reviews] = base.encode(rows)
    return found


def test_embeddings_are_those_of_the_library(client, reviews, own) -> None:
    for model, expected in own.items():
        assert torch.allclose(vectors(embed(client, model=model)), expected, atol=1e-5)
    assert torch.allclose(vectors(embed(client, model="all-MiniLM-L6-v2")), own[BASE], atol=1e-5)
    assert not torch.allclose(own[reviews], own[BASE], atol=1e-2)


def test_floats_and_base64_are_the_same_numbers(client, reviews) -> None:
    floats = vectors(embed(client, model=reviews))
    packed = embed(client, model=reviews, encoding_format="base64").json()["data"]
    assert [row["index"] for row in packed] == [0, 1, 2]
    for row, told in zip(floats, packed, strict=True):
        assert np.array_equal(np.frombuffer(base64.b64decode(told["embedding"]), "<f4"), row.numpy())


def test_fewer_dimensions_are_the_first_of_them_at_length_one(client, own) -> None:
    short = vectors(embed(client, dimensions=8))
    assert torch.allclose(short, torch.nn.functional.normalize(own[BASE][:, :8], dim=-1), atol=1e-5)
    for dimensions in (0, 385, 10**30):
        assert embed(client, dimensions=dimensions).status_code == 422


def test_usage_counts_tokens(client) -> None:
    answer = embed(client, input="soup").json()
    assert (answer["object"], answer["model"], len(answer["data"])) == ("list", BASE, 1)
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}  # with one before and one after the word


@pytest.mark.parametrize("given", ["", [], ["a", " "], [1, 2], [[1, 2]], ["a", 1], None, "\ud800", "a\0b", {"a": 1}])
def test_what_is_no_text_is_refused(client, given) -> None:
    answer = embed(client, input=given)
    assert answer.status_code == 422
    assert answer.json()["error"]["type"] == "validation"


def test_too_many_and_too_long_texts_are_refused(client) -> None:
    assert embed(client, input=["a"] * 2_049).status_code == 413
    assert embed(client, input="a" * 100_001).status_code == 413
    assert embed(client, input=["a b"] * 100).status_code == 200


def test_models_are_the_base_and_its_adapters(client, reviews) -> None:
    listed = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert (listed[BASE]["parent"], listed[BASE]["root"]) == (None, BASE)
    assert (listed[reviews]["parent"], listed[reviews]["root"]) == (BASE, BASE)
    assert listed[reviews]["created"] > 1.7e9
    for name, model in ((BASE, listed[BASE]), (reviews, listed[reviews])):
        assert client.get(f"/v1/models/{name}").json() == model
    for name in ("nothing", "..%2F..", "a%2Fb", "x" * 500):
        assert client.get(f"/v1/models/{name}").status_code == 404


def test_a_link_beside_the_adapters_does_not_break_the_list(client, adapters, reviews) -> None:
    (adapters / "link").symlink_to(adapters / reviews)
    answer = client.get("/v1/models")
    (adapters / "link").unlink()
    assert answer.status_code == 200
    assert "link" not in [model["id"] for model in answer.json()["data"]]


def test_a_base_that_embeds_writes_no_text(client) -> None:
    asked = {"model": BASE, "prompt": "a", "messages": [{"role": "user", "content": "a"}]}
    for route in ("/v1/completions", "/v1/chat/completions"):
        answer = client.post(route, json=asked)
        assert answer.status_code == 404
        assert "writes no text" in answer.json()["error"]["message"]


# --- OpenAI's own client ---


@pytest.fixture(scope="module")
def openai_client(server):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def test_openais_client_embeds_and_lists(openai_client, own) -> None:
    made = openai_client.embeddings.create(model=BASE, input=TEXTS)  # which asks for base64
    assert torch.allclose(torch.tensor([row.embedding for row in made.data]), own[BASE], atol=1e-5)
    assert made.usage.total_tokens > 10
    assert openai_client.models.list().data[0].id == BASE
    assert openai_client.models.retrieve(BASE).owned_by == "loragen"


def test_openais_client_reads_our_errors(openai_client) -> None:
    import openai

    for error, asked in (
        (openai.NotFoundError, {"model": "nothing", "input": "a"}),
        (openai.UnprocessableEntityError, {"model": BASE, "input": ""}),
        (openai.UnprocessableEntityError, {"model": BASE, "input": "a", "dimensions": 1_000}),
    ):
        with pytest.raises(error) as met:
            openai_client.embeddings.create(**asked)
        assert isinstance(met.value.body, dict)
        assert {"message", "type", "code"} <= met.value.body.keys()
        assert met.value.body["message"] in str(met.value)
