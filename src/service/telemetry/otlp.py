"""OTLP where the settings ask for it. Its libraries are imported only then: they are a quarter of the start's time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from service.settings import Metrics, Tracing
    from service.telemetry.otlp_metrics import Pusher


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is, to a collector."""

    service: str
    version: str
    instance: str
    """What tells this process from others of the same service."""


def traces(settings: Tracing, who: Identity) -> TracerProvider | None:
    """Return what makes spans and sends them, or None when tracing is off. The owner shuts it down off the loop."""
    if settings.otlp_endpoint is None:
        return None
    from service.telemetry import tracing  # noqa: PLC0415 - see above

    return tracing.provider(settings.otlp_endpoint, who)


def metrics(settings: Metrics, registry: CollectorRegistry, who: Identity) -> Pusher | None:
    """Return what pushes `registry` to the collector, or None when none is set. The owner closes it off the loop."""
    if settings.otlp_endpoint is None:
        return None
    from service.telemetry import otlp_metrics  # noqa: PLC0415 - see above

    return otlp_metrics.pusher(settings.otlp_endpoint, settings.interval_seconds, registry, who)
