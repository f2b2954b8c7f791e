"""The schema of the database at a URL: how it stands to the files, and bringing it up to date."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg

from service.db import migrations
from service.errors import DependencyUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from service.db.migrations import Migration, Status
    from service.db.statement import Connection

_CONNECT_SECONDS = 5


async def status(url: str) -> Status:
    """Compare the database with the files of this release.

    Raises:
        DependencyUnavailable: the database cannot be reached.
        MigrationError: the history in the database is not that of the files.

    """
    async with _directly(url) as conn:
        return await migrations.status(conn, migrations.load(migrations.folder()))


async def migrate(
    url: str,
    on_applied: Callable[[Migration, float], None],
    on_blocked: Callable[[Migration, float], None] = lambda _migration, _pause: None,
) -> Status:
    """Apply what is missing, one runner at a time.

    `on_applied` hears of each file and the seconds it took; `on_blocked` of each lock that was not to be had, and the
    seconds until the next try.

    Raises:
        DependencyUnavailable: the database cannot be reached.
        MigrationError: the history in the database is not that of the files, another runner holds the lock, or a
            transaction keeps a table locked.

    """
    locks = migrations.Patience(on_blocked=on_blocked)
    async with _directly(url) as conn:
        return await migrations.up(conn, migrations.load(migrations.folder()), on_applied=on_applied, locks=locks)


@asynccontextmanager
async def _directly(url: str) -> AsyncIterator[Connection]:
    """Open a connection of its own: an advisory lock belongs to a session, and no statement timeout may cut in."""
    try:
        conn = await psycopg.AsyncConnection.connect(
            url, autocommit=True, connect_timeout=_CONNECT_SECONDS, application_name="gatelodge-migrate"
        )
    except psycopg.OperationalError as error:
        raise DependencyUnavailable("database") from error
    async with conn:
        yield conn
