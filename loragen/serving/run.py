"""Runs a server until it is told to end."""

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from loragen.errors import ConfigError, MissingExtraError, shown
from loragen.exporters.targets import FOLDERS
from loragen.serving.settings import Limits, ServeSettings

GRACE = 10
"""Seconds in which requests under way may end."""


def serve(
    adapters: Path | str = "adapters",
    *,
    zoo: Path | str | None = None,
    generator: str | None = None,
    drop: Path | str | None = None,
    drop_for: str = "vllm",
    base_name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8421,
    api_key: str | None = None,
    limits: Limits | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve adapters over HTTP until interrupted.

    Args:
        adapters: folder that they are kept in, a folder each by its name.
        zoo: folder or name of a zoo; by default the bundled one.
        generator: of adapters, where a request names none; by default the zoo's own.
        drop: folder that adapters are written to for another engine as well, a folder each.
        drop_for: that engine: ``vllm``, ``sglang``, ``lorax`` or ``sentence-transformers``.
        base_name: the base as that engine names it, if not as here.
        host: address to listen at.
        port: 0 takes a free one.
        api_key: that every request must bring; others than this machine are let in with one alone.
        limits: caps on what a client may ask.
        on_ready: called with the address once requests are answered.

    Raises:
        ConfigError: others than this machine could reach it and there is no key, or the address is taken.
        ZooError: there is no such zoo.
        GeneratorError: there is no such generator.
        MissingExtraError: the extra `serve` is not installed.
    """
    if drop_for not in FOLDERS:
        raise ConfigError(f"{shown(drop_for)} is no engine that picks up folders; give one of {', '.join(FOLDERS)}.")
    given: dict[str, Any] = {"adapters": adapters, "generator": generator, "host": host, "port": port}
    given |= {"zoo": None if zoo is None else str(zoo), "api_key": api_key or None, "limits": limits or Limits()}
    given |= {"drop": drop, "drop_for": drop_for, "base_name": base_name}
    settings = ServeSettings.checked(given, source="What the server is started with")
    if not settings.is_local and not settings.api_key:
        raise ConfigError(
            f"The host {settings.host} lets other machines in, and there is no key; give one with --api-key or the "
            "variable LORAGEN_API_KEY, or leave --host out."
        )
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Serving needs {error.name}, which is not installed: pip install 'loragen[serve]'."
        ) from error
    with closing(_bound(settings)) as listening:
        _run(settings, listening, on_ready or (lambda _address: None))


def _run(settings: ServeSettings, listening: socket.socket, on_ready: Callable[[str], None]) -> None:
    import uvicorn

    from loragen.serving.app import make_app
    from loragen.serving.connections import timely
    from loragen.serving.service import Service

    service = Service.open(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_ready(f"http://{host}:{listening.getsockname()[1]}")

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            service.jobs.wind_down()  # so that those who follow one do not keep the server up
            await super().shutdown(sockets)

    config = uvicorn.Config(
        make_app(settings, service),
        http=timely(settings.limits.seconds_to_read),
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=GRACE,
        server_header=False,
        limit_concurrency=4 * settings.limits.requests,
        lifespan="on",
    )
    Server(config).run(sockets=[listening])


def _bound(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"{settings.host}:{settings.port} cannot be listened at ({error.strerror}); give another --port or --host."
        ) from error
    return listening
