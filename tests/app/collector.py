"""An OpenTelemetry collector for tests: keeps whatever is sent to it over OTLP."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Collector:
    endpoint: str
    traces: list[Any] = field(default_factory=list)
    metrics: list[Any] = field(default_factory=list)

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, kept: list[Any]) -> None:
        self._kept = kept

    async def Export(self, request: Any, _: Any) -> Any:  # noqa: N802
        self._kept.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, kept: list[Any]) -> None:
        self._kept = kept

    async def Export(self, request: Any, _: Any) -> Any:  # noqa: N802
        self._kept.append(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    server = grpc.aio.server()
    collector = Collector(f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(collector.traces), server)  # type: ignore[no-untyped-call]
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(collector.metrics), server)  # type: ignore[no-untyped-call]
    await server.start()
    yield collector
    await server.stop(None)
