"""What routes share: the service of a request, and caps on its inputs."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Request

from loragen.serving.metrics import Metrics
from loragen.serving.service import Service, within
from loragen.tasks.words import worded


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    metrics.requests.labels(request.scope["route"].path).inc()
    return metrics


OfService = Annotated[Service, Depends(_service)]
OfMetrics = Annotated[Metrics, Depends(_metrics)]


def checked_texts(service: Service, texts: str | Sequence[str]) -> list[str]:
    """Texts of a request, within the caps.

    Raises:
        TooLarge: they are too many, or one is too long.
        TaskError: there is none, or one is empty or unreadable.
    """
    given = [texts] if isinstance(texts, str) else list(texts)
    within(service.limits.inputs, len(given), "inputs")
    within(service.limits.characters, max(map(len, given), default=0), "characters of a text")
    return list(worded(given, "inputs"))
