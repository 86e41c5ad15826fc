"""The zoo: its experts, those nearest to a task, and a map of them by description."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool

from loragen.errors import TaskError
from loragen.serving.routes.common import OfMetrics, OfService
from loragen.serving.service import Service, within

router = APIRouter(prefix="/zoo", tags=["zoo"])
Description = Annotated[str, Query(min_length=1, description="A task, in words.")]


@router.get("")
def listed(service: OfService, _: OfMetrics) -> dict[str, Any]:
    """All experts."""
    cards = service.pipeline(service.generator).experts.zoo
    experts = [
        {"id": card.id, "description": card.description, "family": card.family, "licence": card.licence}
        for card in cards
    ]
    return {"name": service.zoo.manifest.name, "base": service.base_name, "experts": experts}


@router.get("/search")
async def search(
    service: OfService,
    _: OfMetrics,
    description: Description,
    top_k: Annotated[int, Query(ge=1, le=100)] = 8,
) -> dict[str, Any]:
    """Experts nearest to a task, with the cosine of the descriptions."""
    _refuse_blank(service, description)
    return {"description": description, "experts": await run_in_threadpool(_nearest, service, description, top_k)}


def _refuse_blank(service: Service, description: str) -> None:
    within(service.limits.description, len(description), "characters of a description")
    if not description.strip():
        raise TaskError("The description is empty; say the task in words.")


def _nearest(service: Service, description: str, top_k: int) -> list[dict[str, Any]]:
    pipeline = service.pipeline(service.generator)
    hits = pipeline.experts.index.search(pipeline.encoder.encode([description])[0], top_k)
    return [
        {"id": hit.id, "similarity": round(hit.similarity, 4), "description": service.zoo.card(hit.id).description}
        for hit in hits
    ]


@router.get("/map")
async def plane(service: OfService, _: OfMetrics, description: str | None = None) -> dict[str, Any]:
    """Experts on a plane, the two principal directions of their descriptions; and a task among them."""
    if description is not None:
        _refuse_blank(service, description)
    return await run_in_threadpool(_placed, service, description)


def _placed(service: Service, description: str | None) -> dict[str, Any]:
    pipeline = service.pipeline(service.generator)
    directions, centre = service.plane
    points = ((pipeline.experts.index.vectors - centre) @ directions.T).tolist()
    experts = [
        {"id": expert, "family": service.zoo.card(expert).family, "x": round(x, 4), "y": round(y, 4)}
        for expert, (x, y) in zip(pipeline.experts.zoo.ids, points, strict=True)
    ]
    task = None
    if description is not None:
        x, y = ((pipeline.encoder.encode([description])[0] - centre) @ directions.T).tolist()
        task = {"x": round(x, 4), "y": round(y, 4)}
    return {"experts": experts, "task": task}
