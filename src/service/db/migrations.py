"""The schema's history: numbered plain SQL files, checksummed, applied one runner at a time.

A file runs in a transaction of its own together with its row in ``schema_migrations``, so a run killed half-way has
done whole files only. A file whose first line is ``-- gatelodge: no-transaction`` runs statement by statement in
autocommit (``CREATE INDEX CONCURRENTLY``); its statements must bear being run again (``IF NOT EXISTS``). How a file is
applied without holding others up is in `migration_steps`.

The connection must be a direct one: a session-level advisory lock means nothing through PgBouncer.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.db.migration_files import Migration, MigrationError, folder, load
from service.db.migration_steps import Patience, apply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from service.db.statement import Connection

__all__ = ["Applied", "Migration", "MigrationError", "Patience", "Status", "folder", "load", "pending", "status", "up"]

_LOCK = 0x6761_7465_6C6F_6467  # "gatelodg"
_TABLE = b"""
CREATE TABLE IF NOT EXISTS schema_migrations (
    version bigint PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    duration_ms bigint NOT NULL
)"""


@dataclass(frozen=True, slots=True)
class Applied:
    """A migration the database has."""

    version: int
    name: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Status:
    """How a database stands to the files."""

    applied: tuple[Applied, ...]
    pending: tuple[Migration, ...]
    """What `up` would run, in order: the dry run."""
    unknown: tuple[Applied, ...]
    """Applied by a newer release than this one; tolerated."""


async def status(conn: Connection, migrations: Sequence[Migration]) -> Status:
    """Compare the database with the files.

    Raises:
        MigrationError: an applied file was changed or renamed, or one is missing below an applied one.

    """
    applied = await _applied(conn)
    known = {migration.version: migration for migration in migrations}
    for row in applied:
        _compare(row, known.get(row.version))
    latest = max((row.version for row in applied), default=0)
    todo = tuple(known[version] for version in sorted(known.keys() - {row.version for row in applied}))
    if todo and todo[0].version < latest:
        raise MigrationError(f"{todo[0].file} was never applied, but later ones were: the history was rewritten")
    return Status(applied, todo, tuple(row for row in applied if row.version not in known))


async def pending(conn: Connection, migrations: Sequence[Migration]) -> tuple[Migration, ...]:
    """Return what `up` would run, in order. Raises as `status`."""
    return (await status(conn, migrations)).pending


async def up(
    conn: Connection,
    migrations: Sequence[Migration],
    *,
    on_applied: Callable[[Migration, float], None] | None = None,
    patience: float = 600.0,
    locks: Patience | None = None,
) -> Status:
    """Apply what is pending, and return the status afterwards. One runner at a time; the others wait.

    Args:
        conn: a direct connection in autocommit, without a statement timeout.
        migrations: all of them, from `load`.
        on_applied: told of each file when it is done, and the seconds it took.
        patience: seconds to wait for another runner.
        locks: how long to wait for locks that the service's own transactions hold.

    Raises:
        MigrationError: as `status`; another runner held the lock for too long; a lock on a table could not be had; a
            file failed or ended its own transaction. What it did was rolled back; the files before it stay applied.

    """
    if not conn.autocommit:
        raise MigrationError("migrations need a connection in autocommit")
    async with _alone(conn, patience):
        await conn.execute(_TABLE, prepare=False)
        for migration in await pending(conn, migrations):
            took = await apply(conn, migration, locks or Patience())
            if on_applied:
                on_applied(migration, took)
        return await status(conn, migrations)


@asynccontextmanager
async def _alone(conn: Connection, patience: float) -> AsyncIterator[None]:
    """Hold the lock; polled, because a session *waiting* for it would deadlock with CREATE INDEX CONCURRENTLY."""
    give_up = time.monotonic() + patience
    while not await _try(conn, b"SELECT pg_try_advisory_lock(%s)"):
        if time.monotonic() > give_up:
            raise MigrationError(f"another migration run has held the lock for {patience:.0f} s")
        await asyncio.sleep(0.1)
    try:
        yield
    finally:
        if not conn.closed:
            await _try(conn, b"SELECT pg_advisory_unlock(%s)")


async def _try(conn: Connection, sql: bytes) -> bool:
    cursor = await conn.execute(sql, (_LOCK,))
    row = await cursor.fetchone()
    return bool(row and row[0])


async def _applied(conn: Connection) -> tuple[Applied, ...]:
    cursor = await conn.execute(b"SELECT to_regclass('schema_migrations') IS NOT NULL")
    if await cursor.fetchone() != (True,):
        return ()
    cursor = await conn.execute(b"SELECT version, name, checksum FROM schema_migrations ORDER BY version")
    return tuple([Applied(*row) async for row in cursor])


def _compare(row: Applied, migration: Migration | None) -> None:
    if migration is None:
        return
    if row.name != migration.name:
        raise MigrationError(f"{migration.file} was applied under the name {row.name!r}: applied files keep theirs")
    if row.checksum != migration.checksum:
        raise MigrationError(f"{migration.file} was changed after it was applied: restore it and add a new file")
