"""Knowing that the database is away, and noticing quickly that it is back.

psycopg's pool gives up on a connection after `reconnect_timeout` and then does nothing until somebody asks again, so
a pool whose callers fail fast would sleep for ever. While an outage lasts, one task here knocks instead.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import TupleRow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Self

_LOG = logging.getLogger(__name__)


class Outage:
    """Whether the database is away: since the last failed connection attempt, until anything succeeds.

    Args:
        knock: connects once and leaves; raises `psycopg.Error` while the database is away.
        recovered: called after the first successful knock.
        grace: seconds an outage may last before callers are refused at once; a restart should fit in it.
        interval: seconds between knocks.

    """

    def __init__(
        self,
        knock: Callable[[], Awaitable[None]],
        recovered: Callable[[], Awaitable[None]],
        *,
        grace: float = 2.0,
        interval: float = 0.25,
    ) -> None:
        self._knock = knock
        self._recovered = recovered
        self._grace = grace
        self._interval = interval
        self._since: float | None = None
        self._prober: asyncio.Task[None] | None = None

    @property
    def present(self) -> bool:
        """Whether the last attempt to connect failed and nothing succeeded since."""
        return self._since is not None

    @property
    def lasting(self) -> bool:
        """Whether it has been away for longer than the grace."""
        return self._since is not None and time.monotonic() - self._since >= self._grace

    def begin(self) -> None:
        """Note a failed attempt; start knocking if nobody does."""
        if self._since is None:
            self._since = time.monotonic()
        if self._prober is None or self._prober.done():
            self._prober = asyncio.get_running_loop().create_task(self._probe(), name="database-probe")

    def end(self) -> None:
        """Note a success."""
        self._since = None

    async def aclose(self) -> None:
        """Stop knocking."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait([self._prober])

    async def _probe(self) -> None:
        while self._since is not None:
            await asyncio.sleep(self._interval)
            try:
                await self._knock()
                self.end()
                await self._recovered()
            except psycopg.Error as error:
                _LOG.debug("the database is still away: %s", type(error).__name__)
            except Exception:  # noqa: BLE001 - whatever it was, the knocking goes on
                _LOG.exception("the database probe failed for a reason of its own")


def watched(begin: Callable[[], None], end: Callable[[], None]) -> type[psycopg.AsyncConnection[TupleRow]]:
    """Return a connection class that reports every attempt to connect: `begin` on failure, `end` on success."""

    class Watched(psycopg.AsyncConnection[TupleRow]):
        @classmethod
        async def connect(cls, conninfo: str = "", **options: Any) -> Self:
            try:
                connection = await super().connect(conninfo, **options)
            except psycopg.OperationalError:
                begin()
                raise
            end()
            return connection

    return Watched
