"""Answers of a language model in pieces, as server-sent events in OpenAI's form."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from loragen.serving.guard import error_body
from loragen.serving.service import Service
from loragen.serving.writing import Choice, Write, Written

FAILED = "error"
"""End of a text that the server failed at."""


class Stream:
    """Answers in pieces, as server-sent events."""

    def __init__(self, service: Service, head: dict[str, Any], kind: str) -> None:
        self._service, self._head, self._is_chat = service, head, kind.startswith("chat")
        self._kind = "chat.completion.chunk" if self._is_chat else kind

    async def lines(self, rows: Sequence[Sequence[int]], factors: Any, choices: Sequence[Choice]) -> AsyncIterator[str]:
        """Pieces of all rows as they come, and an end."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, str | None, str | None]]()

        def hear(at: int, text: str) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, (at, text, None))

        def finish(at: int, done: Future[Written]) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, (at, None, _end(done)))

        works = []
        for at, (row, choice) in enumerate(zip(rows, choices, strict=True)):
            work = Write(row, factors, choice, on_text=partial(hear, at))
            work.done.add_done_callback(partial(finish, at))
            works.append(work)
            self._service.batcher.add(work)
        try:
            if self._is_chat:
                yield self._line(0, {"delta": {"role": "assistant", "content": ""}}, None)
            left = len(rows)
            while left:
                at, text, end = await queue.get()
                left -= end is not None
                if end == FAILED:
                    yield f"data: {json.dumps(error_body('/v1/', 500, 'The server failed at this request.'))}\n\n"
                    continue
                said: dict[str, Any] = {"text": text or ""}
                if self._is_chat:
                    said = {"delta": {"content": text} if text else {}}
                yield self._line(at, said, end)
            yield "data: [DONE]\n\n"
        finally:
            for work in works:
                work.gone.set()

    def _line(self, at: int, said: dict[str, Any], end: str | None) -> str:
        choice = {"index": at, **said, "logprobs": None, "finish_reason": end}
        return f"data: {json.dumps({**self._head, 'object': self._kind, 'choices': [choice]})}\n\n"


def _end(done: Future[Written]) -> str:
    return FAILED if done.cancelled() or done.exception() else done.result().finish
