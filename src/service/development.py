"""What development and tests get for nothing: a PostgreSQL and a master secret. Settings refuse both in production."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from service.db.embedded import EmbeddedPostgres
from service.files import made_once
from service.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.settings import Database, Settings

_SECRET_BYTES = 48
_PAUSE = 1.0


@asynccontextmanager
async def database_url(settings: Database) -> AsyncIterator[str]:
    """Yield the configured URL or, without one, that of an embedded PostgreSQL that is kept running meanwhile.

    Raises:
        EmbeddedError: the embedded PostgreSQL does not start.

    """
    if settings.url is not None:
        yield settings.url.get_secret_value()
        return
    async with EmbeddedPostgres(Path(settings.embedded_dir)) as postgres, Supervisor() as tasks:
        tasks.spawn("embedded-postgres", partial(_keep_running, postgres))
        yield await postgres.start()


async def _keep_running(postgres: EmbeddedPostgres) -> None:
    """Start the server again when somebody kills it; while it runs this only looks."""
    while True:
        await asyncio.sleep(_PAUSE)
        await postgres.start()


def master_secrets(settings: Settings) -> tuple[bytes, ...]:
    """Return the master secret and the previous ones, which only open."""
    previous = settings.auth.previous_master_secrets
    return master_secret(settings), *(secret.get_secret_value().encode() for secret in previous)


def master_secret(settings: Settings) -> bytes:
    """Return the configured master secret or one of our own, made on first use beside the embedded database's data."""
    configured = settings.auth.master_secret
    if configured is not None:
        return configured.get_secret_value().encode()
    file = Path(settings.database.embedded_dir).parent / "master-secret"
    return made_once(file, lambda: secrets.token_urlsafe(_SECRET_BYTES)).encode()
