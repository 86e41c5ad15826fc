"""Adapters made, listed, handed out and deleted over HTTP, and the jobs that make some of them."""

import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator

import pytest
import torch
from servers import client_of

import loragen
from loragen.adapters.adapter import Lora
from loragen.errors import ConfigError
from loragen.serving.app import make_app
from loragen.serving.jobs import ENDED, Job, Jobs
from loragen.serving.service import Service
from loragen.serving.settings import Limits, ServeSettings

TASK = {"description": "Does the guest praise the food or the staff?", "labels": ["food", "staff"]}
TEXTS = [
    f"the {word} was {how} on day {day}" for day in range(6) for word in ("soup", "waiter") for how in ("ok", "bad")
]
EXAMPLES = [{"text": text, "label": "food" if "soup" in text else "staff"} for text in TEXTS[:8]]


@pytest.fixture
def make(client) -> Iterator:
    """Makes adapters that are deleted after the test."""
    made = []

    def post(**asked):
        answer = client.post("/v1/adapters", json=TASK | asked)
        if answer.status_code == 201:
            made.extend([answer.json()["name"], *(one["name"] for one in answer.json().get("samples", ()))])
        return answer

    yield post
    for name in dict.fromkeys(made):
        client.delete(f"/v1/adapters/{name}")


def events(client, job) -> list[dict]:
    """All that is told of a job, to its end."""
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]


def test_an_adapter_is_made_and_said_where(make, client) -> None:
    answer = make(name="praise")
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == "/v1/adapters/praise"
    assert {made["name"], made["object"], made["description"]} == {"praise", "adapter", TASK["description"]}
    assert made["labels"] == TASK["labels"]
    gain = made["expected_gain"]
    assert gain["low"] <= gain["gain"] <= gain["high"]
    whole = client.get(answer.headers["location"]).json()
    assert whole | made == whole
    assert whole["card"]["labels"] == TASK["labels"]
    sizes = {file["name"]: file["bytes"] for file in whole["files"]}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= sizes.keys()
    assert min(sizes.values()) > 0


def test_names_are_made_from_the_description_and_numbered_where_they_are_taken(make, adapters) -> None:
    first = "does-the-guest-praise-the-food"
    assert [make().json()["name"] for _ in range(2)] == [first, f"{first}.2"]
    (adapters / "what-is-it").mkdir()  # no adapter, but it stands there
    assert make(description="What is it?", fallback=False).json()["name"] == "what-is-it.2"
    assert make(description="Con?", fallback=False).json()["name"] == "adapter-con"
    assert make(description="这是什么", fallback=False).json()["name"] == "adapter"


def test_samples_have_names_of_their_own(make, client) -> None:
    answer = make(name="drawn", samples=3).json()
    assert [one["name"] for one in answer["samples"]] == ["drawn", "drawn-2", "drawn-3"]
    assert client.get("/v1/adapters/drawn-3").status_code == 200
    assert make(name="drawn-2").status_code == 422


def test_a_taken_name_is_refused_and_replaced_where_that_is_wanted(make, client) -> None:
    make(name="twice")
    refused = make(name="twice", labels=["cook", "waiter"])
    assert refused.status_code == 422
    assert "already" in refused.json()["error"]["message"]
    assert make(name="twice", labels=["cook", "waiter"], replace=True).status_code == 201
    assert client.get("/v1/adapters/twice").json()["labels"] == ["cook", "waiter"]


def test_lists_hold_what_is_there(make, client) -> None:
    make(name="listed")
    told = client.get("/v1/adapters").json()
    (one,) = (one for one in told["data"] if one["name"] == "listed")
    assert one["labels"] == TASK["labels"]
    assert client.delete("/v1/adapters/listed").json() == {"name": "listed", "object": "adapter", "deleted": True}
    assert "listed" not in [one["name"] for one in client.get("/v1/adapters").json()["data"]]


@pytest.mark.parametrize("place", ["", "/folder.zip"])
def test_what_is_not_there_is_404(client, place) -> None:
    answer = client.get(f"/v1/adapters/nothing{place}")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == (
        "There is no adapter 'nothing'; GET /v1/adapters lists those there are."
    )
    assert client.delete("/v1/adapters/nothing").status_code == 404
    assert client.get("/v1/jobs/nothing").status_code == 404


