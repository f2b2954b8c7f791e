"""A table of things, and a database whose reads of them take the fast lane."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import pytest_asyncio

from service.db import Database, PoolOptions, Statement
from service.errors import UserNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.db import Connection


class Numbered(NamedTuple):
    id: int
    text: str | None
    backend: int


FIND = Statement(
    "lane.find",
    "SELECT id, text, pg_backend_pid() AS backend FROM things WHERE id = %(id)s",
    row=Numbered,
    params={"id": int},
    missing=UserNotFound,
)


@pytest_asyncio.fixture(autouse=True)
async def things(conn: Connection) -> None:
    await conn.execute("CREATE TABLE things (id int PRIMARY KEY, text text)")
    await conn.execute("INSERT INTO things SELECT n, 'thing ' || n FROM generate_series(1, 500) AS n")
    await conn.execute("INSERT INTO things VALUES (0, NULL)")


@pytest_asyncio.fixture
async def fast(url: str) -> AsyncIterator[Database]:
    """One fast connection beside a pool of one."""
    options = PoolOptions(min_size=1, max_size=1, fast_connections=1, application_name="fast")
    async with Database(url, options) as db:
        await laned(db)
        yield db


async def laned(db: Database) -> int:
    """Wait until reads take the lane, and return its backend."""
    pooled = (await db.read(lambda conn: FIND.one(conn, id=1))).backend
    async with asyncio.timeout(20):
        while (backend := (await db.one(FIND, id=1)).backend) == pooled:
            await asyncio.sleep(0.05)
    return backend
