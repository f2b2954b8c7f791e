"""A fast lane for hot reads of one row: the same statements, on connections that are never handed around.

A call through the pool pays for borrowing a connection, a cursor, and two trips through the event loop's selector.
Here a few connections are watched by the loop for good; a read is one future, and all that are asked for in one turn of
the loop, or while every connection has work, go out together. Reads are safe to repeat, so whatever is unusual (no
connection, an error, a slow answer) is left to the caller, who goes to the pool.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from service.db.pipeline import NotTaken, Pipeline, Read, refuse
from service.db.spans import span_of
from service.spans import traced

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.db.statement import Connection, Statement

__all__ = ["FastLane", "NotTaken"]

Row = TypeVar("Row", bound=tuple[Any, ...])

_LOG = logging.getLogger("gatelodge.db")
_SOON = 0.02
_LOOK = 0.25
_RECONNECT = 1.0


class FastLane:
    """A few `Pipeline`s. Everything it cannot do at once it leaves to the pool, by raising `NotTaken`.

    Args:
        connect: opens a connection in autocommit.
        size: how many connections; 0 leaves everything to the pool.
        max_lifetime: seconds after which a connection is replaced, so that a failover is noticed.
        most_waiting: reads in one batch, and reads that may wait for the next.

    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        size: int,
        max_lifetime: float,
        most_waiting: int = 64,
    ) -> None:
        self._connect = connect
        self._size = size
        self._max_lifetime = max_lifetime
        self._most_waiting = most_waiting
        self._pipelines: list[Pipeline] = []
        self._waiting: list[Read] = []
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop
        self._keeper: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to connect, in the background."""
        self._loop = asyncio.get_running_loop()
        if self._size:
            self._keeper = asyncio.ensure_future(self._keep())

    async def aclose(self) -> None:
        """Close the connections."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        for pipeline in list(self._pipelines):
            pipeline.close()

    async def optional(self, statement: Statement[Row], values: dict[str, Any]) -> Row | None:
        """Return the statement's row, or None if there is none.

        Raises:
            NotTaken: do it through the pool.

        """
        waiter = self._ask(statement, values)
        try:
            if not traced():
                return await waiter
            with span_of(statement.name, statement.operation, statement.sql):
                return await waiter
        except asyncio.CancelledError:
            self._loop.call_later(_SOON, self._cancel)
            raise

    def _ask(self, statement: Statement[Row], values: dict[str, Any]) -> asyncio.Future[Row | None]:
        """Return the future of the row. Raises `NotTaken`."""
        if not self._pipelines or values.keys() != statement.params.keys():
            raise NotTaken
        if len(self._waiting) >= self._most_waiting:
            self._send()
            if len(self._waiting) >= self._most_waiting:
                raise NotTaken
        waiter: asyncio.Future[Row | None] = self._loop.create_future()
        self._waiting.append((statement, values, waiter))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)
        return waiter

    def _turn(self) -> None:
        self._scheduled = False
        self._send()

    def _send(self) -> None:
        """Send what waits, as far as there are connections without work."""
        for pipeline in list(self._pipelines):
            if not self._waiting:
                return
            if pipeline.free:
                batch, self._waiting = self._waiting, []
                pipeline.send(batch)

    def _cancel(self) -> None:
        for pipeline in self._pipelines:
            pipeline.cancel_if_nobody_waits()

    def _gone(self, pipeline: Pipeline) -> None:
        self._pipelines.remove(pipeline)
        if not self._pipelines:
            self._refuse()

    def _refuse(self) -> None:
        """Send everyone who waits for the next batch to the pool."""
        refuse(waiter for _, _, waiter in self._waiting)
        self._waiting.clear()

    async def _keep(self) -> None:
        """Keep the connections: make what is missing, replace what is stuck or old."""
        while True:
            for pipeline in list(self._pipelines):
                if pipeline.stuck():
                    pipeline.close()
                elif pipeline.age() > self._max_lifetime:
                    pipeline.retire()
            try:
                while len(self._pipelines) < self._size:
                    self._pipelines.append(Pipeline(await self._connect(), self._send, self._gone))
            except psycopg.Error:
                await asyncio.sleep(_RECONNECT)
            except Exception:  # noqa: BLE001 - whatever it was, the keeping goes on
                _LOG.exception("the fast lane could not connect for a reason of its own")
                await asyncio.sleep(_RECONNECT)
            await asyncio.sleep(_LOOK)
