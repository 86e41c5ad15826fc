"""Routes of Text Embeddings Inference, with an adapter's name beside what it knows; and its figures."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from loragen.bases.architecture import auto_class
from loragen.bases.language_model import LanguageModel
from loragen.errors import TaskError
from loragen.serving.routes.common import OfMetrics, OfService, checked_texts
from loragen.serving.schemas import EmbedRequest, PredictRequest, RerankRequest, SimilarityRequest
from loragen.serving.service import Service, within
from loragen.serving.texts import MAX_LENGTH

router = APIRouter(tags=["TEI"])
InAddress = Annotated[str | None, Query(description="The adapter, for clients that cannot name it in the body.")]


@router.post("/embed")
async def embed(
    asked: EmbedRequest, service: OfService, metrics: OfMetrics, model: InAddress = None
) -> list[list[float]]:
    """Embed texts; vectors have the length 1."""
    texts = checked_texts(service, asked.inputs)
    if not asked.normalize:
        raise TaskError("Vectors have the length 1 here; leave normalize out.")
    await _refuse_cut(service, texts, truncate=asked.truncate)
    embedded = await service.texts.embed(texts, asked.model or model)
    metrics.texts.inc(len(texts))
    metrics.tokens.inc(embedded.tokens)
    rows: list[list[float]] = embedded.vectors.tolist()
    return rows


async def _refuse_cut(service: Service, texts: Sequence[str], *, truncate: bool) -> None:
    if truncate:
        return
    rows = await run_in_threadpool(service.texts.tokenize, texts, MAX_LENGTH + 1)
    within(MAX_LENGTH, max(map(len, rows)), "tokens of a text (and truncate is false)")


@router.post("/predict")
async def predict(asked: PredictRequest, service: OfService, metrics: OfMetrics, model: InAddress = None) -> list[Any]:
    """Classes of texts, the likeliest first; labels are the adapter's own unless some are named."""
    texts = checked_texts(service, _singles(asked.inputs))
    within(service.limits.labels, len(asked.labels or ()), "labels")
    guesses = await service.texts.predict(texts, asked.model or model, asked.labels)
    metrics.texts.inc(len(texts))
    rows = [[{"score": guess.score, "label": guess.label} for guess in row] for row in guesses]
    return rows[0] if isinstance(asked.inputs, str) else rows


def _singles(inputs: str | list[str] | list[list[str]]) -> str | list[str]:
    if isinstance(inputs, str):
        return inputs
    named = [text for text in inputs if isinstance(text, str)]
    if len(named) < len(inputs):
        raise TaskError("Inputs are lists; pairs are not classified here, give texts.")
    return named


@router.post("/rerank")
async def rerank(
    asked: RerankRequest, service: OfService, metrics: OfMetrics, model: InAddress = None
) -> list[dict[str, Any]]:
    """Texts in the order of their likeness to a query."""
    texts = checked_texts(service, asked.texts)
    (query,) = checked_texts(service, asked.query)
    scores = await service.texts.likeness(query, texts, asked.model or model)
    metrics.texts.inc(len(texts) + 1)
    # TEI's scores are a reranker's, between 0 and 1 unless raw ones are asked for.
    told = scores if asked.raw_scores else [(1 + score) / 2 for score in scores]
    order = torch.tensor(scores).argsort(descending=True, stable=True).tolist()
    return [{"index": at, "score": told[at]} | ({"text": texts[at]} if asked.return_text else {}) for at in order]


@router.post("/similarity")
async def similarity(
    asked: SimilarityRequest, service: OfService, metrics: OfMetrics, model: InAddress = None
) -> list[float]:
    """Cosine of a sentence with others."""
    others = checked_texts(service, asked.inputs.sentences)
    (source,) = checked_texts(service, asked.inputs.source_sentence)
    metrics.texts.inc(len(others) + 1)
    return await service.texts.likeness(source, others, asked.model or model)


@router.get("/info")
def info(service: OfService, _: OfMetrics) -> dict[str, Any]:
    """The base, the zoo, and the caps."""
    limits, writes = service.limits, isinstance(service.base, LanguageModel)
    return {
        "model_id": service.base_name,
        "model_sha": service.base.fingerprint,
        "model_dtype": str(next(service.base.model.parameters()).dtype).removeprefix("torch."),
        "model_type": {"generation": {}} if writes else {"embedding": {"pooling": service.base.pooling}},
        "auto_class": auto_class(type(service.base).task_type),
        "max_input_length": MAX_LENGTH,
        "max_concurrent_requests": limits.requests,
        "max_client_batch_size": limits.inputs,
        "auto_truncate": True,
        "version": version("loragen"),
        "zoo": service.zoo.manifest.name,
        "experts": len(service.pipeline(service.generator).experts.zoo),
        "generators": list(service.generators),
        "generator": service.generator,
    }


@router.get("/health", response_class=Response)
async def health() -> Response:
    """200 while the server answers."""
    return Response(status_code=200)


@router.get("/metrics", response_class=Response)
def figures(request: Request) -> Response:
    """Figures for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
