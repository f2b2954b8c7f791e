"""The probe that decides whether this process is ready."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from structlog.typing import FilteringBoundLogger

_LAST_WORDS = 1.0
"""Seconds for a probe that is cut off at the end."""


class Readiness:
    """Probes what the process cannot serve without, and tells when that changes.

    With the defaults a change is told within 2 s: two failures half a second apart, each cut short in time.

    Args:
        probe: returns if all is well and raises if not.
        first: what must be done once before the process can be ready.
        tell: is given the new state; `HealthBoard.set_ready`.
        interval: seconds between probes.
        timeout: seconds after which a probe has failed.
        failures: how many in a row make the process not ready.
        successes: how many in a row make it ready again.

    """

    def __init__(
        self,
        *,
        probe: Callable[[], Awaitable[object]],
        tell: Callable[[bool], None],
        first: Callable[[], Awaitable[object]] | None = None,
        interval: float = 0.5,
        timeout: float = 0.4,
        failures: int = 2,
        successes: int = 1,
        log: FilteringBoundLogger | None = None,
    ) -> None:
        self._probe = probe
        self._tell = tell
        self._first = first
        self._interval = interval
        self._timeout = timeout
        self._needed = {True: successes, False: failures}
        self._log: FilteringBoundLogger = log or structlog.get_logger("gatelodge.health")
        self._ready = False
        self._in_a_row = 0
        self._running: asyncio.Future[object] | None = None

    async def run(self) -> None:
        """Probe until cancelled."""
        if self._first is not None:
            await self._first()
        try:
            while True:
                self._count(well=await self._try())
                await asyncio.sleep(self._interval)
        finally:
            if self._running is not None:
                # Waited for, so that what it says on its way out finds the log still there.
                self._running.cancel()
                await asyncio.wait((self._running,), timeout=_LAST_WORDS)

    async def _try(self) -> bool:
        """Probe once. A probe that hangs is not waited for, nor is another started beside it."""
        if self._running is None:
            self._running = asyncio.ensure_future(self._probe())
        done, _ = await asyncio.wait((self._running,), timeout=self._timeout)
        if not done:
            self._running.cancel()
            return False
        probe, self._running = self._running, None
        with suppress(asyncio.CancelledError):
            return probe.exception() is None
        return False

    def _count(self, *, well: bool) -> None:
        self._in_a_row = 0 if well is self._ready else self._in_a_row + 1
        if self._in_a_row >= self._needed[well]:
            self._ready, self._in_a_row = well, 0
            self._log.log(logging.INFO if well else logging.WARNING, "ready" if well else "not ready")
            self._tell(well)
