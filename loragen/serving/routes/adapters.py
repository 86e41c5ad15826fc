"""Adapters: generated, listed, handed out, deleted; and the jobs that make them."""

import io
import json
import time
import zipfile
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from loragen.serving.jobs import Job
from loragen.serving.routes.common import OfMetrics, OfService
from loragen.serving.schemas import NewAdapter
from loragen.serving.service import Service
from loragen.serving.store import Facts

router = APIRouter(prefix="/v1", tags=["adapters"])


def shown(service: Service, name: str, *, whole: bool = False) -> dict[str, Any]:
    """An adapter as a client sees it; with ``whole`` its card and files too.

    Raises:
        UnknownAdapter: there is none of that name.
        AdapterError: it is damaged, or made for another base.
    """
    if not whole:
        return _told(service, service.store.facts(name))
    served = service.store.get(name)
    card = None if served.card is None else served.card.model_dump(mode="json")
    files = [{"name": file, "bytes": len(content)} for file, content in service.store.folders.files(name).items()]
    return _told(service, served.facts) | {"card": card, "files": files}


def _told(service: Service, facts: Facts) -> dict[str, Any]:
    return {
        "name": facts.name,
        "object": "adapter",
        "description": facts.description,
        "labels": list(facts.labels),
        "base": service.base_name,
        "expected_gain": None if facts.expected is None else facts.expected.model_dump(mode="json"),
    }


@router.post("/adapters", status_code=201, responses={202: {"description": "A job was begun."}})
async def create(asked: NewAdapter, service: OfService, metrics: OfMetrics, response: Response) -> Any:
    """Generate adapters for a task described in words.

    With texts, examples or a history, which take longer than two seconds, the answer is a job (202) to be followed.
    """
    service.refuse_too_large(asked)
    if asked.texts or asked.examples or asked.history:
        job = await run_in_threadpool(service.start, asked)
        response.status_code, response.headers["location"] = 202, f"/v1/jobs/{job.id}"
        return job.told() | {"events": f"/v1/jobs/{job.id}/events"}
    begun = time.perf_counter()
    async with service.turn:
        names = await run_in_threadpool(service.generate, asked)
    metrics.seconds.observe(time.perf_counter() - begun)
    response.headers["location"] = f"/v1/adapters/{names[0]}"
    made = [await run_in_threadpool(shown, service, name) for name in names]
    return made[0] | ({"samples": made} if asked.samples > 1 else {})


@router.get("/adapters")
def listed(service: OfService, _: OfMetrics) -> dict[str, Any]:
    """All adapters that can be served, and why others cannot."""
    found, broken = service.store.listed()
    why = {name: service.without_places(reason) for name, reason in broken.items()}
    return {"object": "list", "data": [_told(service, facts) for facts in found], "broken": why}


@router.get("/adapters/{name}")
def one(name: str, service: OfService, _: OfMetrics) -> dict[str, Any]:
    """One adapter, with its card and files."""
    return shown(service, name, whole=True)


@router.get("/adapters/{name}/folder.zip", response_class=Response)
def folder(name: str, service: OfService, _: OfMetrics) -> Response:
    """The folder of an adapter, as PEFT and others read it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for file, data in service.store.folders.files(name).items():
            archive.writestr(f"{name}/{file}", data)
    headers = {"content-disposition": f'attachment; filename="{name}.zip"'}
    return Response(content.getvalue(), media_type="application/zip", headers=headers)


@router.delete("/adapters/{name}")
def remove(name: str, service: OfService, _: OfMetrics) -> dict[str, Any]:
    """Delete an adapter."""
    service.remove(name)
    return {"name": name, "object": "adapter", "deleted": True}


def _job(service: Service, name: str) -> Job:
    job = service.jobs.get(name)
    if job is None:
        raise HTTPException(404, "There is no such job; jobs that ended long ago are forgotten.")
    return job


@router.get("/jobs/{name}")
def job(name: str, service: OfService, _: OfMetrics) -> JSONResponse:
    """How far a job is, or what became of it; 410 for one that ended with a former server."""
    found = _job(service, name)
    return JSONResponse(found.told(), 410 if found.state == "gone" else 200)


@router.get("/jobs/{name}/events", response_class=StreamingResponse)
async def events(name: str, service: OfService, _: OfMetrics) -> StreamingResponse:
    """The same whenever it changes, as server-sent events, to its end."""
    found = _job(service, name)

    async def told() -> AsyncIterator[str]:
        async for state in service.jobs.events(found):
            yield f"event: {state['status'].replace(' ', '_')}\ndata: {json.dumps(state)}\n\n"

    return StreamingResponse(told(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@router.delete("/jobs/{name}")
def cancel(name: str, service: OfService, _: OfMetrics) -> dict[str, Any]:
    """End a job at its next step."""
    found = _job(service, name)
    service.jobs.cancel(found)
    return found.told()
