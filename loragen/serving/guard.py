"""What stands before every route: key, host, caps on body, time and number of requests. A plain ASGI wrapper."""

import asyncio
import base64
import binascii
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from loragen.serving.settings import ServeSettings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
OPEN = "/health"
"""The one route that wants no key."""
STREAMING = ("/events",)
"""Endings of routes that last as long as what they tell of."""
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class Refused(Exception):
    """A request that is not let through."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


@dataclass(eq=False)
class Guard:
    """Lets requests through to an application, or refuses them."""

    app: App
    settings: ServeSettings
    at_once: int = field(default=0, init=False)
    """Requests that are being answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        watched = _Watched(send, scope["path"])
        try:
            self._check(scope)
            body = await self._body(scope, receive)
            await self._answered(scope, _replayed(body, receive), watched)
        except Refused as refused:
            await watched.refuse(refused)
        except TimeoutError:
            await watched.refuse(Refused(504, f"No answer within {self.settings.limits.seconds:g} s."))

    async def _answered(self, scope: Scope, receive: Receive, watched: "_Watched") -> None:
        limits = self.settings.limits
        if self.at_once >= limits.requests:
            raise Refused(429, f"{limits.requests} requests are at work; try again.", ((b"retry-after", b"1"),))
        self.at_once += 1
        try:
            lasts = scope["path"].endswith(STREAMING)
            async with asyncio.timeout(None if lasts else limits.seconds) as clock:
                watched.on_stream = lambda: clock.reschedule(None)
                await self.app(scope, receive, watched)
        finally:
            self.at_once -= 1

    def _check(self, scope: Scope) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self.settings.api_key is None:
            # Without a key, a page of anyone's in a browser on this machine must not get in by a name of its own.
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] if ":" in host else host
            if self.settings.is_local and name not in LOCAL_HOSTS:
                raise Refused(421, "This server answers to localhost alone.")
        elif scope["path"] != OPEN and not self._has_key(headers):
            raise Refused(
                401,
                "An API key is wanted: Authorization: Bearer KEY.",
                ((b"www-authenticate", b'Basic realm="loragen", charset="UTF-8"'),),
            )
        has_body = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        # Browsers send this type from other sites only where the server allows it, and this one does not.
        if has_body and kind != b"application/json":
            raise Refused(415, "The body is to be JSON; send it with Content-Type: application/json.")

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        """True if the key comes as a bearer's or, from a browser, as a password."""
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        key = (self.settings.api_key or "").encode()
        if kind.lower() == b"basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return False
        elif kind.lower() != b"bearer":
            given = headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given.strip(), key)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, within its bytes and its time."""
        limits = self.settings.limits
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if not told.isdigit() or len(told) > 18 or int(told) > limits.body:
            raise Refused(413, f"The body is over {limits.body:,} bytes.")
        parts, size = [], 0
        try:
            async with asyncio.timeout(limits.seconds_to_read):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "The request ended before its body.")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limits.body:
                        raise Refused(413, f"The body is over {limits.body:,} bytes.")
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(408, f"The body did not come within {limits.seconds_to_read:g} s.") from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once, and then what the client does."""
    is_read = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


@dataclass(eq=False)
class _Watched:
    """Passes an answer on, and knows if it has begun."""

    send: Send
    path: str
    on_stream: Callable[[], None] = lambda: None
    """Called when an answer begins that comes in pieces."""
    has_begun: bool = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            if dict(message["headers"]).get(b"content-type", b"").startswith(b"text/event-stream"):
                self.on_stream()
        await self.send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.has_begun:
            return
        content = json.dumps(error_body(self.path, refused.status, str(refused))).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        headers += [(b"connection", b"close"), *refused.headers]
        await self.send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": content})


_KINDS = {400: "malformed", 401: "authentication", 404: "not_found", 408: "timeout", 413: "too_large"}
_KINDS |= {415: "malformed", 421: "authentication", 422: "validation", 424: "backend", 429: "overloaded"}
_KINDS |= {503: "unhealthy", 504: "timeout", 507: "no_room"}


def error_body(path: str, status: int, message: str) -> dict[str, Any]:
    """An error as OpenAI's clients read it under ``/v1``, and as TEI's do elsewhere."""
    kind = _KINDS.get(status, "backend")
    if path.startswith("/v1/"):
        return {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return {"error": message, "error_type": kind}
