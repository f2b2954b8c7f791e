"""What an operator does to the schema from the command line; on start it is done only where the settings say so."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog

from service.db import schema
from service.development import database_url
from service.errors import CannotRun, DependencyUnavailable
from service.telemetry.exceptions import describe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.db.migrations import Migration, Status
    from service.settings import Database

_PAUSE = 1.0
_log = structlog.get_logger("gatelodge.schema")


async def schema_status(settings: Database) -> Status:
    """Return how the database stands to this release's migrations.

    Raises:
        CannotRun: the history in the database is not that of the files, or the embedded database does not start.
        DependencyUnavailable: the database cannot be reached.

    """
    async with database_url(settings) as url:
        return await schema.status(url)


async def migrate(
    settings: Database,
    on_applied: Callable[[Migration, float], None],
    on_blocked: Callable[[Migration, float], None],
) -> Status:
    """Bring the schema up to date, one runner at a time.

    `on_applied` hears of each file and its seconds; `on_blocked` of each lock that was not to be had, and the seconds
    until the next try.

    Raises:
        CannotRun: as `schema_status`, or another runner holds the lock for too long.
        DependencyUnavailable: the database cannot be reached.

    """
    async with database_url(settings) as url:
        return await schema.migrate(url, on_applied, on_blocked)


async def prepare_schema(url: str, settings: Database) -> None:
    """Make sure, before serving, that the schema is the one this release was proven against.

    Waits for a database that is not there yet, and applies migrations where the settings say so.

    Raises:
        CannotRun: migrations are missing and `database.migrate_on_start` is off, or they cannot be applied.
        DependencyUnavailable: the database cannot be reached.

    """
    migrate = partial(schema.migrate, url, _log_applied, _log_blocked)
    look = migrate if settings.migrate_on_start else partial(schema.status, url)
    status = await _patiently(look, settings.connect_patience_seconds)
    if status.pending:
        names = ", ".join(migration.file for migration in status.pending)
        raise CannotRun(f"the database's schema is behind this release (missing: {names}): run `gatelodge migrate`")
    if status.unknown:
        _log.info("the schema is ahead of this release", unknown=[row.version for row in status.unknown])


async def _patiently(look: Callable[[], Awaitable[Status]], patience: float) -> Status:
    give_up = time.monotonic() + patience
    while True:
        try:
            return await look()
        except DependencyUnavailable as error:
            if time.monotonic() + _PAUSE > give_up:
                raise
            _log.warning("waiting for the database", cause=describe(error.__cause__ or error))
        await asyncio.sleep(_PAUSE)


def _log_blocked(migration: Migration, pause: float) -> None:
    _log.warning("migration waits for a lock", file=migration.file, again_in=round(pause, 1))


def _log_applied(migration: Migration, seconds: float) -> None:
    _log.info("migration applied", file=migration.file, duration_ms=round(seconds * 1000))
