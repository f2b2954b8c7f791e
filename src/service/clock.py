"""Time as the rules see it: handed in, so that expiry is tested without sleeping."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the present moment as an aware datetime in UTC."""


def system_clock() -> datetime:
    """Return the present moment, UTC."""
    return datetime.now(UTC)
