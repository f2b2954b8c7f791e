"""Lending connections: who gets one, how long they wait, what happens when one proves dead or the database is away."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool

from service import call
from service.db.faults import is_lost, raise_meaning
from service.db.outage import Outage, watched
from service.errors import DependencyUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.db.statement import Connection

Result = TypeVar("Result")

_DEATHS = 4
"""How many connections may die under one call: a statement that kills its backend must not kill them all."""
_ABANDONED = 1000
"""Milliseconds after which the server ends a statement whose client is gone.

The driver closes the connection when a cancellation is lost (one sent between PREPARE and EXECUTE is)."""
_SHARE = 0.8
"""The part of the caller's remaining time spent on waiting for a connection, so that the answer still arrives."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How the pool behaves. All times in seconds."""

    min_size: int = 2
    max_size: int = 20
    acquire_timeout: float = 5.0
    max_idle: float = 600.0
    max_lifetime: float = 1800.0
    max_waiting: int = 200
    """Calls that may wait for a connection; the next one is refused with `Overloaded`. 0: no limit."""
    application_name: str = "gatelodge"
    statement_timeout: float | None = 30.0
    """None sends no startup options, PgBouncer takes none: set the role's ``statement_timeout`` and
    ``client_connection_check_interval`` in the database instead."""
    prepare_threshold: int | None = 0
    """0 prepares at the first run; None never, for PgBouncer in transaction mode."""
    fast_connections: int = 2
    """Connections beside the pool for hot reads, see `service.db.lane`. None where nothing is prepared."""
    outage_grace: float = 2.0
    """How long the database may be away before calls are refused at once instead of waiting for it."""

    def connection(self) -> dict[str, Any]:
        """Return the keyword arguments of every connection."""
        options: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": self.prepare_threshold,
            "application_name": self.application_name,
            "connect_timeout": 2,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
        }
        if self.statement_timeout is not None:
            timeout = f"-c statement_timeout={round(self.statement_timeout * 1000)}"
            options["options"] = f"{timeout} -c client_connection_check_interval={_ABANDONED}"
        return options


class Lender:
    """The connections of one process. Open and close it once."""

    def __init__(self, conninfo: str, options: PoolOptions) -> None:
        self._conninfo = conninfo
        self._options = options
        self.outage = Outage(self._knock, self._recovered, grace=options.outage_grace)
        self._connection_class = watched(self.outage.begin, self.outage.end)
        self.pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            connection_class=self._connection_class,
            kwargs=options.connection(),
            min_size=options.min_size,
            max_size=options.max_size,
            timeout=options.acquire_timeout,
            max_idle=options.max_idle,
            max_lifetime=options.max_lifetime,
            max_waiting=options.max_waiting,
            reconnect_timeout=2.0,  # its back-off doubles without a cap otherwise
            name=options.application_name,
            open=False,
        )

    async def open(self) -> None:
        """Start connecting; the server need not be there yet."""
        await self.pool.open()

    async def aclose(self) -> None:
        """Close every connection; those lent are closed when they come back."""
        await self.pool.close()
        await self.outage.aclose()

    async def lend(
        self, work: Callable[[Connection], Awaitable[Result]], *, keep: bool = False, repeatable: bool = True
    ) -> Result:
        """Run `work` on a connection; if that proves dead, run it again on a fresh, checked one.

        With `keep`, a connection on which `work` succeeded is not given back: that is up to the caller. What is not
        `repeatable` is run again only where the server said that it did not do it.

        Raises:
            DependencyUnavailable: no live connection to be had in time.
            Overloaded: too many calls wait for a connection already.
            Exception: what `work` raises, driver's faults translated by `faults.translate`.

        """
        deadline = self.deadline()
        for deaths in range(_DEATHS):
            conn = await self.acquire(deadline, checked=deaths > 0)
            kept = False
            try:
                result = await work(conn)
            except Exception as error:  # noqa: BLE001 - looked at and raised again, unless the connection was dead
                again = deaths < _DEATHS - 1 and (repeatable or _was_refused(error))
                if not again or not is_lost(error, conn):
                    raise_meaning(error)
                await conn.close()  # the session may be over while the socket is still open
            else:
                self.outage.end()
                kept = keep
                return result
            finally:
                if not kept:
                    await self.give_back(conn)
        raise AssertionError  # the last turn returns or raises

    def deadline(self) -> float:
        """Return until when a call may wait for a connection, on the ``time.monotonic`` clock."""
        current = call.current()
        left = current.remaining() if current else None
        budget = self._options.acquire_timeout
        return time.monotonic() + (budget if left is None else min(budget, _SHARE * left))

    async def acquire(self, deadline: float, *, checked: bool) -> Connection:
        """Return a connection, `checked` to be alive by a round trip. Raises as `lend`."""
        while True:
            if self.outage.lasting and not self.pool.get_stats()["pool_available"]:
                raise DependencyUnavailable("database")
            try:
                conn = await self._taken(deadline)
            except psycopg.Error as error:
                raise_meaning(error)
            if not checked or await self._answers(conn, deadline):
                return conn

    async def _taken(self, deadline: float) -> Connection:
        """Take a connection from the pool.

        The pool waits in ``asyncio.wait_for``, which before Python 3.12 loses a cancellation that comes together with
        the connection: it is raised here.
        """
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        conn = await self.pool.getconn(deadline - time.monotonic())
        if task is not None and task.cancelling() > before:
            await self.give_back(conn)
            raise asyncio.CancelledError
        return conn

    async def give_back(self, conn: Connection) -> None:
        """Return `conn` to the pool, even if the caller is cancelled meanwhile: the pool would lose it for ever."""
        await asyncio.shield(self.pool.putconn(conn))

    async def _answers(self, conn: Connection, deadline: float) -> bool:
        """Tell whether `conn` is alive; give it back if it is not."""
        alive = False
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await AsyncConnectionPool.check_connection(conn)
            alive = True
        except (psycopg.OperationalError, TimeoutError):
            await conn.close()
        finally:
            if not alive:
                await self.give_back(conn)
        return alive

    async def connect(self) -> Connection:
        """Open a connection beside the pool. Raises `psycopg.Error`."""
        return await self._connection_class.connect(self._conninfo, **self._options.connection())

    async def _knock(self) -> None:
        await (await self.connect()).close()

    async def _recovered(self) -> None:
        """Get one connection now, for whoever waits: those of the pool that back off take up to 1.1 s more."""
        low, high = self.pool.min_size, self.pool.max_size
        if self.pool.get_stats()["pool_size"] <= high:
            await self.pool.resize(low + 1, high + 1)
            await self.pool.resize(low, high)
        await self.pool.check()


def _was_refused(error: Exception) -> bool:
    """Tell whether the server itself said that the statement failed: then it had no effect."""
    fault = error if isinstance(error, psycopg.Error) else error.__cause__
    return isinstance(fault, psycopg.Error) and fault.sqlstate is not None
