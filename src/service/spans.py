"""Spans inside a traced call. The tracer comes with the call, not from a global; untraced calls pay nothing.

A span never carries an exception's message: messages can hold values.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span, Tracer

_tracer: ContextVar[Tracer | None] = ContextVar("gatelodge_tracer", default=None)
UNTRACED: AbstractContextManager[None] = nullcontext()
"""What `span` returns for calls that are not traced."""


def trace_with(tracer: Tracer) -> None:
    """Have the rest of this task's spans made by `tracer`: the tracing interceptor's word that the call is sampled."""
    _tracer.set(tracer)


def traced() -> bool:
    """Tell whether the call is traced."""
    return _tracer.get() is not None


def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, str] | None = None,
    on_error: Callable[[Span, BaseException], None] | None = None,
) -> AbstractContextManager[None]:
    """Return a span to run something in; one that does nothing when the call is not traced.

    On failure its status is ERROR and `error.type` the exception's class; `on_error` may add to that.
    """
    tracer = _tracer.get()
    return UNTRACED if tracer is None else _child(tracer, name, kind, attributes or {}, on_error)


@contextmanager
def _child(
    tracer: Tracer,
    name: str,
    kind: SpanKind,
    attributes: Mapping[str, str],
    on_error: Callable[[Span, BaseException], None] | None,
) -> Iterator[None]:
    with tracer.start_as_current_span(
        name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as made:
        try:
            yield
        except BaseException as error:
            made.set_attribute("error.type", type(error).__qualname__)
            made.set_status(StatusCode.ERROR)
            if on_error is not None:
                on_error(made, error)
            raise
