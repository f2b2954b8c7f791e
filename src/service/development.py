"""What development and tests get for nothing: a PostgreSQL and a master secret. Settings refuse both in production."""

from __future__ import annotations

import os
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from service.db.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pydantic import SecretStr

_SECRET_BYTES = 48
_PRIVATE = 0o600


@asynccontextmanager
async def database_url(configured: SecretStr | None, data_dir: Path) -> AsyncIterator[str]:
    """Yield the configured URL or, without one, that of an embedded PostgreSQL that runs meanwhile.

    Raises:
        EmbeddedError: the embedded PostgreSQL does not start.

    """
    if configured is not None:
        yield configured.get_secret_value()
        return
    postgres = EmbeddedPostgres(data_dir)
    try:
        yield await postgres.start()
    finally:
        await postgres.stop()


def master_secret(configured: SecretStr | None, file: Path) -> bytes:
    """Return the configured master secret, or that of `file`, made on first use and private to its owner."""
    if configured is not None:
        return configured.get_secret_value().encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    except FileExistsError:
        return file.read_bytes()
    with os.fdopen(handle, "wb") as new:
        new.write(secrets.token_urlsafe(_SECRET_BYTES).encode())
    return file.read_bytes()
