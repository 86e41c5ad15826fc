"""The application: routes, errors in words, and a lifespan that opens and closes the service."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from loragen.errors import AdapterError, GeneratorError, LoragenError
from loragen.serving.batcher import Stopped
from loragen.serving.folders import NoRoom, UnknownAdapter
from loragen.serving.guard import App, Guard, error_body
from loragen.serving.jobs import TooMany
from loragen.serving.metrics import Metrics
from loragen.serving.routes import adapters, openai, page, tei, zoo
from loragen.serving.service import Service, TooLarge
from loragen.serving.settings import ServeSettings

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (UnknownAdapter, 404),
    (TooLarge, 413),
    (TooMany, 429),
    (NoRoom, 507),
    (Stopped, 503),
    (AdapterError, 424),
    (GeneratorError, 422),
    (LoragenError, 422),
)
"""Status of an error: the first that it is one of."""
ABOUT = "Adapters for tasks described in words: generated, kept, and answered with."


def make_app(settings: ServeSettings, service: Service | None = None) -> App:
    """The whole application, guarded; without a service it opens one when it begins."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.metrics = Metrics()
        app.state.service = service or await run_in_threadpool(Service.open, settings)
        app.state.metrics.watch(app.state.service)
        yield
        await run_in_threadpool(app.state.service.close)

    app = FastAPI(
        title="loragen", version=version("loragen"), description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    for routes in (adapters, openai, tei, zoo, page):
        app.include_router(routes.router)
    app.add_exception_handler(LoragenError, _told)
    app.add_exception_handler(RequestValidationError, _unfit)
    app.add_exception_handler(HTTPException, _other)
    app.add_exception_handler(Exception, _fault)
    return Guard(app, settings)


async def _told(request: Request, error: Exception) -> JSONResponse:
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    service: Service = request.app.state.service
    return _answer(request, status, service.without_places(str(error)))


async def _unfit(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    is_malformed = any(fault["type"] == "json_invalid" for fault in faults)
    if is_malformed:
        return _answer(request, 400, "The body is no JSON.")
    told = [f"{'.'.join(map(str, fault['loc'][1:])) or 'body'}: {fault['msg']}" for fault in faults[:5]]
    return _answer(request, 422, "; ".join(told)[:1000])


async def _other(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, str(error.detail), error.headers)


async def _fault(request: Request, error: Exception) -> JSONResponse:
    return _answer(request, 500, f"The server failed at this request ({type(error).__name__}).")


def _answer(request: Request, status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(error_body(request.url.path, status, message), status, headers)
