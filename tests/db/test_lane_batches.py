"""Reads that go out together: what becomes of one of them is nothing to the others."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest
from tests.db.lanes import FIND, Numbered, fast, laned, things

from service.db import Database, Statement
from service.db.lane import FastLane
from service.db.pipeline import NotTaken, Pipeline

if TYPE_CHECKING:
    from service.db import Connection

__all__ = ["fast", "things"]

pytestmark = pytest.mark.asyncio


class Timed(NamedTuple):
    id: int
    began: datetime


UPPER = Statement(
    "lane.upper",
    "SELECT id, upper(text) AS text, pg_backend_pid() AS backend FROM things WHERE id = %(id)s",
    row=Numbered,
    params={"id": int},
)
DIVIDE = Statement(
    "lane.divide",
    "SELECT id, text, pg_backend_pid() AS backend FROM things WHERE id = %(id)s AND 10 / %(id)s >= 0",
    row=Numbered,
    params={"id": int},
)
BEGAN = Statement(
    "lane.began",
    "SELECT id, transaction_timestamp() AS began FROM things WHERE id = %(id)s",
    row=Timed,
    params={"id": int},
)
LENGTH = Statement(
    "lane.length",
    "SELECT length(%(text)s::text) AS id, left(%(text)s::text, 3) AS text, pg_backend_pid() AS backend",
    row=Numbered,
    params={"text": str},
)
ECHO = Statement(
    "lane.echo",
    "SELECT %(id)s::int AS id, %(text)s::text AS text, pg_backend_pid() AS backend",
    row=Numbered,
    params={"id": int, "text": str},
)


async def test_reads_of_one_turn_of_the_loop_go_out_together(fast: Database) -> None:
    await laned(fast)
    rows = await asyncio.gather(*(fast.one(BEGAN, id=number) for number in range(1, 40)))
    assert [row.id for row in rows] == list(range(1, 40))
    assert len({row.began for row in rows}) == 1


async def test_two_statements_in_one_batch_are_told_apart_and_new_ones_prepared_between(fast: Database) -> None:
    backend = await laned(fast)
    for _ in range(3):
        wanted = [(UPPER if number % 3 == 2 else FIND, number) for number in range(1, 60)]
        rows = await asyncio.gather(*(fast.one(statement, id=number) for statement, number in wanted))
        for (statement, number), row in zip(wanted, rows, strict=True):
            assert row == (number, f"{'THING' if statement is UPPER else 'thing'} {number}", backend)


async def test_everyone_gets_their_own_answer_while_others_leave_at_every_stage_or_fail(fast: Database) -> None:
    dice = random.Random(11)
    backend = await laned(fast)
    answered = left = failed = laned_too = 0

    async def reads() -> None:
        nonlocal answered, left, failed, laned_too
        for _ in range(80):
            failing = dice.random() < 0.01
            statement, number = (DIVIDE, 0) if failing else (dice.choice((FIND, UPPER, DIVIDE)), dice.randint(1, 500))
            read = asyncio.create_task(fast.one(statement, id=number))
            if dice.random() < 0.3:
                for _turn in range(dice.randint(0, 8)):
                    await asyncio.sleep(0)
                read.cancel()
            try:
                row = await read
            except asyncio.CancelledError:
                left += 1
            except psycopg.errors.DivisionByZero:
                assert failing
                failed += 1
            else:
                assert row[:2] == (number, f"{'THING' if statement is UPPER else 'thing'} {number}")
                answered += 1
                laned_too += row.backend == backend

    await asyncio.gather(*(reads() for _ in range(100)))
    assert answered + left + failed == 8000
    assert left > 1000
    assert failed > 0
    assert laned_too > 4000


async def test_values_of_several_types_take_the_lane(fast: Database, conn: Connection) -> None:
    await conn.execute("INSERT INTO things VALUES (70000, 'far')")
    backend = await laned(fast)
    for number in (2, 70000, 3, 70000):
        assert (await fast.one(FIND, id=number))[::2] == (number, backend)


async def test_one_that_fails_is_nothing_to_the_others_of_its_batch(fast: Database) -> None:
    backend = await laned(fast)
    for _ in range(20):
        answers = await asyncio.gather(
            *(fast.one(DIVIDE, id=0 if number == 20 else number) for number in range(1, 40)), return_exceptions=True
        )
        assert isinstance(answers.pop(19), psycopg.errors.DivisionByZero)
        rows = [row for row in answers if isinstance(row, Numbered)]
        assert [row[:2] for row in rows] == [(number, f"thing {number}") for number in range(1, 40) if number != 20]
        assert {row.backend for row in rows[:19]} == {backend}
        assert backend not in {row.backend for row in rows[19:]}
    assert await laned(fast) == backend


async def test_values_that_cannot_be_sent_are_nothing_to_the_others_of_their_batch(fast: Database) -> None:
    backend = await laned(fast)
    wanted = ["a", "b\0", "c", "\ud800", "e"]
    answers = await asyncio.gather(*(fast.one(LENGTH, text=text) for text in wanted), return_exceptions=True)
    assert [isinstance(answer, Numbered) for answer in answers] == [True, False, True, False, True]
    assert answers[::2] == [(1, text, backend) for text in wanted[::2]]
    assert await laned(fast) == backend


async def test_a_plan_that_no_longer_fits_costs_nobody_of_its_batch_an_answer(fast: Database, conn: Connection) -> None:
    backend = await laned(fast)
    await conn.execute("ALTER TABLE things ALTER COLUMN text TYPE varchar(99)")
    rows = await asyncio.gather(*(fast.one(FIND, id=number) for number in range(1, 40)))
    assert [row[:2] for row in rows] == [(number, f"thing {number}") for number in range(1, 40)]
    assert await laned(fast) != backend


async def test_a_backend_killed_in_the_middle_of_a_batch_costs_nobody_an_answer(
    fast: Database, conn: Connection, admin: Connection
) -> None:
    backend = await laned(fast)
    async with conn.transaction():
        await conn.execute("LOCK TABLE things")
        echoes = [fast.one(ECHO, id=number, text=f"before {number}") for number in range(5)]
        reads = [asyncio.ensure_future(read) for read in (*echoes, *(fast.one(FIND, id=n) for n in range(1, 40)))]
        await asyncio.sleep(0.1)
        late = [asyncio.create_task(fast.one(FIND, id=number)) for number in range(41, 80)]
        await asyncio.sleep(0)
        await admin.execute("SELECT pg_terminate_backend(%s, 1000)", (backend,))
    assert [row.id for row in await asyncio.gather(*reads, *late)] == [*range(5), *range(1, 40), *range(41, 80)]
    assert await laned(fast) != backend


async def test_more_than_a_batch_and_its_waiting_go_to_the_pool(fast: Database) -> None:
    backend = await laned(fast)
    rows = await asyncio.gather(*(fast.one(FIND, id=number) for number in range(1, 301)))
    assert [row.id for row in rows] == list(range(1, 301))
    assert [row.backend == backend for row in rows] == [True] * 128 + [False] * 172


async def test_batches_greater_than_every_buffer_come_through(fast: Database) -> None:
    backend = await laned(fast)
    texts = [f"{number:03}" + "x" * 200_000 for number in range(64)]
    lengths = await asyncio.gather(*(fast.one(LENGTH, text=text) for text in texts))
    assert lengths == [(200_003, text[:3], backend) for text in texts]
    echoes = await asyncio.gather(*(fast.one(ECHO, id=number, text=text) for number, text in enumerate(texts)))
    assert echoes == [(number, text, backend) for number, text in enumerate(texts)]


async def test_a_batch_somebody_still_waits_for_is_not_cancelled_with_those_who_left(
    fast: Database, conn: Connection
) -> None:
    backend = await laned(fast)
    async with conn.transaction():
        await conn.execute("LOCK TABLE things")
        left, stays, gone = (asyncio.create_task(fast.one(FIND, id=number)) for number in (1, 2, 3))
        await asyncio.sleep(0.1)
        left.cancel()
        gone.cancel()
        await asyncio.sleep(0.3)
    assert await stays == (2, "thing 2", backend)
    assert left.cancelled()
    assert gone.cancelled()


async def test_a_connection_that_ends_or_is_broken_is_noticed_at_once(url: str, admin: Connection) -> None:
    gone: asyncio.Queue[Pipeline] = asyncio.Queue()
    for broken in (False, True):
        conn = await psycopg.AsyncConnection.connect(url, autocommit=True)
        pipeline = Pipeline(conn, lambda: None, gone.put_nowait)
        if broken:
            conn.pgconn.finish()
            waiters = [asyncio.get_running_loop().create_future() for _ in range(3)]
            pipeline.send([(FIND, {"id": number}, waiter) for number, waiter in enumerate(waiters)])
            assert [type(waiter.exception()) for waiter in waiters] == [NotTaken] * 3
        else:
            await admin.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
        async with asyncio.timeout(20):
            assert await gone.get() is pipeline
        assert not pipeline.free


async def begun(lane: FastLane) -> asyncio.Task[Numbered | None]:
    read = asyncio.create_task(lane.optional(FIND, {"id": 1}))
    await asyncio.sleep(0.05)
    return read


async def test_a_connection_past_its_lifetime_finishes_what_it_does(url: str, conn: Connection) -> None:
    lane = FastLane(lambda: psycopg.AsyncConnection.connect(url, autocommit=True), size=1, max_lifetime=0.2)
    lane.open()
    async with conn.transaction():
        await conn.execute("LOCK TABLE things")
        while (read := await begun(lane)).done():
            assert isinstance(read.exception(), NotTaken)
        await asyncio.sleep(0.6)
    row = await read
    assert row is not None
    assert row.id == 1
    await lane.aclose()


async def test_a_connection_past_its_lifetime_is_replaced_while_reads_go_on(url: str) -> None:
    lane = FastLane(lambda: psycopg.AsyncConnection.connect(url, autocommit=True), size=1, max_lifetime=0.2)
    lane.open()
    backends: set[int] = set()

    async def read(number: int) -> None:
        while len(backends) < 3:
            try:
                row = await lane.optional(FIND, {"id": number})
            except NotTaken:
                await asyncio.sleep(0.01)
            else:
                assert row is not None
                assert row[:2] == (number, f"thing {number}")
                backends.add(row.backend)

    async with asyncio.timeout(10):
        await asyncio.gather(*(read(number) for number in range(1, 20)))
    await lane.aclose()
    with pytest.raises(NotTaken):
        await lane.optional(FIND, {"id": 1})
