"""The statement that opens a session: what it sees after a wait, and what it does when it is run again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.auth.test_throttle_races import until_one_waits

from service.auth.sessions.model import Device, SessionTerms
from service.auth.sessions.opening import Opening
from service.auth.sessions.statements import OPEN, OpenedRow
from service.auth.statements import INSERT_PASSWORD
from service.errors import DependencyUnavailable

if TYPE_CHECKING:
    from service.db import Connection

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def user(conn: Connection) -> UUID:
    user_id = uuid4()
    await conn.execute("INSERT INTO users (id, email, email_canonical) VALUES (%s, 'a@b', 'a@b')", (user_id,))
    await INSERT_PASSWORD.execute(conn, user_id=user_id, hash="verified")
    return user_id


async def opened(conn: Connection, user_id: UUID, session_id: UUID | None = None) -> OpenedRow | None:
    return await OPEN.optional(
        conn,
        user_id=user_id,
        hash="verified",
        session_id=session_id or uuid4(),
        device_label="",
        user_agent="",
        device_source="",
        now=NOW,
        idle_since=NOW - timedelta(days=1),
        expire_time=NOW + timedelta(days=1),
        refresh_hash=bytes(32),
        event_id=uuid4(),
        type="session.started",
        subject=user_id,
        actor=None,
        request_id="",
        source="",
        payload={},
    )


async def written(conn: Connection) -> tuple[int, int]:
    """Return how many sessions and events there are."""
    cursor = await conn.execute("SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM events)")
    (sessions, events) = await cursor.fetchone() or (0, 0)
    return sessions, events


async def test_it_opens_the_session_once_however_often_it_is_run(conn: Connection) -> None:
    user_id, session_id = await user(conn), uuid4()
    first = await opened(conn, user_id, session_id)
    assert first is not None
    assert await opened(conn, user_id, session_id) == first
    assert await written(conn) == (1, 1)


async def test_it_tells_how_many_others_live(conn: Connection) -> None:
    user_id = await user(conn)
    ended = uuid4()
    for session_id in (uuid4(), uuid4(), ended):
        await opened(conn, user_id, session_id)
    await conn.execute("UPDATE sessions SET revoke_time = now() WHERE id = %s", (ended,))
    last = await opened(conn, user_id)
    assert last is not None
    assert last.others == 2


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE passwords SET hash = 'another'",
        "UPDATE users SET state = 'disabled'",
        "UPDATE users SET delete_time = now()",
        "DELETE FROM users",
    ],
)
async def test_it_sees_what_becomes_of_the_user_while_it_waits(conn: Connection, url: str, change: str) -> None:
    user_id = await user(conn)
    async with await psycopg.AsyncConnection.connect(url) as other, await psycopg.AsyncConnection.connect(url) as eye:
        await other.execute("SELECT FROM users FOR UPDATE")
        await other.execute(change)
        opening = asyncio.ensure_future(opened(conn, user_id))
        await eye.set_autocommit(True)
        await until_one_waits(eye)
        await other.commit()
        assert await opening is None
    assert await written(conn) == (0, 0)


async def test_it_sees_a_hash_that_was_brought_up_to_date_while_it_waits(conn: Connection, url: str) -> None:
    user_id = await user(conn)
    async with await psycopg.AsyncConnection.connect(url) as other, await psycopg.AsyncConnection.connect(url) as eye:
        await other.execute("UPDATE passwords SET hash = 'rehashed'")
        opening = asyncio.ensure_future(opened(conn, user_id))
        await eye.set_autocommit(True)
        await until_one_waits(eye)
        await other.commit()
        assert await opening is None


async def test_a_login_does_not_fail_because_surplus_sessions_could_not_be_ended() -> None:
    class Away:
        """A database that goes away once the session is open."""

        async def apart(self, *_: object, **__: object) -> OpenedRow:
            return OpenedRow([], 1, others=10)

        async def transact(self, *_: object) -> None:
            raise DependencyUnavailable("database")

    stub: Any = Mock()
    stub.first.return_value = Mock(hash=b"")
    stub.entry.return_value = {}
    terms = SessionTerms(timedelta(days=1), timedelta(days=1), timedelta(seconds=1), most=10)
    away: Any = Away()
    opening = Opening(
        database=away,
        journal=stub,
        ending=stub,
        issuer=stub,
        refresh_tokens=stub,
        clock=lambda: NOW,
        new_id=uuid4,
        terms=terms,
    )
    grant = await opening(uuid4(), Device("", "", ""), verified="verified")
    assert grant is not None
    assert grant.access is stub.issue.return_value
