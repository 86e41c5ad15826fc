"""What stands before every route: key, host, caps on body, time and number of requests."""

import asyncio
import base64
import json
import re
import shutil
import socket
import time

import pytest
from servers import client_of, on_a_socket

import loragen
from loragen.errors import ConfigError, ZooError
from loragen.serving.app import make_app
from loragen.serving.connections import timely
from loragen.serving.guard import Guard
from loragen.serving.settings import Limits, ServeSettings

KEY = "kéy with spaces"
HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json")]


class Shop:
    """An application that answers what it was sent, after a while; counts what came."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.met = seconds, 0

    async def __call__(self, scope, receive, send) -> None:
        self.met += 1
        message = await receive()
        await asyncio.sleep(self.seconds)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message["body"]})


def asked(guard: Guard, *parts, path="/embed", headers=HEADERS, method="POST", wait=0.0) -> tuple[int, bytes]:
    """Status and body of one request whose body comes in parts, each after a while; with none it never comes."""
    return asyncio.run(_asked(guard, parts, path, headers, method, wait))


async def _asked(guard, parts, path, headers, method, wait) -> tuple[int, bytes]:
    left, sent = list(parts), []

    async def receive():
        if not left:
            await asyncio.sleep(60)
        await asyncio.sleep(wait)
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left) or wait > 0}

    async def send(message) -> None:
        sent.append(message)

    await guard({"type": "http", "path": path, "method": method, "headers": headers}, receive, send)
    return sent[0]["status"], sent[1]["body"]


def guard(app=None, **limits) -> Guard:
    return Guard(app or Shop(), ServeSettings(limits=Limits(**limits)))


# --- key and host ---


@pytest.fixture(scope="module")
def locked():
    """A client of a server with a key, without what it would load: who has no key gets no further."""
    return client_of(make_app(ServeSettings(api_key=KEY)))


def routes(client) -> list[tuple[str, str]]:
    document = client.get("/openapi.json", headers={"x-api-key": KEY.encode()}).json()
    found = [(method, path) for path, methods in document["paths"].items() for method in methods]
    return [*found, *(("get", path) for path in ("/", "/page.js", "/page.css", "/openapi.json", "/nothing"))]


def test_every_route_but_health_wants_the_key(locked) -> None:
    every = routes(locked)
    assert len(every) > 20
    for method, path in every:
        answer = locked.request(method, re.sub(r"\{.*?\}", "x", path), headers={"x-api-key": b"wrong"})
        assert answer.status_code == (200 if path == "/health" else 401), path
    for path in ("/health/", "/health/../embed", "//health", "/HEALTH", "/health%00"):
        assert locked.get(path).status_code == 401


@pytest.mark.parametrize("scheme", ["bearer", "x-api-key", "basic"])
def test_the_key_comes_as_a_bearers_a_header_or_a_password(locked, scheme) -> None:
    def headers(key: str) -> dict[str, bytes]:
        if scheme == "basic":
            return {"authorization": b"Basic " + base64.b64encode(f"any:{key}".encode())}
        return {"authorization": b"Bearer " + key.encode()} if scheme == "bearer" else {"x-api-key": key.encode()}

    assert locked.get("/openapi.json", headers=headers(KEY)).status_code == 200
    for wrong in ("", "k", f"{KEY}x", KEY[:-1], KEY.upper()):
        answer = locked.get("/openapi.json", headers=headers(wrong))
        assert answer.status_code == 401, wrong
        assert answer.headers["www-authenticate"].startswith("Basic ")
    for broken in (b"Basic ***", b"Basic", b"Bearer", b"\xff", b"Digest a"):
        assert locked.get("/openapi.json", headers={"authorization": broken}).status_code == 401


def test_errors_are_in_the_form_of_those_who_ask(locked) -> None:
    assert locked.get("/v1/models").json()["error"]["type"] == "authentication"
    assert locked.get("/info").json()["error_type"] == "authentication"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost:8421", 200),
        (b"127.0.0.1", 200),
        (b"[::1]:80", 200),
        (b"LOCALHOST", 200),
        (b"evil.example", 421),
        (b"localhost.evil.example:8421", 421),
        (b"evil.example:127.0.0.1", 421),
        (b"", 421),
    ],
)
def test_other_names_of_this_machine_are_refused_without_a_key(host, status) -> None:
    app = Shop()
    headers = [(b"content-type", b"application/json"), (b"host", host)]
    assert asked(guard(app), b"{}", headers=headers)[0] == status
    assert app.met == (status == 200)


def test_other_machines_are_let_in_with_a_key_alone(tmp_path) -> None:
    for key in (None, ""):
        for host in ("0.0.0.0", "::", "192.168.0.7"):
            with pytest.raises(ConfigError, match="there is no key"):
                loragen.serve(tmp_path, host=host, api_key=key)
    with pytest.raises(ConfigError, match="port"):
        loragen.serve(tmp_path, port=70_000)


def test_an_empty_key_is_none() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ServeSettings(api_key="")


def test_a_zoo_that_is_none_is_one_error(tmp_path) -> None:
    with pytest.raises(ZooError):
        loragen.serve(tmp_path / "adapters", port=0, zoo=tmp_path / "nothing")


# --- body, time, number ---


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_bodies_that_other_sites_may_send_are_refused(kind) -> None:
    for more in ((b"content-length", b"2"), (b"transfer-encoding", b"chunked")):
        headers = [(b"host", b"localhost"), (b"content-type", kind.encode()), more]
        assert asked(guard(), b"{}", headers=headers)[0] == 415


@pytest.mark.parametrize("length", [b"1001", b"9" * 30, b"9" * 5_000, b"-5", b"1e3", "٣".encode()])
def test_a_body_told_to_be_too_large_is_refused_unread(length) -> None:
    headers = [*HEADERS, (b"content-length", length)]
    assert asked(guard(body=1_000), headers=headers)[0] == 413


def test_a_body_that_is_too_large_is_refused_wherever_it_ends() -> None:
    app = Shop()
    chunked = [*HEADERS, (b"transfer-encoding", b"chunked")]
    assert asked(guard(app, body=1_000), *[b"x" * 300] * 4, headers=chunked)[0] == 413
    assert asked(guard(app, body=1_000), b"x" * 400, b"x" * 600, headers=chunked) == (200, b"x" * 1_000)
    assert asked(guard(app, body=1_000), b"x" * 1_001, headers=[*HEADERS, (b"content-length", b"2")])[0] == 413
    assert app.met == 1


def test_a_slow_body_and_a_slow_answer_end() -> None:
    status, body = asked(guard(seconds_to_read=0.1), *[b"x"] * 50, wait=0.02)
    assert (status, json.loads(body)["error_type"]) == (408, "timeout")
    assert asked(guard(seconds_to_read=0.1))[0] == 408
    status, body = asked(guard(Shop(seconds=10), seconds=0.1), b"{}", path="/v1/adapters")
    assert (status, json.loads(body)["error"]["type"]) == (504, "timeout")


def test_more_requests_than_the_most_are_sent_away_and_room_comes_back() -> None:
    shop = Shop(seconds=0.1)
    kept = guard(shop, requests=3)

    async def five() -> list[int]:
        got = await asyncio.gather(*(_asked(kept, [b"{}"], "/embed", HEADERS, "POST", 0.0) for _ in range(5)))
        return sorted(status for status, _ in got)

    assert asyncio.run(five()) == [200, 200, 200, 429, 429]
    assert kept.at_once == 0
    assert asyncio.run(five()) == [200, 200, 200, 429, 429]


def test_room_comes_back_from_faults_and_time_outs() -> None:
    async def failing(_scope, _receive, _send) -> None:
        raise ZeroDivisionError

    kept = guard(failing, requests=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            asked(kept, b"{}")
    late = guard(Shop(seconds=5), requests=1, seconds=0.05)
    assert [asked(late, b"{}")[0] for _ in range(3)] == [504] * 3
    assert kept.at_once == late.at_once == 0


def test_streams_may_last_longer_than_an_answer() -> None:
    async def streaming(_scope, _receive, send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await asyncio.sleep(0.3)
        await send({"type": "http.response.body", "body": b"late"})

    assert asked(guard(streaming, seconds=0.1), b"{}") == (200, b"late")


def test_a_client_that_goes_before_its_body_is_let_go() -> None:
    app, sent = Shop(), []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message) -> None:
        sent.append(message)

    asyncio.run(guard(app)({"type": "http", "path": "/embed", "headers": HEADERS}, receive, send))
    assert (app.met, sent[0]["status"]) == (0, 400)


@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["first", "second"])
def test_a_connection_whose_head_does_not_come_is_closed(begun) -> None:
    with on_a_socket(guard(Shop(seconds=0.6)), http=timely(0.4), lifespan="off") as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(begun)
            while begun and b"200 OK" not in slow.recv(10_000):  # which takes longer, and is waited for
                pass
            for _ in range(3):
                slow.sendall(b"G")
                time.sleep(0.1)
            met = b""
            while (got := slow.recv(10_000)) != b"":
                met += got
            assert b"HTTP" not in met


# --- words ---


@pytest.mark.parametrize("damage", ["weights", "config", "card", "empty"])
def test_no_message_tells_where_things_lie(client, adapters, reviews, tmp_path, damage) -> None:
    name = f"broken-{damage}"
    shutil.copytree(adapters / reviews, adapters / name)
    file = {"weights": "adapter_model.safetensors", "config": "adapter_config.json", "card": "README.md"}
    for path in adapters.joinpath(name).iterdir() if damage == "empty" else [adapters / name / file[damage]]:
        path.write_bytes(b"" if damage == "empty" else b"---\n- [\n---\n\xff{")
    answers = [client.get(f"/v1/adapters/{name}"), client.get("/v1/adapters"), client.get("/v1/models")]
    answers += [client.post("/embed", json={"inputs": "a", "model": name})]
    answers += [client.post("/v1/adapters", json={"description": "a task", "name": name, "generator": "nothing"})]
    answers += [client.delete(f"/v1/adapters/{name}")]
    for answer in answers:
        assert answer.status_code in (200, 404, 422, 424), answer.text
        assert str(adapters) not in answer.text
        assert str(adapters.parent) not in answer.text
    shutil.rmtree(adapters / name, ignore_errors=True)
