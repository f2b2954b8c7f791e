"""A database that is killed, away, and back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest

from service.db import Command, Database, PoolOptions, Statement
from service.errors import DependencyUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.db.conftest import Fragile

    from service.db import Connection

pytestmark = pytest.mark.asyncio


class Pid(NamedTuple):
    pid: int


PID = Statement("pid", "SELECT pg_backend_pid() AS pid", row=Pid)
ADD = Command("add", "INSERT INTO effects DEFAULT VALUES")


def kill(pid: int | None) -> None:
    assert pid
    os.kill(pid, signal.SIGKILL)


async def timed(work: Awaitable[object]) -> float:
    start = time.monotonic()
    await work
    return time.monotonic() - start


async def refused(db: Database) -> float:
    start = time.monotonic()
    with pytest.raises(DependencyUnavailable) as caught:
        await db.read(PID.one)
    assert caught.value.retry_after > 0
    return time.monotonic() - start


async def test_a_killed_backend_takes_the_server_through_recovery_and_no_safe_call_fails(fragile: Fragile) -> None:
    async with Database(fragile.url, PoolOptions(min_size=4)) as db:
        await db.read(Command("make", "CREATE TABLE effects (id serial)").execute)
        await db.read(Command("keep", "CHECKPOINT").execute)
        died: list[int] = []

        async def work(conn: Connection) -> None:
            await ADD.execute(conn)
            if not died:
                died.append((await PID.one(conn)).pid)
                kill(died[0])
            await ADD.execute(conn)

        await asyncio.gather(db.transact(work), *(db.read(PID.one) for _ in range(8)))
        rows = await db.read(Statement("n", "SELECT count(*)::int AS pid FROM effects", row=Pid).one)
        assert rows.pid == 2


async def test_calls_made_while_the_server_restarts_wait_for_it(fragile: Fragile) -> None:
    async with Database(fragile.url) as db:
        await db.read(PID.one)
        kill(fragile.server.pid)
        calls = [asyncio.create_task(db.read(PID.one)) for _ in range(30)]
        await asyncio.sleep(0.5)
        await fragile.server.start()
        assert len(await asyncio.gather(*calls)) == 30


async def test_a_long_outage_is_refused_at_once_and_recovery_is_noticed_within_3_seconds(fragile: Fragile) -> None:
    async with Database(fragile.url, PoolOptions(acquire_timeout=1.0, outage_grace=0.5)) as db:
        await db.read(PID.one)
        kill(fragile.server.pid)
        await asyncio.sleep(0.1)  # its children notice
        assert await refused(db) < 1.2
        assert not db.stats().up
        await asyncio.sleep(2.5)  # the pool has given every connection up
        assert max(await asyncio.gather(*(refused(db) for _ in range(20)))) < 0.1
        with pytest.raises(DependencyUnavailable):
            await db.ping()
        await fragile.server.start()
        back = time.monotonic()
        while time.monotonic() - back < 3:
            try:
                await db.read(PID.one)
                break
            except DependencyUnavailable:
                await asyncio.sleep(0.02)
        assert time.monotonic() - back < 3
        assert db.stats().up
        await db.ping()
        assert max(await asyncio.gather(*(timed(db.read(PID.one)) for _ in range(20)))) < 0.5


async def test_the_program_starts_without_its_database_and_finds_it_later(fragile: Fragile) -> None:
    await fragile.server.stop()
    async with Database(fragile.url, PoolOptions(min_size=1, max_size=1, acquire_timeout=0.3)) as db:
        with pytest.raises(DependencyUnavailable):
            await db.ping()
        url = await fragile.server.start()
        assert url == fragile.url
        async with asyncio.timeout(20):
            while not db.stats().up:
                await asyncio.sleep(0.02)
            await db.read(PID.one)


async def test_the_probe_sees_an_idle_pool_die(fragile: Fragile) -> None:
    async with Database(fragile.url) as db:
        await db.ping()
        await fragile.server.stop()
        with pytest.raises(DependencyUnavailable):
            await db.ping(0.3)
        await fragile.server.start()
        async with asyncio.timeout(20):
            while True:
                try:
                    await db.ping(0.3)
                    break
                except DependencyUnavailable:
                    await asyncio.sleep(0.05)


async def test_a_wrong_address_is_an_unavailable_database_not_a_bug() -> None:
    async with Database("host=/nonexistent", PoolOptions(acquire_timeout=0.2)) as db:
        assert await refused(db) < 0.4
    with pytest.raises(psycopg.OperationalError):
        await psycopg.AsyncConnection.connect("host=/nonexistent")
