"""One log line and one measurement per call, whatever becomes of it."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from opentelemetry import trace

from service import call
from service.rpc.interceptors.layer import Context, Layer, Serve
from service.rpc.outcome import FAULTS, TROUBLE, code_of
from service.spans import traced
from service.telemetry.logging import PlainLog
from service.telemetry.redaction import safe, safe_fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.rpc.methods import Method

_NAMES = {code: code.name for code in grpc.StatusCode}


class MethodMetrics(Protocol):
    """The measurements of one method."""

    def started(self) -> None:
        """Count a call in progress."""

    def finished(self, code: str, seconds: float) -> None:
        """Count a call no longer in progress, with its status code's name and how long it took."""


class RpcMetrics(Protocol):
    """The measurements of all methods."""

    def method(self, name: str) -> MethodMetrics:
        """Return those of ``package.Service/Method``, or of ``_OTHER`` for methods the server lacks."""


class AccessLog(Layer):
    """Logs each call with its final code and measures it.

    Expected conditions are never ERROR: only the server's own bugs are. Health checks are DEBUG while all is well.

    Args:
        metrics: where measurements go; asked once per method.
        log: where lines go, ``gatelodge.access`` unless given.
        clock: seconds, monotonic.

    """

    def __init__(
        self,
        *,
        metrics: RpcMetrics,
        log: PlainLog | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._metrics = metrics
        self._meters: dict[str, MethodMetrics] = {}
        self._log = log or PlainLog("gatelodge.access")
        self._clock = clock

    async def around(self, method: Method, proceed: Serve, request: Any, context: Context) -> Any:
        """Measure and log the call."""
        meter = self._meters.get(method.name) or self._meter(method.name)
        start = self._clock()
        meter.started()
        try:
            answer = await proceed(request, context)
        except BaseException as error:
            self._ended(method, meter, start, code_of(context, error))
            raise
        self._ended(method, meter, start, code_of(context, None))
        return answer

    def _ended(self, method: Method, meter: MethodMetrics, start: float, code: grpc.StatusCode) -> None:
        seconds = self._clock() - start
        name = "OK" if code is grpc.StatusCode.OK else _NAMES[code]
        meter.finished(name, seconds)
        # A log that cannot be written must not turn a good call into a bad one.
        with suppress(Exception):
            self._log.log(_level(method, code), "call", _fields(method, name, seconds))

    def _meter(self, name: str) -> MethodMetrics:
        return self._meters.setdefault(name, self._metrics.method(name))


def _fields(method: Method, code: str, seconds: float) -> dict[str, object]:
    fields: dict[str, object] = {"rpc_method": method.name, "code": code, "duration_ms": round(seconds * 1e3, 3)}
    current = call.current()
    if current is not None:
        _add_call(fields, current)
    if traced():
        span = trace.get_current_span().get_span_context()
        fields["trace_id"] = trace.format_trace_id(span.trace_id)
        fields["span_id"] = trace.format_span_id(span.span_id)
    return fields


def _add_call(fields: dict[str, object], current: call.Call) -> None:
    """Add what the call's layers know of it. Facts never replace a field."""
    fields["request_id"] = current.request_id
    fields["source"] = current.source
    if current.peer_identity is not None:
        fields["peer"] = safe(current.peer_identity)
    if current.principal is not None:
        fields["principal"] = current.principal.subject
    if current.facts:
        fields |= safe_fields({name: fact for name, fact in current.facts.items() if name not in fields})


def _level(method: Method, code: grpc.StatusCode) -> int:
    if code is grpc.StatusCode.OK:
        return logging.DEBUG if method.infrastructure else logging.INFO
    if code in FAULTS:
        return logging.ERROR
    if method.infrastructure:
        return logging.DEBUG
    return logging.WARNING if code in TROUBLE else logging.INFO
