"""Servers in processes of their own: many clients at once, slow ones, and ends of every kind.

The flood lasts ``LORAGEN_FLOOD`` seconds, 3 by default, and a minute where ``LORAGEN_FUZZ`` is "long".
"""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter

import pytest
from servers import BASE, DESCRIPTION, LABELS, client_of

from loragen.adapters.adapter import Lora
from loragen.files import MANIFEST
from loragen.serving.app import make_app
from loragen.serving.settings import ServeSettings

httpx = pytest.importorskip("httpx")

SECONDS = float(os.environ.get("LORAGEN_FLOOD") or (60 if os.environ.get("LORAGEN_FUZZ") == "long" else 3))
CLIENTS = 200
TASK = {"description": DESCRIPTION, "labels": LABELS}


def requests(client: int, number: int) -> list[tuple[str, str, object]]:
    """What one client asks in turn; few generate, and some ask what there is not."""
    texts = [f"text {number} of {client}"] * (1 + client % 4)
    name = f"flood-{client}"
    many = [
        ("POST", "/embed", {"inputs": texts, "model": "flood"}),
        ("POST", "/embed", {"inputs": texts, "truncate": False}),
        ("POST", "/predict", {"inputs": texts, "model": "flood", "labels": [f"good {client}", "bad"]}),
        ("POST", "/v1/embeddings", {"input": texts, "model": BASE, "encoding_format": "base64"}),
        ("POST", "/embed", {"inputs": texts, "model": name}),
        ("GET", "/zoo/search?description=mood", None),
        ("GET", "/v1/adapters", None),
        ("GET", "/v1/models", None),
        ("GET", "/metrics", None),
        ("POST", "/rerank", {"query": ""}),
    ]
    if client % 20 == 0:
        many += [
            ("POST", "/v1/adapters", TASK | {"name": name, "replace": True}),
            ("DELETE", f"/v1/adapters/{name}", None),
        ]
    return many[number % len(many) :] + many[: number % len(many)]


async def flood(address: str) -> Counter:
    """Statuses that clients got who ask one thing after another, all at once."""
    met: Counter = Counter()
    end = time.monotonic() + SECONDS
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:

        async def ask(number: int) -> None:
            turn = number
            while time.monotonic() < end:
                method, path, body = requests(number, turn)[0]
                answer = await client.request(method, path, json=body) if body else await client.request(method, path)
                met[answer.status_code] += 1
                if answer.status_code >= 500:
                    met[path, answer.text[:200]] += 1
                turn += 1

        await asyncio.gather(*map(ask, range(CLIENTS)))
    return met


def test_many_clients_at_once_meet_no_fault(server) -> None:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        client.post("/v1/adapters", json=TASK | {"name": "flood"}).raise_for_status()
        met = asyncio.run(flood(server.address))
        faults = {code: number for code, number in met.items() if code not in (200, 201, 404, 422, 429, 503)}
        assert not faults, met
        assert met[200] > CLIENTS / 4
        assert client.get("/health").status_code == 200
        figures = client.get("/metrics").text
        assert "loragen_waiting_works 0.0" in figures


@pytest.mark.parametrize("body", [False, True], ids=["heads", "bodies"])
def test_slow_clients_stop_no_others(server, body) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    head = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900\r\n"
    with contextlib.ExitStack() as opened:
        slow = [opened.enter_context(socket.create_connection((host, int(port)), timeout=30)) for _ in range(100)]
        for one in slow:
            one.sendall(head + (b"\r\n" if body else b"X: "))
        with httpx.Client(base_url=server.address, timeout=30) as client:
            for _ in range(3):
                for one in slow:
                    one.sendall(b" ")
                begun = time.monotonic()
                assert client.post("/embed", json={"inputs": "quick"}).status_code == 200
                assert time.monotonic() - begun < 5
                time.sleep(0.3)


def generate(address: str, end: threading.Event, met: list) -> None:
    number = 0
    with httpx.Client(base_url=address, timeout=60) as client:
        while not end.is_set():
            number += 1
            try:
                asked = TASK | {"seed": number, "name": f"made-{number % 3}", "replace": True}
                met.append(client.post("/v1/adapters", json=asked).status_code)
            except httpx.HTTPError as error:
                met.append(type(error))
                return


def test_a_killed_server_leaves_no_half_adapter(processes) -> None:
    server, end, met = processes.start(), threading.Event(), list[object]()
    threads = [threading.Thread(target=generate, args=(server.address, end, met)) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    while met.count(201) < 4 and time.monotonic() < begun + 60:
        time.sleep(0.01)
    server.run.send_signal(signal.SIGKILL)
    server.run.wait(10)
    end.set()
    for thread in threads:
        thread.join()
    folders = [path for path in server.adapters.iterdir() if not path.name.startswith(".")]
    assert folders
    for folder in folders:
        assert (folder / MANIFEST).is_file()
        assert Lora.load(folder).sites
    with client_of(make_app(ServeSettings(adapters=server.adapters))) as client:
        told = client.get("/v1/adapters").json()
        assert [one["name"] for one in told["data"]] == sorted(folder.name for folder in folders)
        assert told["broken"] == {}
        assert client.post("/v1/adapters", json=TASK | {"name": "made-1", "replace": True}).status_code == 201
    assert not [path.name for path in server.adapters.iterdir() if path.name.endswith((".partial", ".deleted"))]


def test_a_server_told_to_end_answers_first(processes) -> None:
    server, answers, begin = processes.start(), dict[str, object](), threading.Barrier(3)
    texts = [f"a review of lamp {number}" for number in range(60)]
    job = httpx.post(f"{server.address}/v1/adapters", json=TASK | {"name": "job", "texts": texts}).json()["id"]

    def follow() -> None:
        with httpx.stream("GET", f"{server.address}/v1/jobs/{job}/events", timeout=60) as stream:
            answers["events"] = list(stream.iter_lines())

    def ask(name: str) -> None:
        with httpx.Client(base_url=server.address, timeout=60) as client:
            client.get("/health")  # the connection stands
            begin.wait()
            answers[name] = client.post("/v1/adapters", json=TASK | {"name": name}).status_code

    threads = [threading.Thread(target=follow), *(threading.Thread(target=ask, args=(name,)) for name in ("a", "b"))]
    for thread in threads:
        thread.start()
    begin.wait()
    time.sleep(0.3)
    server.run.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    server.run.wait(20)
    assert time.monotonic() - begun < 9  # before those who are left are cut off
    for thread in threads:
        thread.join()
    assert (answers["a"], answers["b"]) == (201, 201)
    assert answers["events"]
    assert job in (server.adapters / ".jobs.json").read_text()
    assert sorted(path.name for path in server.adapters.iterdir()) == [".jobs.json", "a", "b"]
