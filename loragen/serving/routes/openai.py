"""OpenAI's routes: models, embeddings and, over a language model, completions; an adapter's name is the model."""

import asyncio
import base64
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

import torch
import torch.nn.functional as F
from fastapi import APIRouter, HTTPException
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from torch import Tensor

from loragen.bases.base import Base
from loragen.bases.language_model import LanguageModel
from loragen.bases.tokenised import Input, tokens_of
from loragen.bases.wording import Chat
from loragen.errors import ConfigError, TaskError
from loragen.serving.folders import UnknownAdapter
from loragen.serving.routes.common import OfMetrics, OfService
from loragen.serving.routes.streaming import Stream
from loragen.serving.schemas import ChatRequest, CompletionRequest, EmbeddingsRequest, WritingRequest
from loragen.serving.service import Service, within
from loragen.serving.store import Served
from loragen.serving.texts import NOTHING, worded_as
from loragen.serving.writing import Choice, Write, Written
from loragen.tasks.words import refuse_unreadable, worded

router = APIRouter(prefix="/v1", tags=["OpenAI"])
MOST_PROMPT = 8_192
"""Tokens of a prompt."""


def _model(service: Service, name: str) -> dict[str, Any]:
    is_base = name == service.base_name
    return {
        "id": name,
        "object": "model",
        "created": 0 if is_base else service.store.folders.written(name),
        "owned_by": "loragen",
        "root": service.base_name,
        "parent": None if is_base else service.base_name,
    }


@router.get("/models")
def models(service: OfService, _: OfMetrics) -> dict[str, Any]:
    """The base, and the adapters over it."""
    found = []
    for name in (service.base_name, *service.store.folders.names()):
        with suppress(UnknownAdapter):  # it was deleted just now
            found.append(_model(service, name))
    return {"object": "list", "data": found}


@router.get("/models/{name:path}")
def model(name: str, service: OfService, _: OfMetrics) -> dict[str, Any]:
    """The base or an adapter."""
    return _model(service, name)


@router.post("/embeddings")
async def embeddings(asked: EmbeddingsRequest, service: OfService, metrics: OfMetrics) -> dict[str, Any]:
    """Embed texts under an adapter."""
    texts = _texts(service, asked.input)
    embedded = await service.texts.embed(texts, asked.model)
    metrics.texts.inc(len(texts))
    metrics.tokens.inc(embedded.tokens)
    vectors = embedded.vectors
    if asked.dimensions is not None:
        if asked.dimensions > vectors.shape[1]:
            raise ConfigError(f"{asked.dimensions} dimensions were asked for; the base gives {vectors.shape[1]}.")
        vectors = F.normalize(vectors[:, : asked.dimensions], dim=-1)
    data = [
        {"object": "embedding", "index": at, "embedding": _written(row, asked.encoding_format)}
        for at, row in enumerate(vectors)
    ]
    usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def _texts(service: Service, given: str | list[str] | list[int] | list[list[int]]) -> list[str]:
    """Texts; token ids, which clients of OpenAI's may send, are of another tokenizer.

    Raises:
        TaskError: there is none, one is empty or unreadable, or they are token ids.
        TooLarge: they are beyond the caps.
    """
    texts = [given] if isinstance(given, str) else list(given)
    within(service.limits.embeddings, len(texts), "inputs")
    named = [text for text in texts if isinstance(text, str)]
    if len(named) < len(texts):
        raise TaskError("The input is token ids, which are another tokenizer's; send texts.")
    within(service.limits.characters, max(map(len, named), default=0), "characters of a text")
    return list(worded(named, "inputs"))


def _written(row: Tensor, form: str) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(row.to(torch.float32).contiguous().numpy().tobytes()).decode()
    numbers: list[float] = row.tolist()
    return numbers


# --- language models ---


@router.post("/completions", response_model=None)
async def completions(
    asked: CompletionRequest, service: OfService, metrics: OfMetrics
) -> dict[str, Any] | StreamingResponse:
    """Go on from prompts under an adapter."""
    _writer(service)
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    within(service.limits.inputs, len(prompts), "prompts")
    within(service.limits.characters, max(map(len, prompts), default=0), "characters of a prompt")
    given = worded(prompts, "prompts")
    adapter = await run_in_threadpool(service.texts.served, asked.model)

    def cut(base: Base) -> Sequence[Input]:
        writer = worded_as(base, adapter)
        assert isinstance(writer, LanguageModel)
        return writer.prompts(given)

    rows = tokens_of(await run_in_threadpool(service.texts.alone, cut))
    return await _answered(asked, rows, service, metrics, kind="text_completion", limit=asked.max_tokens)


