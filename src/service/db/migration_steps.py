"""Applying one migration, without holding up those who use the database.

A statement that waits for a strong lock makes everyone who comes after it wait, too, readers included. So it waits for
`Patience.at_a_time` only, gives up its place, lets the others pass, and tries again. ``CONCURRENTLY`` is the exception:
its locks stand in nobody's way while it waits, and broken off it would leave an invalid index.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors

from service.db.migration_files import MigrationError, concurrently, statements_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from service.db.migration_files import Migration
    from service.db.statement import Connection

_INSERT = "INSERT INTO schema_migrations (version, name, checksum, duration_ms) VALUES (%s, %s, %s, %s)"
_BLOCKED = (errors.LockNotAvailable, errors.DeadlockDetected)
_SLOWER = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How locks are waited for. Times in seconds."""

    at_a_time: float = 1.0
    """The most that others can be made to wait behind a migration that waits."""
    pause: float = 1.0
    """Between two tries, so that they pass; grows to `longest_pause`."""
    longest_pause: float = 10.0
    altogether: float = 600.0
    """After this a migration gives up."""
    on_blocked: Callable[[Migration, float], None] = lambda _migration, _pause: None
    """Told when a lock was not to be had, and the seconds until the next try."""


async def apply(conn: Connection, migration: Migration, patience: Patience) -> float:
    """Run a file, note that it is applied, and return the seconds it took, waiting included.

    Raises:
        MigrationError: it failed, ended its own transaction, or a lock was not to be had.

    """
    start = time.monotonic()
    try:
        if migration.transaction:
            await _insisting(partial(_whole, conn, migration, patience, start), migration, patience)
        else:
            await _stepwise(conn, migration, patience, start)
    except psycopg.Error as error:
        why = f"{type(error).__name__}: {error.diag.message_primary or 'the connection was lost'}"
        kept = "nothing of it was kept" if migration.transaction else "run it again when that is mended"
        raise MigrationError(f"{migration.file} failed, {kept}: {why}") from error
    return time.monotonic() - start


async def _insisting(attempt: Callable[[], Awaitable[object]], migration: Migration, patience: Patience) -> None:
    """Make attempts until one is not blocked."""
    give_up, pause = time.monotonic() + patience.altogether, patience.pause
    while True:
        try:
            await attempt()
        except _BLOCKED:
            if time.monotonic() + pause > give_up:
                raise
            patience.on_blocked(migration, pause)
        else:
            return
        await asyncio.sleep(pause)
        pause = min(pause * _SLOWER, patience.longest_pause)


async def _whole(conn: Connection, migration: Migration, patience: Patience, start: float) -> None:
    async with _waiting_at_most(conn, patience.at_a_time), conn.transaction():
        await conn.execute(migration.sql.encode(), prepare=False)
        if conn.info.transaction_status.name != "INTRANS":
            raise MigrationError(f"{migration.file} ends its own transaction: leave BEGIN and COMMIT to the runner")
        await _record(conn, migration, start)


async def _stepwise(conn: Connection, migration: Migration, patience: Patience, start: float) -> None:
    await _drop_broken_indexes(conn, migration)
    for sql in statements_of(migration.sql):
        if concurrently(sql):
            await conn.execute(sql.encode(), prepare=False)
        else:
            await _insisting(partial(_step, conn, sql, patience), migration, patience)
    await _record(conn, migration, start)


async def _step(conn: Connection, sql: str, patience: Patience) -> None:
    async with _waiting_at_most(conn, patience.at_a_time):
        await conn.execute(sql.encode(), prepare=False)


@asynccontextmanager
async def _waiting_at_most(conn: Connection, seconds: float) -> AsyncIterator[None]:
    await conn.execute("SELECT set_config('lock_timeout', %s, false)", (f"{seconds * 1000:.0f}ms",))
    try:
        yield
    finally:
        if not conn.closed:
            await conn.execute(b"RESET lock_timeout")


async def _drop_broken_indexes(conn: Connection, migration: Migration) -> None:
    """Drop what a killed CREATE INDEX CONCURRENTLY left: IF NOT EXISTS would take it for done."""
    cursor = await conn.execute(
        b"SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relname FROM pg_index i"
        b" JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i' JOIN pg_namespace n ON n.oid = c.relnamespace"
        b" WHERE NOT i.indisvalid"
    )
    for index, name in await cursor.fetchall():
        if name in migration.sql:
            await conn.execute(f"DROP INDEX CONCURRENTLY {index}".encode(), prepare=False)


async def _record(conn: Connection, migration: Migration, start: float) -> None:
    took = round((time.monotonic() - start) * 1000)
    await conn.execute(_INSERT, (migration.version, migration.name, migration.checksum, took))
