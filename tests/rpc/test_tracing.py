"""Spans tell the truth, and only for sampled calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id
from tests.rpc import dummy
from tests.rpc.test_deadline import until

from service.rpc.interceptors.tracing import _parent_samples
from service.spans import span

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
async def traced(provider: TracerProvider, lines: list[Any]) -> AsyncIterator[dummy.House]:
    del lines
    running = await dummy.start(tracer_provider=provider, default_deadline=0.3)
    yield running
    await running.close()


@pytest.mark.parametrize("name", dummy.KINDS)
@pytest.mark.parametrize(
    ("wish", "code", "number", "status", "kind"),
    [
        ("fine", "OK", 0, StatusCode.UNSET, None),
        ("domain", "ALREADY_EXISTS", 6, StatusCode.UNSET, "EMAIL_TAKEN"),
        ("abort", "NOT_FOUND", 5, StatusCode.UNSET, "NOT_FOUND"),
        ("bug", "INTERNAL", 13, StatusCode.ERROR, "ValueError"),
        ("cancelled", "INTERNAL", 13, StatusCode.ERROR, "asyncio.exceptions.CancelledError"),
        ("wait", "DEADLINE_EXCEEDED", 4, StatusCode.ERROR, None),
    ],
)
async def test_a_span_has_the_status_its_caller_got(
    traced: dummy.House,
    spans: InMemorySpanExporter,
    name: str,
    wish: str,
    code: str,
    number: int,
    status: StatusCode,
    kind: str | None,
) -> None:
    try:
        await traced.call(name, wish, metadata=(*dummy.ALICE, ("x-request-id", "r1")), seconds=0.5)
    except grpc.aio.AioRpcError as error:
        assert error.code().name == code  # noqa: PT017
    await until(spans.get_finished_spans)
    (span,) = spans.get_finished_spans()
    attributes = span.attributes or {}
    assert (span.name, span.kind) == (f"{dummy.SERVICE}/{name}", SpanKind.SERVER)
    assert attributes["rpc.response.status_code"] == code
    assert attributes["rpc.grpc.status_code"] == number
    assert attributes["gatelodge.request_id"] == "r1"
    assert span.status.status_code is status
    assert span.status.description == (code if status is StatusCode.ERROR else None)
    assert not span.events
    if kind is not None:
        assert attributes["error.type"] == kind
    assert "by hand" not in span.to_json()
    assert "the cause" not in span.to_json()


async def test_a_call_to_an_unknown_method_has_a_span(traced: dummy.House, spans: InMemorySpanExporter) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await traced.send("/no.Such/Method", b"")
    await traced.settle()
    (span,) = spans.get_finished_spans()
    assert (span.name, span.status.description) == ("_OTHER", "UNIMPLEMENTED")


async def test_a_cancelled_call_has_a_span(traced: dummy.House, spans: InMemorySpanExporter) -> None:
    stream = traced.open(f"/{dummy.SERVICE}/ServerStream", dummy.Request(wish="wait").SerializeToString())
    await traced.servicer.begun.wait()
    stream.cancel()
    await until(spans.get_finished_spans)
    (span,) = spans.get_finished_spans()
    assert (span.attributes or {})["rpc.response.status_code"] == "CANCELLED"


async def test_the_line_of_a_sampled_call_has_its_trace(traced: dummy.House, lines: list[Any]) -> None:
    await traced.call("Unary", metadata=(*dummy.ALICE, ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")))
    await traced.settle()
    assert [line["trace_id"] for line in lines if line["event"] == "call"] == [TRACE]


@pytest.mark.parametrize(("ratio", "flags", "count"), [(0, "01", 1), (1, "00", 0), (0, None, 0), (1, None, 1)])
async def test_the_parent_decides_else_the_ratio(
    provider: TracerProvider,
    spans: InMemorySpanExporter,
    lines: list[Any],
    ratio: float,
    flags: str | None,
    count: int,
) -> None:
    house = await dummy.start(tracer_provider=provider, ratio=ratio)
    parent = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-{flags}"),) if flags else ()
    try:
        await house.call("Unary", metadata=(*dummy.ALICE, *parent))
    finally:
        await house.close()
    finished = spans.get_finished_spans()
    assert len(finished) == count
    assert [("trace_id" in line) for line in lines if line["event"] == "call"] == [bool(count)]
    if count and flags:
        assert format_trace_id(finished[0].context.trace_id) == TRACE


async def test_spans_within_a_call_are_made_when_it_is_sampled_and_only_then(
    provider: TracerProvider, spans: InMemorySpanExporter, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del lines
    house = await dummy.start(tracer_provider=provider, ratio=0)
    fulfil = house.servicer.fulfil

    async def with_sql(request: Any, context: Any) -> Any:
        with span("SELECT"):
            return await fulfil(request, context)

    monkeypatch.setattr(house.servicer, "fulfil", with_sql)
    try:
        await house.call("Unary")
        assert not spans.get_finished_spans()
        await house.call("Unary", metadata=(*dummy.ALICE, ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")))
        assert [finished.name for finished in spans.get_finished_spans()] == ["SELECT", f"{dummy.SERVICE}/Unary"]
    finally:
        await house.close()


@pytest.mark.parametrize("text", ["", "-", "00-a-b-zz", "00-a-b", "00-a-b-00"])
def test_a_malformed_parent_samples_nothing(text: str) -> None:
    assert not _parent_samples(text)
