"""The set of what is revoked: which tokens it kills, what it forgets, and when it can be trusted."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg

from service.access import Principal
from service.auth.revocations import Revocation, Revocations, RevokedTokens
from service.clock import system_clock
from service.db import Database
from service.errors import ReaderTooSlow
from service.events.feed import Feed
from service.events.record import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = datetime(2030, 1, 1, tzinfo=UTC)
WINDOW = timedelta(minutes=26)
USER, OTHER = UUID(int=1), UUID(int=2)
SESSION, ANOTHER = UUID(int=11), UUID(int=12)
REVOKE_SESSION = """
    INSERT INTO events (id, type, subject, payload, create_time)
    VALUES (gen_random_uuid(), 'session.revoked', %s, jsonb_build_object('session_id', %s::text, 'reason', 'test'), %s)
"""


def principal(user: UUID = USER, session: UUID = SESSION, version: int = 3) -> Principal:
    return Principal(str(user), session_id=session, token_version=version)


def session_revoked(session: UUID = SESSION, at: datetime = NOW) -> Revocation:
    return Revocation(USER, session, 0, at)


def user_revoked(version: int, at: datetime = NOW) -> Revocation:
    return Revocation(USER, None, version, at)


def test_a_revoked_session_kills_its_tokens_only() -> None:
    revoked = RevokedTokens(WINDOW)
    assert not revoked.kills(principal())
    revoked.add(session_revoked())
    assert revoked.kills(principal())
    assert not revoked.kills(principal(session=ANOTHER))


def test_a_users_revocation_kills_the_tokens_below_its_version() -> None:
    revoked = RevokedTokens(WINDOW)
    revoked.add(user_revoked(3))
    assert revoked.kills(principal(version=2, session=ANOTHER))
    assert not revoked.kills(principal(version=3))
    assert not revoked.kills(principal(user=OTHER, version=2))


def test_the_highest_version_counts_in_whatever_order_they_come() -> None:
    revoked = RevokedTokens(WINDOW)
    for version in (4, 5, 3):
        revoked.add(user_revoked(version))
    assert revoked.kills(principal(version=4))
    assert not revoked.kills(principal(version=5))
    assert len(revoked) == 1


def test_what_no_longer_matters_is_forgotten_and_nothing_else() -> None:
    revoked = RevokedTokens(WINDOW)
    second = timedelta(seconds=1)
    revoked.add(session_revoked())
    revoked.add(user_revoked(9))
    revoked.add(session_revoked(ANOTHER, NOW + second))
    revoked.forget(NOW + WINDOW)
    assert len(revoked) == 3
    revoked.forget(NOW + WINDOW + second / 2)
    assert not revoked.kills(principal())
    assert revoked.kills(principal(session=ANOTHER))
    revoked.forget(NOW + WINDOW + 2 * second)
    assert len(revoked) == 0


def test_a_revocation_repeated_later_is_remembered_longer() -> None:
    revoked = RevokedTokens(WINDOW)
    for later in (timedelta(0), timedelta(minutes=5), timedelta(minutes=1)):
        revoked.add(session_revoked(at=NOW + later))
        revoked.add(user_revoked(9, NOW + later))
    revoked.forget(NOW + WINDOW + timedelta(minutes=4))
    assert len(revoked) == 2


def test_one_that_came_out_of_order_holds_up_no_others_for_longer_than_its_own_time() -> None:
    revoked = RevokedTokens(WINDOW)
    revoked.add(session_revoked(SESSION, NOW + timedelta(minutes=1)))
    revoked.add(session_revoked(ANOTHER, NOW))
    revoked.forget(NOW + WINDOW + timedelta(minutes=2))
    assert len(revoked) == 0


# --- following -------------------------------------------------------------------------------------------------------


class Following:
    """A set that follows a database, with a clock for its freshness that the test moves."""

    def __init__(self, url: str, database: Database) -> None:
        record = Record(database=database)
        self.url = url
        self.ahead = 0.0
        self.lags: list[float] = []
        self.feed = Feed(record=record, checkpoint=0.1, interval=0.02)
        self.set = Revocations(
            record=record,
            feed=self.feed,
            clock=system_clock,
            window=WINDOW,
            staleness=5,
            lag=self.lags.append,
            monotonic=lambda: time.monotonic() + self.ahead,
        )

    async def revoke(self, session: UUID = SESSION, ago: timedelta = timedelta(0)) -> None:
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as conn:
            await conn.execute(REVOKE_SESSION, (USER, session, datetime.now(UTC) - ago))

    async def until_killed(self, session: UUID = SESSION) -> None:
        async with asyncio.timeout(20):
            while not self.set.kills(principal(session=session)):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def following(url: str, *, polling: bool = True) -> AsyncIterator[Following]:
    async with Database(url) as database:
        made = Following(url, database)
        tasks = [asyncio.create_task(made.set.run())]
        if polling:
            tasks.append(asyncio.create_task(made.feed.run()))
        yield made
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_what_was_revoked_before_is_known_as_soon_as_the_set_is_whole(url: str) -> None:
    async with following(url) as before:
        await before.revoke()
        await before.revoke(ANOTHER, ago=WINDOW + timedelta(minutes=1))
    async with following(url) as made:
        assert not made.set.fresh()
        await made.set.complete()
        assert made.set.fresh()
        assert made.set.kills(principal())
        assert not made.set.kills(principal(session=ANOTHER))
        assert made.lags == []


async def test_what_is_revoked_meanwhile_is_known_soon(url: str) -> None:
    async with following(url) as made:
        await made.set.complete()
        await made.revoke()
        await made.until_killed()
        assert len(made.lags) == 1
        assert 0 <= made.lags[0] < 1


async def test_what_commits_while_the_set_is_read_is_not_missed(url: str) -> None:
    """A transaction that began before the set was read, and commits after."""
    async with await psycopg.AsyncConnection.connect(url) as conn:
        await conn.execute(REVOKE_SESSION, (USER, SESSION, datetime.now(UTC)))
        async with following(url) as made:
            await made.set.complete()
            assert not made.set.kills(principal())
            await conn.commit()
            await made.until_killed()


async def test_the_set_goes_stale_without_the_feed_and_recovers_with_it(url: str) -> None:
    async with following(url, polling=False) as made:
        await made.set.complete()
        assert made.set.fresh()
        await asyncio.sleep(0.3)
        made.ahead = 4.9
        assert not made.set.fresh(), "nobody polled since the beginning"
        polling = asyncio.create_task(made.feed.run())
        async with asyncio.timeout(20):
            while not made.set.fresh():
                await asyncio.sleep(0.02)
        polling.cancel()


async def test_a_set_that_lost_its_place_is_read_anew_and_stays_right_meanwhile(url: str) -> None:
    async with following(url) as made:
        await made.set.complete()
        await made.revoke()
        await made.until_killed()
        for reader in list(made.feed._readers):
            reader.end(ReaderTooSlow())
        await asyncio.sleep(0.05)
        assert made.set.kills(principal())
        await made.revoke(ANOTHER)
        await made.until_killed(ANOTHER)
        assert made.set.kills(principal())
