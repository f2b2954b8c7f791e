"""The database as the rules see it: reads, transactions, streams, a health probe, gauges.

A rule passes its work in; retrying what is safe to retry happens here, and a broken connection is never seen.
"""

from __future__ import annotations

import asyncio
import random as _random
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from service import call
from service.db import idempotency, transactions
from service.db.faults import is_race
from service.db.lane import FastLane, NotTaken
from service.db.lending import Lender, PoolOptions
from service.db.listening import Listener
from service.errors import Conflict, DependencyUnavailable, Overloaded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from typing import Self

    from service.call import Mutation
    from service.db.statement import Connection, Statement
    from service.db.transactions import Isolation

Result = TypeVar("Result")
Row = TypeVar("Row")
AnyRow = TypeVar("AnyRow", bound=tuple[Any, ...])

_RETRIES = 3
"""How often a transaction that lost a race is run again (C4)."""


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool at this moment, for gauges; and its counters since the start."""

    size: int
    available: int
    waiting: int
    min_size: int
    max_size: int
    requests: int
    queued: int
    errors: int
    wait_seconds: float
    connections: int
    connection_errors: int
    lost: int
    up: bool
    """False while the last attempt to connect failed and nothing succeeded since."""


class Database:
    """The database of the serving process. ``async with`` opens and closes it; the server need not be there yet.

    Args:
        conninfo: libpq connection string or URL.
        options: sizes and times.
        sleep: waits between retries, seconds.
        random: gives [0, 1), the jitter of those waits.

    """

    def __init__(
        self,
        conninfo: str,
        options: PoolOptions | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._conninfo = conninfo
        self._options = options or PoolOptions()
        self._lender = Lender(conninfo, self._options)
        self._lane = FastLane(
            self._lender.connect,
            size=self._options.fast_connections if self._options.prepare_threshold is not None else 0,
            max_lifetime=self._options.max_lifetime,
        )
        self._sleep = sleep
        self._random = random

    async def __aenter__(self) -> Self:
        await self._lender.open()
        self._lane.open()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._lane.aclose()
        await self._lender.aclose()

    async def one(self, statement: Statement[AnyRow], **values: object) -> AnyRow:
        """Return the row of a hot read; without one raise what the statement's ``missing`` makes. Raises as `read`.

        Does what ``read(lambda conn: statement.one(conn, …))`` does, at a fraction of its cost while all is well. For
        statements that find one row by a key.
        """
        row = await self.optional(statement, **values)
        if row is None:
            raise statement.nothing()
        return row

    async def optional(self, statement: Statement[AnyRow], **values: object) -> AnyRow | None:
        """Return the row of a hot read, or None if there is none; else as `one`."""
        _free()
        try:
            return await self._lane.optional(statement, values)
        except NotTaken:
            return await self._lender.lend(lambda conn: statement.optional(conn, **values))

    async def read(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Run `work` in autocommit and return what it returns.

        `work` may run more than once: if its connection proves dead, it is run again on a fresh one. So it only reads.

        Raises:
            DependencyUnavailable: no connection to be had within the acquire timeout or 0.8 of the call's time left.
            Overloaded: too many calls wait for a connection already.
            DeadlineExceeded: the statement timeout passed.
            Conflict: a lock was not to be had.

        """
        _free()
        return await self._lender.lend(work)

    async def transact(
        self, work: Callable[[Connection], Awaitable[Result]], *, isolation: Isolation | None = None
    ) -> Result:
        """Run `work` in a transaction and return what it returns; a failure or cancellation rolls back.

        `work` may run more than once, with one effect: lost races are retried at most 3 times, and so is a connection
        that dies before COMMIT. So it does nothing outside of the database.

        In a call of a mutating method this is the one transaction, and the last thing asked of the database. If the
        request has an id, the commit comes when the call's answer is there (`service.db.idempotency`); only then does
        COMMIT raise.

        Raises:
            Conflict: every retry lost its race as well.
            DependencyUnavailable: as in `read`; or the connection died during COMMIT, and the outcome is unknown.
            Overloaded: too many calls wait for a connection already.
            DeadlineExceeded: the statement timeout passed.
            RuntimeError: the call has made its change already.

        """
        mutation = _free()
        if mutation is None:
            return await self._persist(work, isolation, None)
        mutation.begun = True
        try:
            return await self._persist(work, isolation, mutation)
        except BaseException:
            mutation.begun = False
            raise

    async def apart(self, work: Callable[[Connection], Awaitable[Result]], *, repeatable: bool) -> Result:
        """Run the one statement that `work` is; its effect lasts whatever becomes of the call.

        For what must be known before the call goes on, like an attempt that is counted before it is made. It is not the
        call's change, and comes before that. Without BEGIN and COMMIT it is one round trip; lost races are retried as
        in `transact`. If the connection dies and nobody knows whether it was done, it is run again only where it is
        `repeatable`: with two effects at worst.

        Raises:
            RuntimeError: the call's change has begun.
            DependencyUnavailable: as in `read`; or the connection died, and the outcome is unknown.
            DomainError: as `transact`.

        """
        _free()
        return await self._raced(lambda: self._lender.lend(work, repeatable=repeatable))

    async def _persist(
        self,
        work: Callable[[Connection], Awaitable[Result]],
        isolation: Isolation | None,
        mutation: Mutation | None,
    ) -> Result:
        """Run the transaction, and again while it loses races."""
        return await self._raced(lambda: self._attempt(work, isolation, mutation))

    async def _raced(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        for again in range(_RETRIES + 1):
            try:
                return await attempt()
            except Conflict as error:
                if not is_race(error) or again == _RETRIES:
                    raise
            await self._sleep((0.5 + self._random()) * 0.01 * 2**again)
        raise AssertionError  # the last turn returns or raises

    async def _attempt(
        self,
        work: Callable[[Connection], Awaitable[Result]],
        isolation: Isolation | None,
        mutation: Mutation | None,
    ) -> Result:
        if mutation is not None and mutation.key is not None:
            return await idempotency.begin(self._lender, mutation, mutation.key, work, isolation)
        return await self._lender.lend(lambda conn: transactions.attempt(conn, work, isolation))

    async def stream(self, rows: Callable[[Connection], AsyncGenerator[Row, None]]) -> AsyncGenerator[Row, None]:
        """Yield what ``rows(conn)`` yields (`Statement.stream`), in a read-only transaction. Never retried.

        Close it (``contextlib.aclosing``) when leaving it early. Raises as `read`.
        """
        _free()
        conn = await self._lender.acquire(self._lender.deadline(), checked=True)
        try:
            await conn.execute(b"BEGIN READ ONLY", prepare=False)
            async with aclosing(rows(conn)) as iterator:
                async for row in iterator:
                    yield row
        finally:
            try:
                await transactions.roll_back(conn)
            finally:
                await self._lender.give_back(conn)

    async def ping(self, within: float = 1.0) -> None:
        """Prove that the database answers, for the health probe. A pool merely busy counts as answering.

        Raises:
            DependencyUnavailable: it did not answer `within` seconds.

        """
        try:
            conn = await self._lender.acquire(time.monotonic() + within, checked=True)
        except (DependencyUnavailable, Overloaded):
            if self._lender.outage.present:
                raise
        else:
            await self._lender.give_back(conn)

    def listener(self, channel: str) -> Listener:
        """Return what hears the notifications sent to `channel`."""
        return Listener(self._conninfo, self._options, channel)

    def stats(self) -> PoolStats:
        """Return the pool's gauges and counters."""
        of = self._lender.pool.get_stats()
        return PoolStats(
            size=of["pool_size"],
            available=of["pool_available"],
            waiting=of["requests_waiting"],
            min_size=of["pool_min"],
            max_size=of["pool_max"],
            requests=of.get("requests_num", 0),
            queued=of.get("requests_queued", 0),
            errors=of.get("requests_errors", 0),
            wait_seconds=of.get("requests_wait_ms", 0) / 1000,
            connections=of.get("connections_num", 0),
            connection_errors=of.get("connections_errors", 0),
            lost=of.get("connections_lost", 0) + of.get("returns_bad", 0),
            up=not self._lender.outage.present,
        )


def _free() -> Mutation | None:
    """Return what the call changes, if it is of a mutating method, provided that its transaction has not begun.

    Another connection would not see the change, hold two places in the pool, and commit apart from the answer. This is
    refused with and without a ``request_id``, so that any test notices.
    """
    current = call.current()
    mutation = current.mutation if current else None
    if mutation is not None and mutation.begun:
        raise RuntimeError("a mutation's transaction is the last thing it asks of the database")
    return mutation
