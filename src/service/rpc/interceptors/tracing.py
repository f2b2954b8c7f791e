"""One OpenTelemetry span per sampled call, by OpenTelemetry's own gRPC interceptor with its faults mended.

Mended from inside: the calls it serves are given the bare context, and what escapes from them is handed past it, so it
sees neither aborts nor exceptions. It would put their texts into the span, twice, and status 0 on some of them.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from service import call
from service.rpc.interceptors.layer import Context, Handler, Layer, Serve
from service.rpc.metadata import headers_of
from service.rpc.outcome import FAULTS, TROUBLE, code_of
from service.spans import trace_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span, Tracer, TracerProvider

    from service.rpc.methods import Method

_FAILED = FAULTS | TROUBLE | {grpc.StatusCode.UNIMPLEMENTED}
"""The codes that OpenTelemetry's conventions count as a server's errors."""

_PEERS = ("ipv4:", "ipv6:", "unix:")
"""Those that OpenTelemetry's interceptor can take apart; it fails the call on any other."""

_PARENT_PARTS = 4


class _Details(NamedTuple):
    method: str
    invocation_metadata: tuple[()] = ()


class Tracing(Layer):
    """Decides first whether a call is sampled; the others skip OpenTelemetry wholly.

    A caller's ``traceparent`` decides for its calls, `ratio` for calls without one. The provider's own sampler must be
    always on, or calls are sampled twice.

    Args:
        provider: where spans go; None turns tracing off, at no cost.
        ratio: the share of calls without a parent to sample, 0 to 1.
        dice: uniform numbers from 0 to below 1.

    """

    def __init__(
        self, *, provider: TracerProvider | None, ratio: float, dice: Callable[[], float] = random.random
    ) -> None:
        self._ratio = ratio
        self._dice = dice
        self._on = provider is not None
        self._tracer = trace.get_tracer("gatelodge", tracer_provider=provider)
        self._interceptor: Any = _library_interceptor(provider) if self._on else None
        self._traced: dict[str, Callable[[Any, Context], Any]] = {}

    def bind(self, handler: Handler) -> Handler:
        """Leave the handler as it is when tracing is off."""
        return super().bind(handler) if self._on else handler

    async def around(self, method: Method, proceed: Serve, request: Any, context: Context) -> Any:
        """Serve the call within a span if it is sampled."""
        if not self._samples(context):
            return await proceed(request, context)
        traced = self._traced.get(method.name) or await self._trace(method, proceed)
        result, error = await traced(request, context)
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame, which must not hold it
        return result

    def _samples(self, context: Context) -> bool:
        parent = headers_of(context).text("traceparent")
        wanted = self._dice() < self._ratio if parent is None else _parent_samples(parent)
        return wanted and context.peer().startswith(_PEERS)

    async def _trace(self, method: Method, proceed: Serve) -> Callable[[Any, Context], Any]:
        """Wrap the method in OpenTelemetry's interceptor; every kind is a coroutine here, so as a unary one."""
        inner: Any = grpc.unary_unary_rpc_method_handler(partial(_observe, method, proceed, self._tracer))

        async def continuation(_details: object) -> Any:
            return inner

        # The interceptor wants a service and a method.
        path = method.name if method.known else f"{method.name}/{method.name}"
        wrapped = await self._interceptor.intercept_service(continuation, _Details(path))
        traced: Callable[[Any, Context], Any] = wrapped.unary_unary
        self._traced[method.name] = traced
        return traced


def _library_interceptor(provider: TracerProvider | None) -> Any:
    """Import OpenTelemetry's interceptor only where it is used: it takes a tenth of a second."""
    from opentelemetry.instrumentation.grpc import aio_server_interceptor  # noqa: PLC0415

    return aio_server_interceptor(tracer_provider=provider)  # type: ignore[no-untyped-call]  # the library is untyped


async def _observe(
    method: Method, proceed: Serve, tracer: Tracer, request: Any, context: Any
) -> tuple[Any, BaseException | None]:
    """Serve the call and describe its end; return what it returned and what it raised."""
    trace_with(tracer)
    span, bare = trace.get_current_span(), context.__wrapped__
    if not method.known:
        span.update_name(method.name)
    try:
        result = await proceed(request, bare)
    except BaseException as error:  # noqa: BLE001 - raised again outside of the span
        _describe(span, code_of(bare, error))
        return None, error
    _describe(span, code_of(bare, None))
    return result, None


def _describe(span: Span, code: grpc.StatusCode) -> None:
    """Set the final status. Texts stay out: they may hold what nobody may read there."""
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    span.set_attribute("rpc.response.status_code", code.name)
    current = call.current()
    facts = current.facts if current else {}
    if current is not None:
        span.set_attribute("gatelodge.request_id", current.request_id)
    if code is not grpc.StatusCode.OK:
        span.set_attribute("error.type", str(facts.get("exception") or facts.get("reason") or code.name))
    if code in _FAILED:
        span.set_status(Status(StatusCode.ERROR, code.name))


def _parent_samples(traceparent: str) -> bool:
    """Read the sampled flag of ``00-<trace>-<span>-<flags>``; what is malformed samples nothing."""
    parts = traceparent.split("-")
    try:
        return len(parts) >= _PARENT_PARTS and bool(int(parts[3], 16) & 1)
    except ValueError:
        return False
