"""Keeps a collector that is away from filling the log: the exporters' complaints become one warning a minute."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.trace.export",
)


class Warnings(logging.Filter):
    """Lets one record through every `interval` seconds, as a warning, with the count of those held back."""

    def __init__(self, *, interval: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval = interval
        self._clock = clock
        self._next = 0.0
        self._held = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide on one record. Debug ones pass as they are."""
        if record.levelno < logging.WARNING:
            return True
        now = self._clock()
        if now < self._next:
            self._held += 1
            return False
        self._next = now + self._interval
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.held_back, self._held = self._held, 0
        return True


def calm() -> None:
    """Put the filter on OpenTelemetry's loggers, once."""
    for name in _LOGGERS:
        library = logging.getLogger(name)
        if not any(isinstance(present, Warnings) for present in library.filters):
            library.addFilter(Warnings())
