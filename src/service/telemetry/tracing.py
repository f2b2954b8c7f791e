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
    from service.telemetry.otlp import Identity

_EXPORT_TIMEOUT = 5.0


def resource(who: Identity) -> Resource:
    """Return who this process is. Made by hand: the library's own way reads the environment."""
    return Resource(
        {
            "service.name": who.service,
            "service.version": who.version,
            "service.instance.id": who.instance,
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
        },
    )


def provider(endpoint: str, who: Identity) -> TracerProvider:
    """Return a provider that sends spans in batches from a thread of its own.

    Every span asked of it is sampled unless its parent is not, because the tracing interceptor asks for none in calls
    that are not to be traced. A collector that is away costs a warning a minute. The owner calls ``shutdown`` off the
    event loop: it sends what is left, and takes `_EXPORT_TIMEOUT` seconds or a little more when nobody answers.
    """
    calm()
    exporter = OTLPSpanExporter(
        endpoint=endpoint,
        insecure=endpoint.startswith("http://"),
        timeout=_EXPORT_TIMEOUT,
    )
    made = TracerProvider(sampler=ParentBased(ALWAYS_ON), resource=resource(who), shutdown_on_exit=False)
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
