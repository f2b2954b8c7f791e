"""From an event to a line: who says it, in which call and span, cleaned of secrets, its exception as text."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

from service.call import current
from service.telemetry.exceptions import render_exception
from service.telemetry.redaction import safe, safe_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from service.telemetry.lines import Line


class Pipeline:
    """Makes one line of one event. Never raises: a line that cannot be made becomes a line that says so."""

    def __init__(self, line: Line, always: Mapping[str, object]) -> None:
        self._line = line
        self._always = dict(always)

    def render(self, level: str, name: str, fields: MutableMapping[str, object]) -> bytes:
        """Return the line of an event, its text under ``event`` in `fields`, which are used up."""
        at = datetime.now(UTC)
        try:
            event, name = str(safe(fields.pop("event", ""))), str(safe(name))
            error = _error(fields.pop("exc_info", None))
            plain = self._always | _context() | safe_fields(cast("Mapping[object, object]", fields))
            if error is not None:
                plain["exception"] = render_exception(error)
            return self._line(at, "error" if level == "exception" else level, name, event, plain)
        except Exception as failure:  # noqa: BLE001 - logging must not fail whoever logs
            return self._failed(at, failure)

    def render_plain(self, at: datetime, level: str, name: str, event: str, fields: dict[str, object]) -> bytes:
        """Return the line of what happened `at` that moment; the fields are plain, bounded, free of secrets already."""
        try:
            return self._line(at, level, name, event, self._always | fields)
        except Exception as failure:  # noqa: BLE001 - as above
            return self._failed(at, failure)

    def _failed(self, at: datetime, failure: Exception) -> bytes:
        reason: dict[str, object] = {"reason": type(failure).__qualname__}
        return self._line(at, "error", __name__, "a log line could not be made", reason)

    def confess(self, dropped: int) -> bytes:
        """Return the line that owns up to lines dropped because nobody read fast enough."""
        return self.render("warning", __name__, {"event": "log lines dropped", "count": dropped})


def _error(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return cast("BaseException | None", exc_info[1])
    return sys.exc_info()[1] if exc_info else None


def _context() -> dict[str, object]:
    fields: dict[str, object] = {}
    if (call := current()) is not None:
        fields["request_id"] = call.request_id
    span = get_current_span().get_span_context()
    if span.is_valid:
        fields["trace_id"] = format_trace_id(span.trace_id)
        fields["span_id"] = format_span_id(span.span_id)
    return fields