def test_the_folder_is_handed_out_as_peft_reads_it(make, client, adapters, tmp_path) -> None:
    make(name="packed")
    (adapters / "packed" / "secret").symlink_to("/etc/hostname")
    answer = client.get("/v1/adapters/packed/folder.zip")
    (adapters / "packed" / "secret").unlink()
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert not any("secret" in name for name in archive.namelist())
        archive.extractall(tmp_path)
    given, kept = Lora.load(tmp_path / "packed"), Lora.load(adapters / "packed")
    assert given.sites == kept.sites
    assert all(torch.equal(given.delta_weight(site), kept.delta_weight(site)) for site in kept.sites)
    assert json.loads((tmp_path / "packed" / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_the_server_writes_the_bytes_that_the_library_writes(make, adapters, tmp_path) -> None:
    make(name="bytes", seed=7)
    loragen.generate(TASK["description"], labels=TASK["labels"], seed=7).save(tmp_path / "own")
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (adapters / "bytes" / name).read_bytes() == (tmp_path / "own" / name).read_bytes(), name


@pytest.mark.parametrize("more", [{"texts": TEXTS}, {"examples": EXAMPLES}], ids=["texts", "examples"])
def test_texts_and_examples_make_a_job_that_ends_in_an_adapter(client, more) -> None:
    answer = client.post("/v1/adapters", json=TASK | more | {"name": f"job-{next(iter(more))}"})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    claimed = client.post("/v1/adapters", json=TASK | {"name": job["adapters"][0]})
    assert claimed.status_code == 422
    assert "A job is making" in claimed.json()["error"]["message"]
    told = events(client, job)
    assert told[-1]["status"] == "done"
    assert told[-1]["progress"]["step"] == told[-1]["progress"]["steps"] > 0
    assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "done"
    (name,) = job["adapters"]
    assert client.get(f"/v1/adapters/{name}").json()["card"]["labels"] == TASK["labels"]
    client.delete(f"/v1/adapters/{name}")


def test_jobs_are_cancelled_and_more_than_the_most_refused(tmp_path) -> None:
    settings = ServeSettings(adapters=tmp_path / "adapters", limits=Limits(jobs=2))
    with client_of(make_app(settings)) as client:
        first, second = (client.post("/v1/adapters", json=TASK | {"texts": TEXTS}).json() for _ in range(2))
        assert first["adapters"] != second["adapters"]
        assert client.post("/v1/adapters", json=TASK | {"texts": TEXTS}).status_code == 429
        assert client.delete(f"/v1/jobs/{second['id']}").json()["status"] == "cancelled"  # it waited
        client.delete(f"/v1/jobs/{first['id']}")
        assert events(client, first)[-1]["status"] == "cancelled"
        assert client.get("/v1/adapters").json()["data"] == []
        third = client.post("/v1/adapters", json=TASK | {"texts": TEXTS})
        assert third.status_code == 202
        assert third.json()["adapters"] == first["adapters"]  # the name is free again
        begun = time.monotonic()
    assert time.monotonic() - begun < 10  # a server that ends waits for a step, not for the job
    assert json.loads((tmp_path / "adapters" / ".jobs.json").read_text()) == {
        third.json()["id"]: third.json()["adapters"]
    }


def test_those_who_wait_for_a_generation_keep_no_others_waiting(client, monkeypatch) -> None:
    has_begun, may_end, most = threading.Event(), threading.Event(), 10.0

    def generate(*_args) -> list[str]:
        has_begun.set()
        may_end.wait(most)
        return ["nothing"]

    monkeypatch.setattr(Service, "generate", generate)
    threads = [threading.Thread(target=client.post, args=("/v1/adapters",), kwargs={"json": TASK}) for _ in range(60)]
    for thread in threads:
        thread.start()
    try:
        assert has_begun.wait(60)
        begun = time.monotonic()
        for path in ("/health", "/v1/models"):
            assert client.get(path).status_code == 200
        assert time.monotonic() - begun < most / 2, "they were answered while all others waited"
    finally:
        may_end.set()
        for thread in threads:
            thread.join()


def test_a_failed_job_says_why_but_not_where(tmp_path) -> None:
    def fail(error: Exception) -> Job:
        def work(_progress) -> None:
            raise error

        job = jobs.start(["one"], work)
        while job.state not in ENDED:
            time.sleep(0.01)
        return job

    jobs = Jobs(tmp_path, 4, lambda message: message.replace(str(tmp_path), "here"))
    assert fail(ConfigError(f"no room in {tmp_path}")).told()["error"] == "no room in here"
    assert fail(KeyError(str(tmp_path))).told()["error"] == "The generation failed (KeyError)."
    jobs.stop()


def test_a_history_is_read_in_a_job_and_told_on_the_card(client) -> None:
    begun = client.post("/v1/adapters", json=TASK | {"name": "past", "history": ["tea a", "warm b"]})
    assert begun.status_code == 202, begun.text
    assert events(client, begun.json())[-1]["status"] == "done"
    assert client.get("/v1/adapters/past").json()["card"]["history"]["texts"] == 2
    client.delete("/v1/adapters/past")


def test_a_job_that_cannot_be_met_is_refused_at_once(client) -> None:
    asked = TASK | {"name": "failing", "texts": TEXTS, "shares": [1.0]}
    assert client.post("/v1/adapters", json=asked).status_code == 422
    strange = client.post("/v1/adapters", json=TASK | {"examples": [{"text": "a", "label": "b"}]})
    assert strange.status_code == 422
    assert "not among the labels" in strange.json()["error"]["message"]


@pytest.mark.parametrize("left", ['{"0123": ["lost"]}', "[]", "{", '{"0123": 5}', "[" * 10_000])
def test_jobs_of_a_killed_server_are_told_to_be_gone(tmp_path, left) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / ".jobs.json").write_text(left)
    jobs = Jobs(tmp_path / "adapters", 4)
    gone = jobs.get("0123")
    assert (gone is not None) == ("lost" in left)
    assert jobs.claimed() == set()
    jobs.stop()


def test_a_job_that_is_gone_is_410(tmp_path) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / ".jobs.json").write_text('{"0123": ["lost"]}')
    with client_of(make_app(ServeSettings(adapters=tmp_path / "adapters"))) as client:
        answer = client.get("/v1/jobs/0123")
        assert answer.status_code == 410
        assert answer.json()["status"] == "gone"
        assert events(client, answer.json())[-1]["adapters"] == ["lost"]
