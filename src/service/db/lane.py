"""A fast lane for hot reads of one row: the same statements, on connections that are never handed around.

A call through the pool pays for borrowing a connection, a cursor, and two trips through the event loop's selector.
Here a few connections are watched by the loop for good; a read is one `send_query_prepared` and one future. Reads are
safe to repeat, so whatever is unusual (no connection, an error, a slow answer) is left to the caller, who goes to the
pool.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer

from service.db.describe import numbered
from service.db.spans import span_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.db.statement import Connection, Statement

Row = TypeVar("Row", bound=tuple[Any, ...])

_PATIENCE = 1.0
"""Seconds one read may take before its connection is given up."""
_SOON = 0.02
_LOOK = 0.25
_RECONNECT = 1.0


class NotTaken(Exception):
    """The read was not done here: do it through the pool."""


class _Read:
    """One read: its statement, its values, and who waits for it."""

    __slots__ = ("began", "statement", "values", "waiter")

    def __init__(self, statement: Statement[Any], values: dict[str, Any], waiter: asyncio.Future[Any]) -> None:
        self.statement = statement
        self.values = values
        self.waiter = waiter
        self.began = 0.0


class _Prepared:
    """A statement as one connection knows it."""

    __slots__ = ("loads", "name", "names", "sql", "transformer")

    def __init__(self, conn: Connection, statement: Statement[Any], number: int) -> None:
        sql, self.names = numbered(statement.sql)
        self.sql = sql.encode()
        self.name = f"lane_{number}".encode()
        self.transformer = Transformer(conn)
        self.loads = False

    def dump(self, values: dict[str, Any]) -> Any:
        """Return the parameters as the server takes them."""
        return self.transformer.dump_sequence([values[name] for name in self.names], [PyFormat.AUTO] * len(self.names))


class _Lane:
    """One connection and the reads that wait for it, one after the other.

    An answer is drained to its end before the next is sent, whether somebody still waits for it or not.
    """

    def __init__(self, conn: Connection, gone: Callable[[_Lane], None]) -> None:
        self._conn = conn
        self._pg = conn.pgconn
        self._gone = gone
        self._waiting: deque[_Read] = deque()
        self._current: _Read | None = None
        self._result: pq.abc.PGresult | None = None
        self._preparing = False
        self._prepared: dict[str, _Prepared] = {}
        self._made = time.monotonic()
        self._pg.nonblocking = 1
        self._descriptor = self._pg.socket
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._readable)

    @property
    def load(self) -> int:
        """How many reads it has to do."""
        return len(self._waiting) + (self._current is not None)

    def age(self) -> float:
        """Return the seconds since it was connected."""
        return time.monotonic() - self._made

    def stuck(self) -> bool:
        """Tell whether the read in progress takes too long."""
        return self._current is not None and time.monotonic() - self._current.began > _PATIENCE

    def take(self, read: _Read) -> None:
        """Do the read when its turn comes."""
        self._waiting.append(read)
        if self._current is None:
            self._next()

    def leave(self, read: _Read) -> None:
        """Note that nobody waits for the read any more: if it is in progress and not done soon, it is cancelled."""
        if self._current is read:
            self._loop.call_later(_SOON, self._cancel, read)

    def _cancel(self, read: _Read) -> None:
        if self._current is read:
            # Blocks for a connection of its own. The read then ends with an error, and the lane with it.
            self._loop.run_in_executor(None, self._pg.get_cancel().cancel)

    def close(self) -> None:
        """Close the connection; everyone who waits is told to go to the pool."""
        self._loop.remove_reader(self._descriptor)
        self._pg.finish()
        reads = [*([self._current] if self._current else []), *self._waiting]
        self._current = None
        self._waiting.clear()
        for read in reads:
            if not read.waiter.done():
                read.waiter.set_exception(NotTaken())

    def _next(self) -> None:
        self._current = None
        while self._waiting:
            read = self._waiting.popleft()
            if not read.waiter.done():
                self._current = read
                self._send(read)
                return

    def _send(self, read: _Read) -> None:
        prepared = self._prepared.get(read.statement.name)
        read.began = time.monotonic()
        try:
            if prepared is None:
                prepared = _Prepared(self._conn, read.statement, len(self._prepared))
                self._prepared[read.statement.name] = prepared
                prepared.dump(read.values)
                self._preparing = True
                self._pg.send_prepare(prepared.name, prepared.sql, param_types=prepared.transformer.types)
            else:
                self._preparing = False
                values = prepared.dump(read.values)
                self._pg.send_query_prepared(prepared.name, values, param_formats=prepared.transformer.formats)
            if self._pg.flush():
                self._fail()
        except (psycopg.Error, ValueError):
            self._fail()

    def _readable(self) -> None:
        try:
            self._pg.consume_input()
            while not self._pg.is_busy():
                result = self._pg.get_result()
                if result is None:
                    if self._current is None or self._result is None:
                        return
                    self._answered(self._current, self._result)
                    return
                self._result = result
        except psycopg.Error:
            self._fail()

    def _answered(self, read: _Read, result: pq.abc.PGresult) -> None:
        self._result = None
        expected = pq.ExecStatus.COMMAND_OK if self._preparing else pq.ExecStatus.TUPLES_OK
        if result.status != expected:
            self._fail()
        elif self._preparing:
            self._send(read)
        else:
            if not read.waiter.done():
                self._tell(read, result)
            self._next()

    def _tell(self, read: _Read, result: pq.abc.PGresult) -> None:
        prepared = self._prepared[read.statement.name]
        try:
            prepared.transformer.set_pgresult(result, set_loaders=not prepared.loads)
            prepared.loads = True
            count = result.ntuples
            row = prepared.transformer.load_row(0, read.statement.make_row) if count == 1 else None
        except psycopg.Error:
            read.waiter.set_exception(NotTaken())
            return
        if count > 1:
            read.waiter.set_exception(NotTaken())
        else:
            read.waiter.set_result(row)

    def _fail(self) -> None:
        self.close()
        self._gone(self)


class FastLane:
    """A few `_Lane`s. Everything it cannot do at once it leaves to the pool, by raising `NotTaken`.

    Args:
        connect: opens a connection in autocommit.
        size: how many connections; 0 leaves everything to the pool.
        max_lifetime: seconds after which a connection is replaced, so that a failover is noticed.
        most_waiting: reads that may wait for one connection.

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
        self._lanes: list[_Lane] = []
        self._keeper: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to connect, in the background."""
        if self._size:
            self._keeper = asyncio.ensure_future(self._keep())

    async def aclose(self) -> None:
        """Close the connections."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        for lane in self._lanes:
            lane.close()
        self._lanes.clear()

    async def optional(self, statement: Statement[Row], values: dict[str, Any]) -> Row | None:
        """Return the statement's row, or None if there is none.

        Raises:
            NotTaken: do it through the pool.

        """
        if not self._lanes or values.keys() != statement.params.keys():
            raise NotTaken
        lane = self._lanes[0] if len(self._lanes) == 1 else min(self._lanes, key=_load)
        if lane.load >= self._most_waiting:
            raise NotTaken
        waiter: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        with span_of(statement.name, statement.operation, statement.sql):
            read = _Read(statement, values, waiter)
            lane.take(read)
            try:
                return await waiter
            except asyncio.CancelledError:
                lane.leave(read)
                raise

    async def _keep(self) -> None:
        """Keep the connections: make what is missing, replace what is stuck or old."""
        while True:
            for lane in list(self._lanes):
                if lane.stuck() or (lane.age() > self._max_lifetime and not lane.load):
                    self._lanes.remove(lane)
                    lane.close()
            try:
                while len(self._lanes) < self._size:
                    self._lanes.append(_Lane(await self._connect(), self._lanes.remove))
            except psycopg.Error:
                await asyncio.sleep(_RECONNECT)
            await asyncio.sleep(_LOOK)


def _load(lane: _Lane) -> int:
    return lane.load
