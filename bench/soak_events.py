"""Do watchers see every event once and in the order of commits, while they are killed and resume?

Usage: ``make soak-events``, or ``python bench/soak_events.py [writers watchers seconds]``. Runs the real service on an
embedded PostgreSQL of its own that waits for the disk. Writers hold row locks against each other, take their
transaction ids early and commit late, so that neither ids nor transaction ids are in the order of commits.

The order is compared with two witnesses that do not depend on the service: the version that each update of a row gave
it, and (here, not in the test) the commit timestamps that PostgreSQL keeps.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import psycopg
from gatelodge.auth.v1 import auth_pb2, auth_pb2_grpc
from gatelodge.events.v1 import events_pb2, events_pb2_grpc
from uuid_utils.compat import uuid7

from service.app import running
from service.db import Connection, Database, PoolOptions
from service.db.embedded import EmbeddedPostgres
from service.events.journal import Journal
from service.events.model import UserEnabled, UserUpdated
from service.settings import Settings, load
from service.telemetry import logging

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

PASSWORD = "correct horse battery staple"
RESULTS = Path(__file__).parent / "results" / "soak_events.json"
SUBJECTS = 64
Metadata = tuple[tuple[str, str], ...]


@dataclass
class Seen:
    """What one watcher has, as if it saved events and cursor together."""

    events: list[events_pb2.Event] = field(default_factory=list)
    cursor: str = ""
    resumes: int = 0
    lags: list[float] = field(default_factory=list)


async def soak(settings: Settings, url: str, *, writers: int, watchers: int, seconds: float) -> dict[str, Any]:
    """Write and watch; return what came of it."""
    async with running(settings) as app, grpc.aio.insecure_channel(app.address) as channel:
        metadata, subjects = await prepare(channel, url)
        start = await cursor_now(channel, metadata)
        seen = [Seen(cursor=start) for _ in range(watchers)]
        done = asyncio.Event()
        tasks = [asyncio.create_task(watch(channel, metadata, one, done)) for one in seen]
        written = await write(url, subjects, writers, seconds)
        async with asyncio.timeout(20):
            while any(len({event.id for event in one.events}) < written for one in seen):
                await asyncio.sleep(0.05)
        done.set()
        await asyncio.gather(*tasks)
    return report(written, seen, seconds) | await against_timestamps(url, seen)


async def prepare(channel: grpc.aio.Channel, url: str) -> tuple[Metadata, list[UUID]]:
    stub: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(channel)
    await stub.Register(auth_pb2.RegisterRequest(email="root@example.com", password=PASSWORD))
    subjects = [uuid7() for _ in range(SUBJECTS)]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute("UPDATE users SET roles = '{admin}'")
        for subject in subjects:
            await conn.execute(
                "INSERT INTO users (id, email, email_canonical) VALUES (%s, %s, %s)",
                (subject, f"{subject}@example.com", f"{subject}@example.com"),
            )
    answer = await stub.Login(auth_pb2.LoginRequest(email="root@example.com", password=PASSWORD))
    return (("authorization", f"Bearer {answer.access_token}"),), subjects


async def cursor_now(channel: grpc.aio.Channel, metadata: Metadata) -> str:
    stub: events_pb2_grpc.EventServiceAsyncStub = events_pb2_grpc.EventServiceStub(channel)
    call = stub.WatchEvents(events_pb2.WatchEventsRequest(latest=True), metadata=metadata)
    async for message in call:
        call.cancel()
        return message.cursor
    raise AssertionError


async def write(url: str, subjects: Sequence[UUID], writers: int, seconds: float) -> int:
    """Have writers write for so long; return how many events they committed."""
    journal, stop = Journal(new_id=uuid7), time.monotonic() + seconds
    async with Database(url, PoolOptions(max_size=writers)) as database:

        async def work(conn: Connection) -> None:
            await journal.record(conn, UserEnabled(random.choice(subjects)))
            await asyncio.sleep(random.random() * 0.005)
            subject = random.choice(subjects)
            cursor = await conn.execute(
                "UPDATE users SET version = version + 1 WHERE id = %s RETURNING version", (subject,)
            )
            row = await cursor.fetchone()
            assert row is not None
            await journal.record(conn, UserUpdated(subject, fields=(str(row[0]),)))
            if random.random() < 0.05:
                await asyncio.sleep(0.1)

        async def writer() -> int:
            count = 0
            while time.monotonic() < stop:
                await database.transact(work)
                count += 2
            return count

        return sum(await asyncio.gather(*(writer() for _ in range(writers))))


async def watch(channel: grpc.aio.Channel, metadata: Metadata, seen: Seen, done: asyncio.Event) -> None:
    """Watch, be killed after a random time, resume from the last cursor; until `done`."""
    stub: events_pb2_grpc.EventServiceAsyncStub = events_pb2_grpc.EventServiceStub(channel)
    while not done.is_set():
        call = stub.WatchEvents(events_pb2.WatchEventsRequest(cursor=seen.cursor), metadata=metadata)
        reading = asyncio.create_task(take(call, seen))
        await asyncio.wait([reading], timeout=0.05 + random.random())
        assert not reading.done(), reading.exception()
        call.cancel()
        await asyncio.wait([reading])
        seen.resumes += 1


async def take(call: Any, seen: Seen) -> None:
    async for message in call:
        now = time.time()
        seen.lags += [now - event.create_time.ToNanoseconds() / 1e9 for event in message.events]
        seen.events += message.events
        seen.cursor = message.cursor


def report(written: int, seen: list[Seen], seconds: float) -> dict[str, Any]:
    orders = [[event.id for event in one.events] for one in seen]
    ids = [set(order) for order in orders]
    lags = sorted(lag for one in seen for lag in one.lags)
    return {
        "events_written": written,
        "events_per_second": round(written / seconds),
        "watchers": len(seen),
        "resumes": sum(one.resumes for one in seen),
        "lost": sum(written - len(of) for of in ids),
        "repeated": sum(len(one.events) - len(of) for one, of in zip(seen, ids, strict=True)),
        "reordered_against_row_versions": sum(map(versions_out_of_order, seen)),
        "watchers_that_differ": sum(order != orders[0] for order in orders),
        "from_written_to_seen_ms": {"p50": quantile(lags, 0.5), "p99": quantile(lags, 0.99)},
    }


def versions_out_of_order(seen: Seen) -> int:
    last: dict[str, int] = {}
    wrong = 0
    for event in seen.events:
        if event.type == "user.updated":
            version = int(event.user_updated.fields[0])
            wrong += version <= last.get(event.user_id, 0)
            last[event.user_id] = version
    return wrong


def quantile(values: list[float], share: float) -> float:
    return round(values[int(len(values) * share)] * 1000, 1)


async def against_timestamps(url: str, seen: list[Seen]) -> dict[str, int]:
    """Count neighbours that were committed the other way round: as told, and if the order were that of xids.

    Nothing where PostgreSQL does not keep the times of commits.
    """
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        cursor = await conn.execute("SELECT current_setting('track_commit_timestamp')")
        if await cursor.fetchone() != ("on",):
            return {}
        cursor = await conn.execute(
            "SELECT id::text, pg_xact_commit_timestamp(xmin), xmin::text::bigint FROM events ORDER BY 3"
        )
        rows: list[tuple[str, datetime, int]] = await cursor.fetchall()
    committed = {event_id: moment for event_id, moment, _ in rows}
    told = [[committed[event.id] for event in one.events] for one in seen]
    return {
        "reordered_against_commit_timestamps": sum(map(falls, told)),
        "would_be_reordered_by_transaction_id": falls([moment for _, moment, _ in rows]),
    }


def falls(moments: list[datetime]) -> int:
    return sum(earlier > later for earlier, later in pairwise(moments))


async def main(writers: int, watchers: int, seconds: float) -> int:
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        url = await postgres.start()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
            await conn.execute("ALTER SYSTEM SET track_commit_timestamp = on")
        await postgres.stop()
        url = await postgres.start()
        settings = load({"APP_ENV": "test", "APP_DATABASE__URL": url, "APP_DATABASE__EMBEDDED_DIR": f"{folder}/unused"})
        logs = logging.configure(settings.log, service="gatelodge", version="bench", stream=Path(os.devnull).open("w"))
        try:
            result = await soak(settings, url, writers=writers, watchers=watchers, seconds=seconds)
        finally:
            logs.close()
            await postgres.stop()
    result = {"writers": writers, "seconds": seconds} | result
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    wrong = ("lost", "reordered_against_row_versions", "reordered_against_commit_timestamps", "watchers_that_differ")
    return int(any(result[key] for key in wrong))


if __name__ == "__main__":
    arguments = [int(text) for text in sys.argv[1:]] or [32, 4, 20]
    sys.exit(asyncio.run(main(*arguments)))
