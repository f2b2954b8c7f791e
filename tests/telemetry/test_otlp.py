"""Traces and metrics arrive at a real OTLP receiver; one that is away does no harm."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from service.settings import Log, Tracing
from service.settings import Metrics as MetricsSettings
from service.telemetry import otlp
from service.telemetry.exporter_warnings import Warnings
from service.telemetry.logging import configure
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

WHO = otlp.Identity(service="gatelodge", version="1.2.3", instance="i-1")
NOBODY = "http://127.0.0.1:1"


class Collector(
    metrics_service_pb2_grpc.MetricsServiceServicer,
    trace_service_pb2_grpc.TraceServiceServicer,
):
    """An OTLP receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.server = grpc.server(ThreadPoolExecutor(2))
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self, self.server)  # type: ignore[no-untyped-call]
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)  # type: ignore[no-untyped-call]
        self.endpoint = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Export(self, request: Any, context: object) -> Any:  # noqa: N802 - named by the proto
        del context
        self.got.append(request)
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            return trace_service_pb2.ExportTraceServiceResponse()
        return metrics_service_pb2.ExportMetricsServiceResponse()


@pytest.fixture(name="collector")
def _collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.stop(0).wait()


def _attributes(holder: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in holder.attributes}


def test_the_prometheus_numbers_are_pushed_as_otlp(collector: Collector) -> None:
    metrics = Metrics(version="1.2.3", commit="abc")
    method = metrics.rpc.method("a.B/C")
    for seconds in (0.0009, 0.03, 99.0):
        method.started()
        method.finished("OK", seconds)
    method.started()
    metrics.login("ok")
    push = otlp.metrics(MetricsSettings(otlp_endpoint=collector.endpoint), metrics.registry, WHO)
    assert push
    assert push.push()
    push.close()
    sent = collector.got[0].resource_metrics[0]
    assert _attributes(sent.resource)["service.instance.id"] == "i-1"
    by_name = {metric.name: metric for metric in sent.scope_metrics[0].metrics}

    durations = by_name["rpc.server.call.duration"]
    assert durations.unit == "s"
    assert durations.histogram.aggregation_temporality == 2  # cumulative
    (point,) = durations.histogram.data_points
    assert _attributes(point) == {"rpc.method": "a.B/C", "rpc.response.status_code": "OK"}
    assert (point.count, point.sum) == (3, pytest.approx(99.0309))
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert sum(point.bucket_counts) == 3
    assert (point.bucket_counts[0], point.bucket_counts[-1]) == (1, 1)
    assert not point.HasField("min")
    assert 0 < point.start_time_unix_nano <= point.time_unix_nano

    logins = by_name["gatelodge_logins"].sum
    assert logins.is_monotonic
    assert [(_attributes(p), p.as_double) for p in logins.data_points] == [({"outcome": "ok"}, 1.0)]
    assert by_name["rpc.server.active_calls"].gauge.data_points[0].as_int == 1
    assert by_name["process_resident_memory"].unit == "By"
    assert len(collector.got) == 2  # closing pushes a last time


async def test_pushing_goes_on_by_itself_and_off_the_event_loop(collector: Collector) -> None:
    settings = MetricsSettings(otlp_endpoint=collector.endpoint, interval_seconds=0.1)
    push = otlp.metrics(settings, Metrics(version="1", commit="x").registry, WHO)
    assert push
    task = asyncio.create_task(push.run())
    while len(collector.got) < 2:
        await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.to_thread(push.close)


def test_spans_are_sent_and_the_last_ones_at_shutdown(collector: Collector) -> None:
    traces = otlp.traces(Tracing(otlp_endpoint=collector.endpoint), WHO)
    assert traces
    with traces.get_tracer("t").start_as_current_span("outer"):
        pass
    traces.shutdown()
    (request,) = collector.got
    assert _attributes(request.resource_spans[0].resource)["service.name"] == "gatelodge"
    assert request.resource_spans[0].scope_spans[0].spans[0].name == "outer"


def test_without_an_endpoint_there_is_neither() -> None:
    assert otlp.traces(Tracing(), WHO) is None
    assert otlp.metrics(MetricsSettings(), Metrics(version="1", commit="x").registry, WHO) is None


def test_a_collector_that_is_away_is_one_warning_and_no_exception() -> None:
    stream = io.StringIO()
    logs = configure(Log(), service="s", version="v", stream=stream)
    start = time.monotonic()
    traces = otlp.traces(Tracing(otlp_endpoint=NOBODY), WHO)
    push = otlp.metrics(MetricsSettings(otlp_endpoint=NOBODY), Metrics(version="1", commit="x").registry, WHO)
    assert traces
    assert push
    for _ in range(3):
        with traces.get_tracer("t").start_as_current_span("lost"):
            pass
    assert push.push() is False
    traces.shutdown()
    logs.close()
    assert time.monotonic() - start < 12
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    complaints = [line for line in lines if line["logger"].startswith("opentelemetry")]
    assert [line["level"] for line in complaints] == ["warning"]


def test_complaints_held_back_are_counted_on_the_next_one(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    warnings = Warnings(interval=60, clock=lambda: now)
    records = []
    for second in (1, 2, 3, 61, 62):
        now = float(second)
        record = _record()
        if warnings.filter(record):
            records.append(record)
    assert [(record.levelname, vars(record)["held_back"]) for record in records] == [("WARNING", 0), ("WARNING", 2)]
    assert not caplog.records


def _record() -> logging.LogRecord:
    return logging.makeLogRecord({"levelno": logging.ERROR, "levelname": "ERROR", "msg": "away"})
