"""Attempts at the very same moment: what they lock and in which order; what counts where one of two buckets refuses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest
import pytest_asyncio
from psycopg.errors import LockNotAvailable
from tests.auth.test_throttle import ADA, HERE, Bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from service.db import Connection, Database

ALL = "SELECT key FROM password_attempts ORDER BY key"


@pytest_asyncio.fixture
async def bench(db: Database) -> Bench:
    return Bench(db)


@pytest_asyncio.fixture
async def other(url: str) -> AsyncIterator[Connection]:
    """Somebody else's connection, in a transaction."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield connection


async def keys(bench: Bench, conn: Connection) -> tuple[bytes, bytes]:
    """Return the keys of the buckets of an attempt, in order; their rows are there."""
    await bench.guess()
    (low,), (high,) = await (await conn.execute(ALL)).fetchall()
    return low, high


async def attempts(conn: Connection) -> dict[bytes, float]:
    return dict(await (await conn.execute("SELECT key, attempts FROM password_attempts")).fetchall())


async def until_one_waits(conn: Connection) -> None:
    """Wait until a statement of this database waits for a lock."""
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(10):
        while await (await conn.execute(waiting)).fetchone() is None:
            await asyncio.sleep(0.01)


async def test_attempts_at_once_of_one_source_count_alike_in_both_buckets(bench: Bench, conn: Connection) -> None:
    waits = await asyncio.gather(*(bench.guess() for _ in range(60)))
    assert waits.count(0) == 10
    assert list((await attempts(conn)).values()) == [10, 10]


async def test_an_attempt_that_must_wait_locks_and_writes_nothing(bench: Bench, conn: Connection) -> None:
    await bench.guesses(10)
    rows = "SELECT xmin::text, xmax::text FROM password_attempts ORDER BY key"
    before = await (await conn.execute(rows)).fetchall()
    assert await bench.guess() > 0
    assert await (await conn.execute(rows)).fetchall() == before


async def held_up(work: Awaitable[object], low: bytes, high: bytes, conn: Connection, other: Connection) -> None:
    """Check that `work`, which waits for the row `high` of somebody else, has locked the row `low` by then."""
    await other.execute("SELECT FROM password_attempts WHERE key = %s FOR UPDATE", (high,))
    running = asyncio.ensure_future(work)
    await until_one_waits(conn)
    with pytest.raises(LockNotAvailable):
        await conn.execute("SELECT FROM password_attempts WHERE key = %s FOR UPDATE NOWAIT", (low,))
    await other.rollback()
    await running


async def swapped(bench: Bench, conn: Connection) -> tuple[bytes, bytes]:
    """Return `keys`, the row of the first one lying behind that of the second."""
    low, high = await keys(bench, conn)
    await conn.execute("DELETE FROM password_attempts WHERE key = %s", (low,))
    await conn.execute("INSERT INTO password_attempts VALUES (%s, 1, %s)", (low, bench.now))
    return low, high


async def test_attempts_lock_their_buckets_in_the_order_of_keys(
    bench: Bench, conn: Connection, other: Connection
) -> None:
    low, high = await swapped(bench, conn)
    await held_up(bench.guess(), low, high, conn, other)
    assert await attempts(conn) == {low: 2, high: 2}


async def test_what_is_given_back_is_locked_in_the_order_of_keys(
    bench: Bench, conn: Connection, other: Connection
) -> None:
    low, high = await swapped(bench, conn)
    reservation = await bench.throttle.reserve(ADA, HERE, None)
    await held_up(bench.throttle.settle(reservation), low, high, conn, other)
    assert await attempts(conn) == {low: 1, high: 1}


@pytest.mark.parametrize(("there", "wait"), [(1, 0), (100, 1)], ids=["taken", "refused"])
async def test_an_attempt_sees_a_bucket_that_another_one_makes_at_the_same_moment(
    bench: Bench, conn: Connection, other: Connection, there: int, wait: int
) -> None:
    low, high = await keys(bench, conn)
    await conn.execute("DELETE FROM password_attempts")
    await other.execute("INSERT INTO password_attempts VALUES (%s, %s, %s)", (high, there, bench.now))
    guessing = asyncio.ensure_future(bench.guess())
    await until_one_waits(conn)
    await other.commit()
    assert bool(await guessing) == bool(wait)
    assert await attempts(conn) == ({low: 0, high: there} if wait else {low: 1, high: there + 1})


async def test_what_is_there_is_not_counted_before_what_is_new(
    bench: Bench, conn: Connection, other: Connection
) -> None:
    """Or it would count too many for as long as others are made to wait for its new rows."""
    low, high = await keys(bench, conn)
    await conn.execute("DELETE FROM password_attempts WHERE key = %s", (high,))
    await other.execute("INSERT INTO password_attempts VALUES (%s, 100, %s)", (high, bench.now))
    guessing = asyncio.ensure_future(bench.guess())
    await until_one_waits(conn)
    before = await (await conn.execute("SELECT xmin::text FROM password_attempts WHERE key = %s", (low,))).fetchone()
    await other.commit()
    assert await guessing > 0
    after = await (await conn.execute("SELECT xmin::text FROM password_attempts WHERE key = %s", (low,))).fetchone()
    assert after == before
    assert await attempts(conn) == {low: 1, high: 100}
