"""Logging set up on a string, for tests to read."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

from service.settings import Log
from service.telemetry.logging import Bridge, Logs, configure


class Desk:
    """Logging set up on a string, and its lines read back."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.logs: Logs | None = None

    def set_up(self, **settings: Any) -> None:
        self.logs = configure(Log(**settings), service="gatelodge", version="1.2.3", stream=self.stream)

    def close(self) -> None:
        if self.logs:
            self.logs.close()

    def bridge(self, message: object, *args: object) -> None:
        """Log through the standard library, past pytest's own handlers: they raise, and keep what xdist cannot send."""
        record = logging.LogRecord("x", logging.INFO, "", 0, message, args, None)
        next(handler for handler in logging.getLogger().handlers if isinstance(handler, Bridge)).handle(record)

    @property
    def text(self) -> str:
        assert self.logs
        self.logs.flush()
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.removesuffix("\n").split("\n")]
