"""One attempt at a transaction on one connection: BEGIN, the work, COMMIT; anything else rolls back."""

from __future__ import annotations

from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from service.errors import DependencyUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.db.statement import Connection

Result = TypeVar("Result")


class Isolation(Enum):
    """PostgreSQL's isolation levels; without one the server's default holds (read committed)."""

    READ_COMMITTED = "READ COMMITTED"
    REPEATABLE_READ = "REPEATABLE READ"
    SERIALIZABLE = "SERIALIZABLE"


class OutcomeUnknown(Exception):
    """The connection died while COMMIT was under way: it may have happened or not. Never retried."""


_BEGIN = {
    None: b"BEGIN",
    Isolation.READ_COMMITTED: b"BEGIN ISOLATION LEVEL READ COMMITTED",
    Isolation.REPEATABLE_READ: b"BEGIN ISOLATION LEVEL REPEATABLE READ",
    Isolation.SERIALIZABLE: b"BEGIN ISOLATION LEVEL SERIALIZABLE",
}


async def attempt(
    conn: Connection, work: Callable[[Connection], Awaitable[Result]], isolation: Isolation | None
) -> Result:
    """Run `work` in one transaction on `conn`, which is in autocommit; roll back on failure and on cancellation.

    Raises:
        DependencyUnavailable: caused by `OutcomeUnknown`, if the connection died during COMMIT.
        psycopg.Error: BEGIN or COMMIT was refused; nothing was changed.

    """
    result = await begin(conn, work, isolation)
    await commit(conn)
    return result


async def begin(
    conn: Connection, work: Callable[[Connection], Awaitable[Result]], isolation: Isolation | None
) -> Result:
    """Run `work` in a transaction that stays open; roll back on failure and on cancellation."""
    try:
        await conn.execute(_BEGIN[isolation], prepare=False)
        return await work(conn)
    except BaseException:
        await roll_back(conn)
        raise


async def commit(conn: Connection) -> None:
    """Commit what `begin` began.

    Raises:
        DependencyUnavailable: caused by `OutcomeUnknown`, if the connection died meanwhile.
        psycopg.Error: COMMIT was refused; nothing was changed.

    """
    try:
        cursor = await conn.execute(b"COMMIT", prepare=False)
    except psycopg.OperationalError as error:
        if conn.closed:
            raise DependencyUnavailable("database", outcome="unknown") from OutcomeUnknown(str(error.sqlstate))
        raise
    if cursor.statusmessage != "COMMIT":
        raise RuntimeError("the work swallowed a database error: its transaction was rolled back, not committed")


async def roll_back(conn: Connection) -> None:
    """End an open transaction without effect; a dead connection has none."""
    if not conn.closed and conn.pgconn.transaction_status != TransactionStatus.IDLE:
        with suppress(psycopg.Error):
            await conn.execute(b"ROLLBACK", prepare=False)
