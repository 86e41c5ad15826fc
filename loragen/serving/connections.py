"""Connections that do not wait for ever: uvicorn's own have no time in which the head of a request must come."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


def timely(seconds: float) -> type[H11Protocol]:
    """Connections that are closed where a request's head does not come in so many seconds."""

    class Timely(H11Protocol):
        _clock: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._clock is None:
                self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._clock is not None:
                self._clock.cancel()

        def _watch(self) -> None:
            self._clock = self.loop.call_later(seconds, self._look, self.cycle)

        def _look(self, before: object) -> None:
            """Close if the client is still where it was; one that waits for an answer is left alone."""
            self._clock = None
            if self.cycle is not None and not self.cycle.response_complete:
                return
            if self.cycle is before:
                self.transport.close()
            else:
                self._watch()

    return Timely
