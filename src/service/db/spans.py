"""One span per SQL statement of a traced call, named by OpenTelemetry's semantic conventions for PostgreSQL.

Parameters never appear, nor do messages of errors: they can hold values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from opentelemetry.trace import SpanKind

from service.spans import UNTRACED, span, traced

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span


def span_of(name: str, operation: str, sql: str) -> AbstractContextManager[None]:
    """Return the span to run the statement in; it does nothing when the call is not traced."""
    if not traced():
        return UNTRACED
    attributes = {
        "db.system.name": "postgresql",
        "db.operation.name": operation,
        "db.query.summary": name,
        "db.query.text": sql,
    }
    return span(name, kind=SpanKind.CLIENT, attributes=attributes, on_error=_name_the_cause)


def _name_the_cause(made: Span, error: BaseException) -> None:
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    made.set_attribute("error.type", type(cause or error).__qualname__)
    if isinstance(cause, psycopg.Error) and cause.sqlstate:
        made.set_attribute("db.response.status_code", cause.sqlstate)
