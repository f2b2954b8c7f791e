"""Bounds every call: in time by its deadline, in number by shedding what is too much."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from service import call
from service.errors import DeadlineExceeded
from service.rpc.interceptors.layer import Context, Layer, Serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.rpc.inflight import InFlight
    from service.rpc.methods import Method


class Deadline(Layer):
    """Ends calls at their deadline and sheds those over the limit, before any work is done for them.

    A call with one response has the client's deadline or `default_seconds`, whichever is sooner. A stream has only the
    client's.

    Args:
        inflight: counts calls and ends them at drain.
        default_seconds: for calls with one response.
        clock: of `Call.deadline`.

    """

    def __init__(
        self, *, inflight: InFlight, default_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inflight = inflight
        self._default = default_seconds
        self._clock = clock

    async def around(self, method: Method, proceed: Serve, request: Any, context: Context) -> Any:
        """Serve the call within its bounds.

        Raises:
            DeadlineExceeded: the time is up.
            Overloaded: there are too many calls.
            ShuttingDown: the process drains.

        """
        seconds = self._seconds(method, context)
        entry = self._inflight.enter(method)
        try:
            if seconds is not None:
                self._note(seconds)
                self._inflight.end_after(entry, seconds)
            return await proceed(request, context)
        except asyncio.CancelledError:
            verdict = entry.settle()
            if verdict is None:
                raise
            raise verdict from None
        finally:
            self._inflight.leave(entry)

    def _seconds(self, method: Method, context: Context) -> float | None:
        """Return how long the call may take; None is for ever."""
        remaining: float | None = context.time_remaining()
        if remaining is not None and remaining <= 0:
            raise DeadlineExceeded
        if method.server_streaming:
            return remaining
        return self._default if remaining is None else min(remaining, self._default)

    def _note(self, seconds: float) -> None:
        current = call.current()
        if current is not None:
            current.deadline = self._clock() + seconds
