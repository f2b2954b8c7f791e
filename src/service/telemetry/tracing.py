"""Traces: the provider that sends spans to a collector. Which calls are traced is decided before a span is begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

from service.telemetry.exporter_warnings import calm

if TYPE_CHECKING:
    from service.settings import Tracing

_EXPORT_TIMEOUT = 5.0


def resource(*, service: str, version: str, instance: str) -> Resource:
    """Return who this process is. Made by hand: the library's own way reads the environment."""
    return Resource(
        {
            "service.name": service,
            "service.version": version,
            "service.instance.id": instance,
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
        },
    )


def provider(settings: Tracing, who: Resource) -> TracerProvider | None:
    """Return a provider that sends spans in batches from a thread of its own, or None when tracing is off.

    Every span asked of it is sampled unless its parent is not, because the tracing interceptor asks for none in calls
    that are not to be traced. A collector that is away costs a warning a minute. The owner calls ``shutdown`` off the
    event loop: it sends what is left, and takes `_EXPORT_TIMEOUT` seconds or a little more when nobody answers.
    """
    if settings.otlp_endpoint is None:
        return None
    calm()
    exporter = OTLPSpanExporter(
        endpoint=settings.otlp_endpoint,
        insecure=settings.otlp_endpoint.startswith("http://"),
        timeout=_EXPORT_TIMEOUT,
    )
    made = TracerProvider(sampler=ParentBased(ALWAYS_ON), resource=who, shutdown_on_exit=False)
    made.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=2048,
            schedule_delay_millis=1000,
            max_export_batch_size=512,
            export_timeout_millis=_EXPORT_TIMEOUT * 1000,
        ),
    )
    return made
