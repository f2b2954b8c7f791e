"""Calls that are in progress for as long as a test wants, at no cost: they wait for a lock in the database."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.db import Connection

_WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass"


class Held:
    """Whoever writes to the users waits, until `release`."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def until(self, count: int) -> None:
        """Wait until so many calls wait."""
        async with asyncio.timeout(20):
            while await self._waiting() < count:
                await asyncio.sleep(0.01)

    async def release(self) -> None:
        """Let them go on."""
        await self._conn.rollback()

    async def _waiting(self) -> int:
        row = await (await self._conn.execute(_WAITING)).fetchone()
        assert row is not None
        return int(row[0])


@asynccontextmanager
async def held_registrations(url: str) -> AsyncIterator[Held]:
    """Hold up every registration; reads go on."""
    async with await psycopg.AsyncConnection.connect(url) as conn:
        await conn.execute("LOCK TABLE users IN SHARE MODE")
        yield Held(conn)
