"""The pool: what is retried, what rolls back, how long a caller waits."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest
import pytest_asyncio

from service import call
from service.db import Command, Database, Isolation, PoolOptions, Statement
from service.errors import Conflict, DependencyUnavailable, Overloaded, UserNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.db import Connection

pytestmark = pytest.mark.asyncio


class Pid(NamedTuple):
    pid: int


PID = Statement("pid", "SELECT pg_backend_pid() AS pid", row=Pid)
SLEEP = Command("sleep", "SELECT pg_sleep(60)")
ADD = Command("add", "UPDATE counters SET n = n + 1 WHERE id = %(id)s", params={"id": int})
LOSE = Command("lose", "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$")


@pytest_asyncio.fixture(autouse=True)
async def counters(conn: Connection) -> None:
    await conn.execute("CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL)")
    await conn.execute("INSERT INTO counters VALUES (1, 0), (2, 0)")


async def count(conn: Connection) -> list[int]:
    return [n for (n,) in await (await conn.execute("SELECT n FROM counters ORDER BY id")).fetchall()]


async def terminate(admin: Connection, pid: int) -> None:
    await admin.execute("SELECT pg_terminate_backend(%s, 1000)", (pid,))


async def sleeping(admin: Connection, query: str = "%pg_sleep(60)%") -> bool:
    sql = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE %s"
    return await (await admin.execute(sql, (query,))).fetchone() is not None


async def until_sleeping(admin: Connection, query: str = "%pg_sleep(60)%") -> None:
    async with asyncio.timeout(20):
        while not await sleeping(admin, query):
            await asyncio.sleep(0.01)


async def until_awake(admin: Connection) -> None:
    async with asyncio.timeout(20):
        while await sleeping(admin):
            await asyncio.sleep(0.05)


async def whole(db: Database) -> bool:
    stats = db.stats()
    return stats.available == stats.size >= 1


@pytest_asyncio.fixture
async def one(url: str) -> AsyncIterator[Database]:
    """A pool of one connection."""
    async with Database(url, PoolOptions(min_size=1, max_size=1, acquire_timeout=2, application_name="one")) as db:
        yield db


async def test_a_read_on_a_killed_backend_is_run_again_on_a_fresh_one(db: Database, admin: Connection) -> None:
    for _ in range(4):
        await terminate(admin, (await db.read(PID.one)).pid)
        assert (await db.read(PID.one)).pid


async def test_a_backend_killed_in_the_middle_of_a_read_does_not_fail_it(one: Database, admin: Connection) -> None:
    runs: list[int] = []

    async def work(conn: Connection) -> str:
        runs.append((await PID.one(conn)).pid)
        if len(runs) == 1:
            await SLEEP.execute(conn)
        return "done"

    reading = asyncio.create_task(one.read(work))
    await until_sleeping(admin)
    await terminate(admin, runs[0])
    assert await reading == "done"
    assert len(set(runs)) == 2


async def test_work_that_kills_its_own_backend_is_not_tried_for_ever(one: Database) -> None:
    runs: list[int] = []

    async def work(conn: Connection) -> None:
        runs.append(1)
        await Command("suicide", "SELECT pg_terminate_backend(pg_backend_pid(), 500)").execute(conn)

    with pytest.raises(DependencyUnavailable):
        await one.read(work)
    assert len(runs) == 4


async def test_a_connection_that_dies_before_commit_is_retried_with_one_effect(
    one: Database, admin: Connection, conn: Connection
) -> None:
    runs: list[int] = []

    async def work(conn: Connection) -> None:
        await ADD.execute(conn, id=1)
        runs.append((await PID.one(conn)).pid)
        if len(runs) == 1:
            await terminate(admin, runs[0])
        await ADD.execute(conn, id=2)

    await one.transact(work)
    assert len(runs) == 2
    assert await count(conn) == [1, 1]


async def test_a_connection_that_dies_during_commit_is_not_retried(
    one: Database, admin: Connection, conn: Connection
) -> None:
    await conn.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;"
        " CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON counters DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION slow()",
        prepare=False,
    )
    runs: list[int] = []

    async def work(conn: Connection) -> None:
        runs.append((await PID.one(conn)).pid)
        await ADD.execute(conn, id=1)

    writing = asyncio.create_task(one.transact(work))
    await until_sleeping(admin, "COMMIT")
    await terminate(admin, runs[0])
    with pytest.raises(DependencyUnavailable):
        await writing
    assert len(runs) == 1


@pytest.mark.parametrize(("repeatable", "effects"), [(True, 2), (False, 1)])
async def test_what_is_done_apart_is_run_again_after_an_unknown_outcome_only_where_that_is_allowed(
    one: Database, conn: Connection, *, repeatable: bool, effects: int
) -> None:
    dying = iter([True])

    async def work(conn: Connection) -> None:
        await ADD.execute(conn, id=1)
        if next(dying, False):
            with socket.socket(fileno=os.dup(conn.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)
            await PID.one(conn)

    with nullcontext() if repeatable else pytest.raises(DependencyUnavailable):
        await one.apart(work, repeatable=repeatable)
    assert await count(conn) == [effects, 0]


async def test_what_the_server_refused_is_run_again_in_any_case(
    one: Database, admin: Connection, conn: Connection
) -> None:
    await terminate(admin, (await one.read(PID.one)).pid)
    await one.apart(lambda conn: ADD.execute(conn, id=1), repeatable=False)
    assert await count(conn) == [1, 0]


async def test_a_failure_rolls_back_and_is_not_retried(one: Database, conn: Connection) -> None:
    runs: list[int] = []

    async def work(conn: Connection) -> None:
        runs.append(1)
        await ADD.execute(conn, id=1)
        raise UserNotFound

    with pytest.raises(UserNotFound):
        await one.transact(work)
    assert await count(conn) == [0, 0]
    assert len(runs) == 1
    assert await whole(one)


async def test_a_swallowed_database_error_is_not_taken_for_a_commit(one: Database, conn: Connection) -> None:
    async def work(conn: Connection) -> None:
        await ADD.execute(conn, id=1)
        with pytest.raises(psycopg.errors.DivisionByZero):
            await Command("bad", "SELECT 1 / 0").execute(conn)

    with pytest.raises(RuntimeError, match="swallowed"):
        await one.transact(work)
    assert await count(conn) == [0, 0]


async def test_a_deadlock_is_retried_with_one_effect(db: Database, conn: Connection) -> None:
    runs: list[int] = []
    meet = asyncio.Barrier(2)

    async def work(conn: Connection, first: int, second: int) -> None:
        await ADD.execute(conn, id=first)
        runs.append(first)
        if len(runs) <= 2:
            await meet.wait()
        await ADD.execute(conn, id=second)

    await conn.execute("SELECT 1")
    await asyncio.gather(db.transact(lambda c: work(c, 1, 2)), db.transact(lambda c: work(c, 2, 1)))
    assert len(runs) == 3
    assert await count(conn) == [2, 2]


async def test_a_serialization_failure_is_retried_with_one_effect(db: Database, conn: Connection) -> None:
    runs: list[int] = []
    meet = asyncio.Barrier(2)

    async def work(conn: Connection) -> None:
        (n, _) = await count(conn)
        runs.append(n)
        if len(runs) <= 2:
            await meet.wait()
        await conn.execute("UPDATE counters SET n = %s WHERE id = 1", (n + 1,))

    await asyncio.gather(*(db.transact(work, isolation=Isolation.SERIALIZABLE) for _ in range(2)))
    assert len(runs) == 3
    assert await count(conn) == [2, 0]


async def test_a_race_lost_every_time_is_a_conflict_after_three_retries_with_jitter(url: str) -> None:
    slept: list[float] = []
    runs: list[int] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def work(conn: Connection) -> None:
        runs.append(1)
        await LOSE.execute(conn)

    async with Database(url, PoolOptions(min_size=1, max_size=1), sleep=sleep, random=lambda: 0.5) as db:
        with pytest.raises(Conflict):
            await db.transact(work)
        assert db.stats().available == db.stats().size
    assert len(runs) == 4
    assert slept == pytest.approx([0.01, 0.02, 0.04])


async def test_a_conflict_the_rules_raise_is_not_retried(one: Database) -> None:
    runs: list[int] = []

    async def work(_conn: Connection) -> None:
        runs.append(1)
        raise Conflict

    with pytest.raises(Conflict):
        await one.transact(work)
    assert len(runs) == 1


@pytest.mark.parametrize("method", ["read", "transact"])
async def test_cancellation_ends_the_statement_and_returns_the_connection(
    one: Database, admin: Connection, conn: Connection, method: str
) -> None:
    async def work(conn: Connection) -> None:
        if method == "transact":
            await ADD.execute(conn, id=1)
        await SLEEP.execute(conn)

    task = asyncio.create_task(getattr(one, method)(work))
    await until_sleeping(admin)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not await sleeping(admin)
    assert await whole(one)
    assert await count(conn) == [0, 0]
    assert (await one.read(PID.one)).pid
    assert one.stats().connections == 1


async def test_a_statement_whose_client_is_gone_ends_soon(one: Database, admin: Connection) -> None:
    sockets: list[int] = []

    async def work(conn: Connection) -> None:
        sockets.append(os.dup(conn.fileno()))
        if len(sockets) == 1:
            await SLEEP.execute(conn)

    task = asyncio.create_task(one.transact(work))
    await until_sleeping(admin)
    with socket.socket(fileno=sockets[0]) as gone:
        gone.shutdown(socket.SHUT_RDWR)
    await task
    os.close(sockets[1])
    await until_awake(admin)


async def test_a_caller_beyond_max_waiting_is_refused_as_overload(url: str) -> None:
    options = PoolOptions(min_size=1, max_size=1, max_waiting=1)
    release = asyncio.Event()

    async def hold(_conn: Connection) -> None:
        await release.wait()

    async with Database(url, options) as db:
        await db.read(PID.one)
        holders = [asyncio.create_task(db.read(hold)) for _ in range(2)]
        async with asyncio.timeout(20):
            while db.stats().waiting != 1:
                await asyncio.sleep(0.01)
        with pytest.raises(Overloaded) as caught:
            await db.read(PID.one)
        release.set()
        await asyncio.gather(*holders)
    assert caught.value.metadata == {"resource": "database_connections"}


async def test_the_wait_for_a_connection_ends_within_the_callers_deadline(one: Database) -> None:
    release = asyncio.Event()

    async def hold(_conn: Connection) -> None:
        await release.wait()

    async def within() -> float:
        call.enter(call.Call("r", "m", deadline=time.monotonic() + 0.5))
        start = time.monotonic()
        with pytest.raises(DependencyUnavailable) as caught:
            await one.read(PID.one)
        assert caught.value.retry_after > 0
        return time.monotonic() - start

    holder = asyncio.create_task(one.read(hold))
    await asyncio.sleep(0.1)
    assert 0.35 < await asyncio.create_task(within()) < 0.47
    await one.ping(0.05)  # busy is not away
    release.set()
    await holder


async def test_the_pool_tells_its_state_in_numbers(one: Database) -> None:
    await one.read(PID.one)
    stats = one.stats()
    assert (stats.size, stats.available, stats.waiting, stats.min_size, stats.max_size, stats.up) == (
        1,
        1,
        0,
        1,
        1,
        True,
    )
    assert stats.requests == 1
    assert stats.connections == 1


async def test_connections_carry_the_settings(url: str) -> None:
    async with Database(url, PoolOptions(application_name="gate", statement_timeout=7)) as db:

        async def settings(conn: Connection) -> object:
            sql = "SELECT current_setting('application_name'), current_setting('statement_timeout')"
            assert conn.autocommit
            return await (await conn.execute(sql)).fetchone()

        assert await db.read(settings) == ("gate", "7s")


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancellation_that_comes_together_with_a_connection_is_not_lost(one: Database, turns: int) -> None:
    """`asyncio.wait_for` of Python 3.11, in which the pool waits, loses it at one of these turns of the loop."""
    given, done = asyncio.Event(), asyncio.Event()

    async def hold(_: Connection) -> None:
        given.set()
        await done.wait()

    async def forever(_: Connection) -> None:
        await asyncio.sleep(60)

    holding = asyncio.create_task(one.read(hold))
    await given.wait()
    waiting = asyncio.create_task(one.read(forever))
    async with asyncio.timeout(20):
        while not one.stats().waiting:
            await asyncio.sleep(0.001)
    done.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=1)
    assert waiting.cancelled()
    await holding
    async with asyncio.timeout(20):
        while not await whole(one):
            await asyncio.sleep(0.001)
