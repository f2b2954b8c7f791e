"""WatchRevocations: for services that verify tokens offline and still see a revocation within a second (E10)."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import jwt
import pytest
from gatelodge.auth.v1 import auth_pb2, revocations_pb2, tokens_pb2
from gatelodge.events.v1 import events_pb2
from gatelodge.users.v1 import users_pb2
from tests.app.client import A_SECOND, Client, Login
from tests.app.test_revocation import ended, until

from service.app import running
from service.events.feed import Feed
from service.events.reader import Reader
from service.wiring import ground

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.app.conftest import SettingsFor

    from service.errors import DomainError

WINDOW = timedelta(seconds=900 + 660)
MANY = """
    INSERT INTO events (id, type, subject, payload)
    SELECT gen_random_uuid(), 'session.revoked', gen_random_uuid(),
        jsonb_build_object('session_id', gen_random_uuid(), 'reason', 'x')
    FROM generate_series(1, %s)
"""

REVOKED_THEN = """
    INSERT INTO events (id, type, subject, payload, create_time)
    VALUES (gen_random_uuid(), 'session.revoked', gen_random_uuid(),
        jsonb_build_object('session_id', %s::text, 'reason', 'x'), now() - %s)
"""


@pytest.fixture
async def root(client: Client) -> Login:
    return await client.administrator()


def watching(client: Client, who: Login, cursor: str = "") -> Any:
    request = revocations_pb2.WatchRevocationsRequest(cursor=cursor)
    return client.revocations.WatchRevocations(request, metadata=who.metadata)


@dataclass
class Watcher:
    """What a service does with the stream: a set, and a cursor to go on from."""

    sessions: set[str] = field(default_factory=set)
    users: dict[str, int] = field(default_factory=dict)
    cursor: str = ""
    complete: bool = False
    messages: int = 0
    forget: list[tuple[datetime, datetime]] = field(default_factory=list)

    def take(self, message: Any) -> None:
        assert len(message.revocations) <= 1000
        self.messages += 1
        for one in message.revocations:
            self.forget.append((one.revoke_time.ToDatetime(UTC), one.forget_time.ToDatetime(UTC)))
            if one.WhichOneof("tokens") == "session_id":
                self.sessions.add(one.session_id)
            else:
                self.users[one.user.user_id] = max(one.user.min_version, self.users.get(one.user.user_id, 0))
        self.cursor, self.complete = message.cursor, message.snapshot_complete

    async def snapshot(self, call: Any) -> None:
        async with asyncio.timeout(10):
            while not self.complete:
                self.take(await call.read())

    async def follow(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            self.take(message)

    def accepts(self, token: str) -> bool:
        """Judge a token by the set alone, as a service does after it has verified the signature."""
        said = jwt.decode(token, options={"verify_signature": False})
        return said["sid"] not in self.sessions and said["ver"] >= self.users.get(said["sub"], 0)


@asynccontextmanager
async def following(client: Client, who: Login, cursor: str = "") -> AsyncIterator[Watcher]:
    call, watcher = watching(client, who, cursor), Watcher()
    task = asyncio.ensure_future(watcher.follow(call))
    try:
        yield watcher
    finally:
        call.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_offline_verifier_learns_of_every_revocation_within_a_second(client: Client, root: Login) -> None:
    before = await client.user("before@example.com")
    await client.auth.Logout(auth_pb2.LogoutRequest(), metadata=before.metadata)
    async with following(client, root) as watcher:
        await until(lambda: _true(watcher.complete))
        assert not watcher.accepts(before.token)
        assert watcher.accepts(root.token)
        ada, bob, eve = [await client.user(f"{name}@example.com") for name in ("ada", "bob", "eve")]
        await client.auth.Logout(auth_pb2.LogoutRequest(), metadata=ada.metadata)
        assert await until(lambda: _true(not watcher.accepts(ada.token))) < 1
        await client.users.DisableUser(users_pb2.DisableUserRequest(user_id=bob.user_id), metadata=root.metadata)
        assert await until(lambda: _true(not watcher.accepts(bob.token))) < 1
        await client.tokens.RevokeToken(tokens_pb2.RevokeTokenRequest(token=eve.refresh_token), metadata=root.metadata)
        assert await until(lambda: _true(not watcher.accepts(eve.token))) < 1
        assert watcher.accepts((await client.login("ada@example.com")).token)
    for revoked, forget in watcher.forget:
        assert abs(datetime.now(UTC) - revoked) < timedelta(minutes=1)
        assert forget - revoked == WINDOW


async def _true(value: bool) -> bool:  # noqa: FBT001 - what is waited for
    return value


async def test_nothing_revoked_is_a_complete_snapshot_at_once(client: Client, root: Login) -> None:
    watcher = Watcher()
    call = watching(client, root)
    watcher.take(await call.read())
    assert (watcher.complete, watcher.forget) == (True, [])
    assert watcher.cursor
    call.cancel()


@pytest.mark.parametrize(("count", "messages"), [(1000, 1), (1001, 2), (2500, 3)])
async def test_a_large_snapshot_comes_in_parts_of_which_only_the_last_can_be_resumed_from(
    client: Client, root: Login, count: int, messages: int
) -> None:
    await client.sql(MANY, count)
    watcher, cursors = Watcher(), []
    call = watching(client, root)
    while not watcher.complete:
        watcher.take(await call.read())
        cursors.append(watcher.cursor)
    assert (len(watcher.sessions), watcher.messages) == (count, messages)
    assert not any(cursors[:-1])
    assert cursors[-1]
    call.cancel()


async def test_what_no_longer_matters_is_not_in_the_snapshot(client: Client, root: Login) -> None:
    for session, ago in (("old", 1561), ("young", 1500)):
        await client.sql(REVOKED_THEN, str(uuid.uuid5(uuid.NAMESPACE_URL, session)), timedelta(seconds=ago))
    watcher, call = Watcher(), watching(client, root)
    await watcher.snapshot(call)
    assert watcher.sessions == {str(uuid.uuid5(uuid.NAMESPACE_URL, "young"))}
    call.cancel()


async def test_a_message_comes_at_least_every_second(client: Client, root: Login) -> None:
    call = watching(client, root)
    await call.read()
    cursors = set()
    for _ in range(4):
        start = time.monotonic()
        message = await call.read()
        assert time.monotonic() - start < A_SECOND
        assert message.snapshot_complete
        cursors.add(message.cursor)
    assert len(cursors) == 1
    call.cancel()


async def test_from_a_cursor_everything_after_it_comes_however_old_it_is(client: Client, root: Login) -> None:
    watcher, call = Watcher(), watching(client, root)
    await watcher.snapshot(call)
    call.cancel()
    session = str(uuid.uuid4())
    await client.sql(REVOKED_THEN, session, timedelta(days=100))
    call = watching(client, root, watcher.cursor)
    message: Any = await call.read()
    assert [one.session_id for one in message.revocations] == [session]
    assert message.snapshot_complete
    call.cancel()
    call = watching(client, root, str(message.cursor))
    message = await call.read()
    assert (list(message.revocations), message.snapshot_complete) == ([], True)
    call.cancel()


async def test_no_other_events_come(client: Client, root: Login) -> None:
    async with following(client, root) as watcher:
        await until(lambda: _true(watcher.complete))
        await client.user()
        await client.sql("INSERT INTO events (id, type) VALUES (gen_random_uuid(), 'test.other')")
        messages = watcher.messages
        await until(lambda: _true(watcher.messages > messages + 1))
        assert watcher.forget == []


async def test_a_cursor_that_is_none_of_this_stream_is_invalid(client: Client, root: Login) -> None:
    events: Any = client.events.WatchEvents(events_pb2.WatchEventsRequest(latest=True), metadata=root.metadata)
    foreign = (await events.read()).cursor
    events.cancel()
    for cursor in ("garbage", foreign, foreign[:-2]):
        assert (await ended(watching(client, root, cursor))).reason == "CURSOR_INVALID"


async def test_a_pruned_cursor_is_told(client: Client, root: Login) -> None:
    watcher, call = Watcher(), watching(client, root)
    await watcher.snapshot(call)
    call.cancel()
    await client.sql("UPDATE events_pruned SET through = through + 1000")
    refused = await ended(watching(client, root, watcher.cursor))
    assert (refused.code, refused.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_PRUNED")
    call = watching(client, root)
    assert (await call.read()).snapshot_complete
    call.cancel()


async def test_a_watcher_that_does_not_read_is_cut_off(
    url: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, end = [], Reader.end

    def noted(reader: Reader, verdict: DomainError) -> None:
        cut.append(verdict)
        end(reader, verdict)

    monkeypatch.setattr(Reader, "end", noted)
    monkeypatch.setattr(ground, "Feed", lambda record: Feed(record=record, room=100))
    async with running(settings_for(url)) as app, Client(app.address, url) as client:
        root = await client.administrator()
        call = watching(client, root)
        await call.read()
        async with asyncio.timeout(20):
            while not cut:
                await client.sql(MANY, 1000)
        refused = await ended(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "READER_TOO_SLOW")


async def test_a_draining_server_tells_watchers_to_resume_elsewhere(
    client: Client, root: Login, url: str, settings_for: SettingsFor
) -> None:
    async with running(settings_for(url)) as app:
        other = Client(app.address, url)
        watcher, call = Watcher(), watching(other, root)
        await watcher.snapshot(call)
        end = asyncio.ensure_future(ended(call))
    assert (await end).reason == "SHUTTING_DOWN"
    await other.channel.close()
    ada = await client.user()
    await client.auth.Logout(auth_pb2.LogoutRequest(), metadata=ada.metadata)
    async with following(client, root, watcher.cursor) as resumed:
        await until(lambda: _true(not resumed.accepts(ada.token)))


async def test_only_who_may_can_watch(client: Client) -> None:
    ada = await client.user()
    assert (await ended(watching(client, ada))).reason == "PERMISSION_MISSING"
