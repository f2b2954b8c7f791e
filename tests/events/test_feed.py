"""The feed by itself: where the table ends and the live events begin."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

from service.db import Database
from service.events.feed import Feed
from service.events.model import Filter
from service.events.record import Record

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from service.events.reader import Batch


@pytest.fixture
async def feed(url: str) -> AsyncIterator[Feed]:
    async with Database(url) as database:
        made = Feed(record=Record(database=database), checkpoint=0.1, interval=0.02)
        polling = asyncio.create_task(made.run())
        yield made
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling


async def types_until(batches: AsyncGenerator[Batch, None], last: str) -> list[str]:
    types: list[str] = []
    async with asyncio.timeout(20):
        while last not in types:
            types += [event.type for event in (await anext(batches)).events]
    return types


async def test_what_comes_between_the_table_and_the_feed_is_not_missed(feed: Feed, url: str) -> None:
    async with (
        aclosing(feed.watch(0, Filter())) as live,
        aclosing(feed.watch(0, Filter())) as joining,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as conn,
    ):
        for _ in range(3):
            await anext(live)
        # It has read the table to its end, and is not yet part of the feed.
        assert (await anext(joining)).events == []
        await conn.execute("INSERT INTO events (id, type) VALUES (gen_random_uuid(), 'test.between')")
        assert await types_until(live, "test.between") == ["test.between"]
        await conn.execute("INSERT INTO events (id, type) VALUES (gen_random_uuid(), 'test.after')")
        assert await types_until(joining, "test.after") == ["test.between", "test.after"]


async def test_a_reader_alone_starts_the_feed_from_where_it_stands(feed: Feed, url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        for round_ in range(3):
            async with aclosing(feed.watch(round_, Filter())) as batches:
                for _ in range(3):
                    await anext(batches)
                await conn.execute("INSERT INTO events (id, type) VALUES (gen_random_uuid(), %s)", (f"test.{round_}",))
                assert await types_until(batches, f"test.{round_}") == [f"test.{round_}"]


async def test_polling_rests_while_nobody_reads(feed: Feed) -> None:
    async with aclosing(feed.watch(0, Filter())) as batches:
        await anext(batches)
        assert feed._wanted.is_set()
    assert not feed._readers
    assert not feed._live
    assert not feed._wanted.is_set()


async def test_a_batch_says_up_to_when_everything_has_been_told(feed: Feed, url: str) -> None:
    async with (
        aclosing(feed.watch(0, Filter())) as batches,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as conn,
    ):
        await anext(batches)
        before = time.monotonic()
        async with asyncio.timeout(20):
            while ((await anext(batches)).as_of or 0) < before:
                pass
        await conn.execute(
            "INSERT INTO events (id, type) SELECT gen_random_uuid(), 'test.many' FROM generate_series(1, 700)"
        )
        committed, told = time.monotonic(), 0
        async with asyncio.timeout(20):
            while told < 700:
                batch = await anext(batches)
                told += len(batch.events)
                assert told == 700 or batch.as_of is None or batch.as_of < committed
            while ((await anext(batches)).as_of or 0) < committed:
                pass
