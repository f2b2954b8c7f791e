"""The deadlines of many calls with few timers: those that come close together end together."""

from __future__ import annotations

import asyncio
import time
from contextvars import Context
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_TICK = 0.02
"""Seconds. A call ends at its deadline or less than this later."""


class Expires(Protocol):
    """What has a deadline. Must be hashable."""

    def expire(self) -> None:
        """Note that the time is up."""


class Deadlines:
    """Tells what is not done in time.

    A timer for each call costs some 15 microseconds where many are served; most are stopped unused. Here calls whose
    deadlines lie in the same tick share one.

    Args:
        clock: seconds, monotonic.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ticks: dict[int, tuple[set[Expires], asyncio.TimerHandle]] = {}

    def add(self, entry: Expires, seconds: float) -> int:
        """Have `entry` expire in `seconds`; return the tick in which it will, for `remove`."""
        now = self._clock()
        tick = int((now + seconds) / _TICK) + 1
        known = self._ticks.get(tick)
        if known is None:
            # In a context of its own: that of the first call, with its headers, would be kept for all of them.
            loop, nobodys = asyncio.get_running_loop(), Context()
            timer = loop.call_later(tick * _TICK - now, self._ring, tick, context=nobodys)
            known = self._ticks[tick] = set(), timer
        known[0].add(entry)
        return tick

    def remove(self, entry: Expires, tick: int) -> None:
        """Forget `entry`. A tick that nobody is left in is forgotten, too: far deadlines pile up nothing."""
        known = self._ticks.get(tick)
        if known is not None:
            known[0].discard(entry)
            if not known[0]:
                known[1].cancel()
                del self._ticks[tick]

    def __len__(self) -> int:
        return len(self._ticks)

    def _ring(self, tick: int) -> None:
        for entry in self._ticks.pop(tick)[0]:
            entry.expire()
