"""One span per SQL statement, when the call is being traced; nothing at all when it is not.

Names follow the OpenTelemetry semantic conventions for PostgreSQL. Parameters never appear, nor do messages of errors:
they can hold values.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


def span_of(name: str, operation: str, sql: str) -> AbstractContextManager[None] | None:
    """Return the span to run the statement in, or None when the current span is not recording."""
    return _span(name, operation, sql) if trace.get_current_span().is_recording() else None


@contextmanager
def _span(name: str, operation: str, sql: str) -> Iterator[None]:
    attributes = {
        "db.system.name": "postgresql",
        "db.operation.name": operation,
        "db.query.summary": name,
        "db.query.text": sql,
    }
    with trace.get_tracer("service.db").start_as_current_span(
        name, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except BaseException as error:
            _mark_failed(span, error)
            raise


def _mark_failed(span: trace.Span, error: BaseException) -> None:
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    if isinstance(cause, psycopg.Error) and cause.sqlstate:
        span.set_attribute("db.response.status_code", cause.sqlstate)
    span.set_attribute("error.type", type(cause or error).__qualname__)
    span.set_status(StatusCode.ERROR)
