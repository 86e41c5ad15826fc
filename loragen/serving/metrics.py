"""Figures for Prometheus, of one server."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from loragen.serving.service import Service


class _Now(Collector):
    """Figures that are read when they are asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> list[GaugeMetricFamily]:
        """The figures."""
        service = self._service
        figures = {
            "loragen_waiting_works": ("Works that wait for the base", service.batcher.waiting),
            "loragen_unfinished_jobs": ("Generations that wait or are at work", service.jobs.unfinished),
            "loragen_adapters": ("Adapters on disk", len(service.store.folders.names())),
            "loragen_adapter_cache_bytes": ("Memory of adapters", service.store.bytes),
        }
        return [GaugeMetricFamily(name, about, value=value) for name, (about, value) in figures.items()]


class Metrics:
    """Counters and times."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("loragen_requests", "Requests by route", ["route"], registry=self.registry)
        self.texts = Counter("loragen_texts", "Texts that were read", registry=self.registry)
        self.tokens = Counter("loragen_tokens", "Tokens that were read or written", registry=self.registry)
        self.seconds = Histogram("loragen_generation_seconds", "From description to disk", registry=self.registry)

    def watch(self, service: Service) -> None:
        """Read figures of a service whenever they are asked for."""
        self.registry.register(_Now(service))

    def text(self) -> bytes:
        """All figures in Prometheus' form."""
        return generate_latest(self.registry)
