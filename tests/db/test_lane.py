"""The fast lane: the right answer for everyone who waits, whatever becomes of the others; in doubt the pool."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from tests.db.lanes import FIND, Numbered, fast, laned, things

from service import call
from service.db import Database, PoolOptions, Statement
from service.errors import UserNotFound

if TYPE_CHECKING:
    from service.db import Connection

__all__ = ["fast", "things"]

pytestmark = pytest.mark.asyncio

ALL = Statement("lane.all", "SELECT id, text, pg_backend_pid() AS backend FROM things", row=Numbered)


async def test_a_row_that_is_not_there_is_none(fast: Database, url: str) -> None:
    assert await fast.optional(FIND, id=-1) is None
    assert (await fast.optional(FIND, id=1)) == await fast.one(FIND, id=1)
    async with Database(url, PoolOptions(min_size=1, fast_connections=0)) as pooled:
        assert await pooled.optional(FIND, id=-1) is None


async def test_it_answers_as_the_pool_does(fast: Database) -> None:
    for number in (0, 1, 500):
        laned_row = await fast.one(FIND, id=number)
        pooled = await fast.read(lambda conn, wanted=number: FIND.one(conn, id=wanted))  # type: ignore[misc]  # a lambda
        assert (laned_row.id, laned_row.text) == (pooled.id, pooled.text)
        assert laned_row.backend != pooled.backend
        assert type(laned_row) is Numbered
    with pytest.raises(UserNotFound):
        await fast.one(FIND, id=501)


async def test_it_takes_exactly_the_declared_parameters(fast: Database) -> None:
    with pytest.raises(TypeError, match="takes exactly"):
        await fast.one(FIND, id=1, other=2)


async def test_everyone_gets_their_own_answer_while_others_are_cancelled_at_random(fast: Database) -> None:
    dice = random.Random(7)
    wrong: list[tuple[int, int]] = []
    answered = 0

    async def read(number: int) -> None:
        nonlocal answered
        row = await fast.one(FIND, id=number)
        answered += 1
        if (row.id, row.text) != (number, f"thing {number}"):
            wrong.append((number, row.id))

    for _ in range(60):
        tasks = [asyncio.create_task(read(dice.randint(1, 500))) for _ in range(50)]
        for task in dice.sample(tasks, 20):
            asyncio.get_running_loop().call_later(dice.random() * 0.005, task.cancel)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    assert wrong == []
    assert answered >= 60 * 30
    assert await laned(fast)


async def test_a_killed_backend_costs_nobody_an_answer(fast: Database, admin: Connection) -> None:
    for _ in range(3):
        backend = await laned(fast)
        reads = [asyncio.create_task(fast.one(FIND, id=number)) for number in range(1, 40)]
        await asyncio.sleep(0)
        await admin.execute("SELECT pg_terminate_backend(%s, 1000)", (backend,))
        assert [row.id for row in await asyncio.gather(*reads)] == list(range(1, 40))
        assert await laned(fast) != backend


async def test_a_frozen_connection_is_given_up_and_the_pool_answers(fast: Database, conn: Connection) -> None:
    backend = await laned(fast)
    async with conn.transaction():
        await conn.execute("LOCK TABLE things")
        stuck = asyncio.create_task(fast.one(FIND, id=1))
        await asyncio.sleep(1.8)
        assert not stuck.done()
    assert (await stuck).backend != backend
    assert await laned(fast) != backend


async def test_a_read_that_nobody_waits_for_any_more_is_cancelled_in_the_database(
    fast: Database, conn: Connection, admin: Connection
) -> None:
    backend = await laned(fast)
    async with conn.transaction():
        await conn.execute("LOCK TABLE things")
        stuck = asyncio.create_task(fast.one(FIND, id=1))
        await asyncio.sleep(0.1)
        stuck.cancel()
        active = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
        async with asyncio.timeout(20):
            while await (await admin.execute(active, (backend,))).fetchone() is not None:
                await asyncio.sleep(0.02)
    assert (await fast.one(FIND, id=2)).id == 2


async def test_plans_that_no_longer_fit_are_made_anew(fast: Database, conn: Connection) -> None:
    await laned(fast)
    await conn.execute("ALTER TABLE things ALTER COLUMN text TYPE varchar(99)")
    await conn.execute("ALTER TABLE things ALTER COLUMN id TYPE bigint")
    assert (await fast.one(FIND, id=3)).text == "thing 3"
    assert await laned(fast)


async def test_several_rows_are_a_fault_as_in_the_pool(fast: Database) -> None:
    await laned(fast)
    with pytest.raises(RuntimeError, match="where one at most was meant"):
        await fast.one(ALL)


async def test_behind_pgbouncer_there_is_no_lane(url: str) -> None:
    async with Database(url, PoolOptions(min_size=1, max_size=1, prepare_threshold=None)) as db:
        await asyncio.sleep(0.5)
        pooled = (await db.read(lambda conn: FIND.one(conn, id=1))).backend
        assert (await db.one(FIND, id=1)).backend == pooled


async def test_it_is_refused_after_the_change_of_a_mutation_like_any_read(fast: Database) -> None:
    call.enter(call.Call("r", "m", mutation=call.Mutation(key=None, begun=True)))
    with pytest.raises(RuntimeError, match="last thing"):
        await fast.one(FIND, id=1)