@router.post("/chat/completions", response_model=None)
async def chat(asked: ChatRequest, service: OfService, metrics: OfMetrics) -> dict[str, Any] | StreamingResponse:
    """Answer a chat under an adapter."""
    base = _writer(service)
    turns = [
        ("system" if message.role == "developer" else message.role, _content(message.content))
        for message in asked.messages
    ]
    within(service.limits.characters, sum(len(said) for _, said in turns), "characters of a chat")
    for _, said in turns:
        refuse_unreadable(said, "A message")
    turns = [*_own_system(turns, await run_in_threadpool(service.texts.served, asked.model)), *turns]
    rows = tokens_of([await run_in_threadpool(service.texts.alone, lambda _base: base.chat(turns))])
    limit = asked.max_completion_tokens or asked.max_tokens or service.limits.new_tokens
    return await _answered(asked, rows, service, metrics, kind="chat.completion", limit=limit)


def _own_system(turns: Sequence[tuple[str, str]], adapter: Served | None) -> list[tuple[Literal["system"], str]]:
    """The system turn that an adapter's prompts have, where a chat has none of its own."""
    wording = None if adapter is None else adapter.wording
    if not isinstance(wording, Chat) or not wording.system or any(role == "system" for role, _ in turns):
        return []
    return [("system", wording.system)]


def _writer(service: Service) -> LanguageModel:
    if not isinstance(service.base, LanguageModel):
        raise HTTPException(404, f"The base {service.base_name} writes no text; it embeds and classifies.")
    return service.base


def _content(content: str | list[dict[str, Any]]) -> str:
    """What a turn says; texts alone are read.

    Raises:
        TaskError: it holds something else.
    """
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in parts):
        raise TaskError("A message holds something else than text, which this base cannot read.")
    return "".join(part["text"] for part in parts)


async def _answered(
    asked: WritingRequest,
    rows: Sequence[Sequence[int]],
    service: Service,
    metrics: OfMetrics,
    *,
    kind: str,
    limit: int | None,
) -> dict[str, Any] | StreamingResponse:
    wanted = limit or 16
    within(service.limits.new_tokens, wanted, "new tokens")
    within(min(MOST_PROMPT, (service.base.max_tokens or MOST_PROMPT) - wanted), max(map(len, rows)), "prompt tokens")
    adapter = await run_in_threadpool(service.texts.served, asked.model)
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    seed = secrets.randbits(31) if asked.seed is None else asked.seed % 2**63
    one = 1.0 if asked.temperature is None else asked.temperature
    choices = [Choice(wanted, one, asked.top_p or 1.0, seed + at, tuple(filter(None, stop))) for at in range(len(rows))]
    factors = NOTHING if adapter is None else adapter.factors
    head = {
        "id": f"{'chatcmpl' if kind.startswith('chat') else 'cmpl'}-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": asked.model,
    }
    read = sum(map(len, rows))
    if asked.stream:
        told = Stream(service, head, kind)
        return StreamingResponse(told.lines(rows, factors, choices), media_type="text/event-stream")
    works = [Write(row, factors, choice) for row, choice in zip(rows, choices, strict=True)]
    try:
        made = await asyncio.gather(*(asyncio.wrap_future(service.batcher.add(work)) for work in works))
    except asyncio.CancelledError:
        for work in works:
            work.gone.set()
        raise
    written = sum(one.tokens for one in made)
    metrics.tokens.inc(read + written)
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    listed = [_choice(kind, at, one) for at, one in enumerate(made)]
    return {**head, "object": kind, "choices": listed, "usage": usage}


def _choice(kind: str, at: int, made: Written) -> dict[str, Any]:
    said: dict[str, Any] = {"text": made.text}
    if kind.startswith("chat"):
        said = {"message": {"role": "assistant", "content": made.text, "refusal": None}}
    return {"index": at, **said, "logprobs": None, "finish_reason": made.finish}
