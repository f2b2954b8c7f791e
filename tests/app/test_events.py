"""Events, end to end: what is recorded, listed and streamed."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from bench.soak_events import soak
from gatelodge.auth.v1 import auth_pb2
from gatelodge.events.v1 import events_pb2
from gatelodge.users.v1 import users_pb2
from tests.app.client import PASSWORD, Client, Login, failure, taken_apart

from service.app import running
from service.db import Database
from service.errors import DomainError, ReaderTooSlow
from service.events.feed import Feed
from service.events.reader import Reader
from service.events.record import Record
from service.wiring import ground

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.app.client import Failure
    from tests.app.conftest import SettingsFor

    from service.app import App


async def forget_the_start(url: str) -> None:
    async with Database(url) as database:
        await Record(database=database).prune(datetime.now(UTC) + timedelta(seconds=1))


@pytest.fixture
async def client(app: App, url: str) -> AsyncIterator[Client]:
    """A client of a service whose record begins now: what the start itself recorded is pruned."""
    await forget_the_start(url)
    async with Client(app.address, url) as connected:
        yield connected


LOGGED_IN = ["user.registered", "session.started"]
"""What an administrator of the tests leaves in the record by being there."""


async def listed(client: Client, who: Login, **request: Any) -> events_pb2.ListEventsResponse:
    return await client.events.ListEvents(events_pb2.ListEventsRequest(**request), metadata=who.metadata)


def watching(client: Client, who: Login, **request: Any) -> Any:
    return client.events.WatchEvents(events_pb2.WatchEventsRequest(**request), metadata=who.metadata)


@dataclass
class Taken:
    """What was read of a stream."""

    events: int = 0
    cursor: str = ""


async def refused(call: Any, taken: Taken | None = None) -> Failure:
    """Read a stream that must fail, and return how."""
    taken = taken or Taken()
    try:
        async with asyncio.timeout(20):
            while (message := await call.read()) is not grpc.aio.EOF:
                taken.events += len(message.events)
                taken.cursor = message.cursor
    except grpc.aio.AioRpcError as error:
        return taken_apart(error)
    raise AssertionError("the stream ended well")


async def cursor_of(client: Client, who: Login, **request: Any) -> str:
    call = watching(client, who, **request)
    message = await call.read()
    call.cancel()
    return str(message.cursor)


async def types_until(call: Any, count: int) -> list[str]:
    types: list[str] = []
    async with asyncio.timeout(20):
        while len(types) < count:
            types += [event.type for event in (await call.read()).events]
    return types


@asynccontextmanager
async def beside(client: Client) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(client.database_url) as conn:
        yield conn


async def insert(conn: psycopg.AsyncConnection[Any], kind: str) -> None:
    await conn.execute("INSERT INTO events (id, type) VALUES (%s, %s)", (uuid.uuid4(), kind))


# --- what is recorded ------------------------------------------------------------------------------------------------


async def test_a_registration_tells_who_when_from_where_and_in_which_call(client: Client) -> None:
    root = await client.administrator()
    request = auth_pb2.RegisterRequest(email="ada@example.com", password=PASSWORD)
    await client.auth.Register(request, metadata=(("x-request-id", "registering-ada"),))
    ada = await client.login("ada@example.com")
    (event,) = (await listed(client, root, user_id=ada.user_id, types=["user.registered"])).events
    assert (event.type, event.user_id, event.actor_id) == ("user.registered", ada.user_id, "")
    assert (event.request_id, event.source) == ("registering-ada", "127.0.0.1")
    assert event.WhichOneof("payload") == "user_registered"
    assert uuid.UUID(event.id).version == 7
    assert abs(event.create_time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_creation_tells_its_actor_and_what_the_user_began_with(client: Client) -> None:
    root = await client.administrator()
    create = users_pb2.CreateUserRequest(email="ada@example.com")
    ada = (await client.users.CreateUser(create, metadata=root.metadata)).user
    (event,) = (await listed(client, root, actor_id=root.user_id)).events
    assert (event.type, event.user_id) == ("user.created", ada.id)
    assert not event.user_created.has_password


async def test_a_rehearsed_creation_records_nothing(client: Client) -> None:
    root = await client.administrator()
    create = users_pb2.CreateUserRequest(email="ada@example.com", validate_only=True)
    await client.users.CreateUser(create, metadata=root.metadata)
    assert [event.type for event in (await listed(client, root)).events] == LOGGED_IN[::-1]


async def test_registering_a_taken_address_is_recorded_about_its_owner(client: Client) -> None:
    root = await client.administrator()
    ada = await client.user()
    await client.register("ADA@example.com", "another password, quite long")
    newest = (await listed(client, root, user_id=ada.user_id)).events[0]
    assert (newest.type, newest.actor_id) == ("user.registration_repeated", "")


async def test_what_cannot_be_recorded_does_not_happen(client: Client) -> None:
    root = await client.administrator()
    await client.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no more events'; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    create = users_pb2.CreateUserRequest(email="ada@example.com", password=PASSWORD)
    assert (await failure(client.users.CreateUser(create, metadata=root.metadata))).reason == "INTERNAL"
    register = auth_pb2.RegisterRequest(email="eve@example.com", password=PASSWORD)
    assert (await failure(client.auth.Register(register))).reason == "INTERNAL"
    assert await client.sql("SELECT email FROM users") == [("root@example.com",)]


async def test_what_cannot_get_its_place_in_the_order_does_not_happen(client: Client) -> None:
    await client.sql("ALTER TABLE event_positions ADD CHECK (position < 0) NOT VALID")
    register = auth_pb2.RegisterRequest(email="eve@example.com", password=PASSWORD)
    assert (await failure(client.auth.Register(register))).reason == "INTERNAL"
    assert await client.sql("SELECT email FROM users") == []


async def test_no_event_holds_an_address_a_name_or_a_secret(client: Client) -> None:
    root = await client.administrator("marked-root@example.com")
    create = users_pb2.CreateUserRequest(email="marked-ada@example.com", password=PASSWORD, display_name="marked name")
    await client.users.CreateUser(create, metadata=root.metadata)
    await client.register("marked-ada@example.com")
    stored = str(await client.sql("SELECT to_jsonb(events) FROM events"))
    assert "registration_repeated" in stored
    assert all(secret not in stored for secret in ("marked", "example.com", PASSWORD, "argon2"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET type = 'x'",
        "DELETE FROM events",
        "TRUNCATE events",
        "DELETE FROM event_positions",
    ],
)
async def test_the_record_cannot_be_rewritten(client: Client, statement: str) -> None:
    await client.register("ada@example.com")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="appended only"):
        await client.sql(statement)


# --- the list --------------------------------------------------------------------------------------------------------


async def test_pages_are_newest_first_and_complete(client: Client) -> None:
    root = await client.administrator()
    for number in range(7):
        await client.sql("INSERT INTO events (id, type) VALUES (gen_random_uuid(), %s)", f"test.{number}")
    types, token = [], ""
    while True:
        page = await listed(client, root, page_size=3, page_token=token)
        types += [event.type for event in page.events]
        assert len(page.events) <= 3
        if not (token := page.next_page_token):
            break
    assert types == [f"test.{number}" for number in reversed(range(7))] + LOGGED_IN[::-1]


async def test_filters_by_subject_actor_type_and_time(client: Client) -> None:
    root = await client.administrator()
    ada = await client.user()
    between = datetime.now(UTC)
    create = users_pb2.CreateUserRequest(email="eve@example.com")
    eve = (await client.users.CreateUser(create, metadata=root.metadata)).user

    async def of(**request: Any) -> list[tuple[str, str]]:
        return [(event.type, event.user_id) for event in (await listed(client, root, **request)).events]

    made, came = ("user.created", eve.id), ("user.registered", ada.user_id)
    first = ("user.registered", root.user_id)
    entered, began = ("session.started", ada.user_id), ("session.started", root.user_id)
    assert await of() == [made, entered, came, began, first]
    assert await of(page_size=100_000) == [made, entered, came, began, first]
    assert await of(user_id=ada.user_id) == [entered, came]
    assert await of(user_id=ada.user_id, actor_id=root.user_id) == []
    assert await of(actor_id=root.user_id) == [made]
    assert await of(types=["user.registered"]) == [came, first]
    assert await of(types=["user.registered", "user.created"]) == [made, came, first]
    assert await of(actor_id=root.user_id, types=["user.registered"]) == []
    assert await of(start_time=between) == [made]
    assert await of(end_time=between) == [entered, came, began, first]


async def test_a_page_token_is_good_for_its_own_request_only(client: Client) -> None:
    root = await client.administrator()
    await client.user()
    token = (await listed(client, root, page_size=1)).next_page_token
    assert (await listed(client, root, page_size=5, page_token=token)).events
    cursor = await cursor_of(client, root, latest=True)
    for bad in (
        {"page_token": token, "types": ["user.registered"]},
        {"page_token": token[:-2] + ("AA" if token[-2:] != "AA" else "BB")},
        {"page_token": cursor},
        {"page_token": "not a token"},
        {"page_token": "é"},
    ):
        wrong = await failure(client.events.ListEvents(events_pb2.ListEventsRequest(**bad), metadata=root.metadata))
        assert (wrong.code, wrong.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_a_negative_page_size_and_an_impossible_time_are_refused(client: Client) -> None:
    root = await client.administrator()
    negative = events_pb2.ListEventsRequest(page_size=-1)
    assert "page_size" in (await failure(client.events.ListEvents(negative, metadata=root.metadata))).fields
    request = events_pb2.ListEventsRequest()
    request.start_time.seconds = 1 << 60
    assert "start_time" in (await failure(client.events.ListEvents(request, metadata=root.metadata))).fields


async def test_events_are_for_holders_of_the_permission(client: Client) -> None:
    ada = await client.user()
    call = client.events.ListEvents(events_pb2.ListEventsRequest(user_id=ada.user_id), metadata=ada.metadata)
    assert (await failure(call)).reason == "PERMISSION_MISSING"
    assert (await refused(watching(client, ada, latest=True))).reason == "PERMISSION_MISSING"


# --- the stream ------------------------------------------------------------------------------------------------------


async def test_a_transaction_that_began_first_and_commits_last_is_told_last(client: Client) -> None:
    root = await client.administrator()
    call = watching(client, root, latest=True)
    await call.read()
    async with beside(client) as slow, beside(client) as quick:
        await insert(slow, "test.slow")
        await insert(quick, "test.quick")
        await quick.commit()
        assert await types_until(call, 1) == ["test.quick"]
        cursor = await cursor_of(client, root, latest=True)
        await slow.commit()
    assert await types_until(call, 1) == ["test.slow"]
    assert await types_until(watching(client, root, cursor=cursor), 1) == ["test.slow"]
    assert await types_until(watching(client, root, earliest=True), 4) == [*LOGGED_IN, "test.quick", "test.slow"]


async def test_a_transaction_rolled_back_is_never_told(client: Client) -> None:
    root = await client.administrator()
    call = watching(client, root, latest=True)
    await call.read()
    async with beside(client) as conn:
        await insert(conn, "test.undone")
        await conn.rollback()
        await insert(conn, "test.done")
        await conn.commit()
    assert await types_until(call, 1) == ["test.done"]


async def test_a_checkpoint_comes_every_second_and_moves_past_what_the_filter_hides(client: Client) -> None:
    root = await client.administrator()
    call = watching(client, root, latest=True, types=["test.wanted"])
    cursors, times = [(await call.read()).cursor], [time.monotonic()]
    await client.sql("INSERT INTO events (id, type) VALUES (gen_random_uuid(), 'test.hidden')")
    for _ in range(5):
        message = await call.read()
        assert not message.events
        cursors.append(message.cursor)
        times.append(time.monotonic())
    assert max(later - earlier for earlier, later in pairwise(times)) < 1.0
    assert cursors[-1] != cursors[0]
    assert cursors[-1] == await cursor_of(client, root, latest=True)


async def test_watchers_killed_and_resumed_miss_nothing_and_see_the_order_of_commits(
    url: str, settings_for: SettingsFor
) -> None:
    result = await soak(settings_for(url), url, writers=8, watchers=3, seconds=3)
    assert result["events_written"] > 100
    assert result["resumes"] > 5
    wrong = ("lost", "repeated", "reordered_against_row_versions", "watchers_that_differ")
    assert {key: result[key] for key in wrong} == dict.fromkeys(wrong, 0)


async def test_a_reader_far_behind_catches_up_with_the_feed(client: Client) -> None:
    root = await client.administrator()
    await many(client, 1700)
    first = watching(client, root, latest=True)
    await first.read()
    behind = asyncio.create_task(types_until(watching(client, root, earliest=True), len(LOGGED_IN) + 1700 + 10))
    for number in range(10):
        await client.sql("INSERT INTO events (id, type) VALUES (gen_random_uuid(), %s)", f"late.{number}")
    assert (await behind)[-10:] == [f"late.{number}" for number in range(10)]


async def test_a_cursor_is_refused_when_forged_from_the_future_or_pruned(client: Client, url: str) -> None:
    root = await client.administrator()
    old = await cursor_of(client, root, earliest=True)
    await client.register("ada@example.com")
    new = await cursor_of(client, root, latest=True)
    forged = await refused(watching(client, root, cursor=new[:-2] + ("AA" if new[-2:] != "AA" else "BB")))
    assert (forged.code, forged.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID")
    async with Database(url) as database:
        record = Record(database=database)
        assert await record.prune(datetime.now(UTC) - timedelta(hours=1)) == 0
        assert await record.prune(datetime.now(UTC) + timedelta(seconds=1)) == 3
    pruned = await refused(watching(client, root, cursor=old))
    assert (pruned.code, pruned.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_PRUNED")
    call = watching(client, root, cursor=new)
    await client.register("eve@example.com")
    assert await types_until(call, 1) == ["user.registered"]
    later = await cursor_of(client, root, latest=True)
    await client.sql("SET gatelodge.pruning = 'on'; DELETE FROM event_positions")
    future = await refused(watching(client, root, cursor=later))
    assert future.reason == "CURSOR_INVALID"


async def test_a_start_must_be_named(client: Client) -> None:
    root = await client.administrator()
    assert (await refused(watching(client, root))).reason == "INVALID_FIELDS"


async def test_the_stream_goes_on_without_notifications(client: Client) -> None:
    root = await client.administrator()
    call = watching(client, root, latest=True)
    await call.read()
    await client.sql(
        "CREATE OR REPLACE FUNCTION give_event_its_position() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO event_positions (event_id) VALUES (NEW.id); RETURN NULL; END $$"
    )
    await client.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'")
    started = time.monotonic()
    await client.sql("INSERT INTO events (id, type) VALUES (gen_random_uuid(), 'test.polled')")
    assert await types_until(call, 1) == ["test.polled"]
    assert time.monotonic() - started < 1.0


async def many(client: Client, count: int) -> None:
    """Commit that many events of 2 kB."""
    await client.sql(
        "INSERT INTO events (id, type, payload) SELECT gen_random_uuid(), 'user.updated',"
        " jsonb_build_object('fields', jsonb_build_array(repeat(md5(n::text), 64))) FROM generate_series(1, %s) AS n",
        count,
    )


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> list[DomainError]:
    """Serve with little patience and room for few events. What readers were ended for comes into the list."""
    ended: list[DomainError] = []
    end = Reader.end

    def noted(reader: Reader, verdict: DomainError) -> None:
        ended.append(verdict)
        end(reader, verdict)

    monkeypatch.setattr(Reader, "end", noted)

    class Narrow(Feed):
        def __init__(self, *, record: Record) -> None:
            super().__init__(record=record, room=200, patience=1.0)

    monkeypatch.setattr(ground, "Feed", Narrow)
    return ended


async def test_a_reader_that_more_events_wait_for_than_may_is_cut(cut: list[DomainError], app: App, url: str) -> None:
    async with Client(app.address, url) as client:
        root = await client.administrator()
        call = watching(client, root, latest=True)
        await call.read()
        await many(client, 3000)
        told = await refused(call)
        assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "READER_TOO_SLOW")
        assert {type(verdict) for verdict in cut} == {ReaderTooSlow}


async def test_a_reader_that_does_not_read_is_cut_and_can_resume(cut: list[DomainError], client: Client) -> None:
    root = await client.administrator()
    await many(client, 6000)
    call = watching(client, root, earliest=True)
    seen = len((await call.read()).events)
    async with asyncio.timeout(20):
        while not cut:
            await asyncio.sleep(0.05)
    took = Taken(seen)
    assert (await refused(call, took)).reason == "READER_TOO_SLOW"
    seen, cursor = took.events, took.cursor
    written = len(LOGGED_IN) + 6000
    assert 0 < seen < written
    rest = await types_until(watching(client, root, cursor=cursor), written - seen)
    assert len(rest) == written - seen


async def test_positions_become_visible_in_their_order(client: Client) -> None:
    """A transaction that dawdles after it got its position holds up those behind it, or they would be seen first."""
    root = await client.administrator()
    await client.sql(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM pg_sleep(0.7); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER zz_last AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.type = 'test.slow') EXECUTE FUNCTION dawdle()"
    )
    call = watching(client, root, latest=True)
    await call.read()
    slow = asyncio.create_task(client.sql("INSERT INTO events (id, type) VALUES (gen_random_uuid(), 'test.slow')"))
    await asyncio.sleep(0.3)
    await client.sql("INSERT INTO events (id, type) VALUES (gen_random_uuid(), 'test.quick')")
    await slow
    assert await types_until(call, 2) == ["test.slow", "test.quick"]


async def test_a_stream_is_told_of_the_shutdown(url: str, settings_for: SettingsFor) -> None:
    async with running(settings_for(url)) as app:
        client = Client(app.address, url)
        root = await client.administrator()
        call = watching(client, root, latest=True)
        await call.read()
        ending = asyncio.create_task(refused(call))
    assert (await ending).reason == "SHUTTING_DOWN"
    await client.channel.close()


async def test_a_watcher_that_leaves_is_forgotten(
    url: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds: list[Feed] = []

    def made(*, record: Record) -> Feed:
        feeds.append(Feed(record=record))
        return feeds[0]

    monkeypatch.setattr(ground, "Feed", made)
    async with running(settings_for(url)) as app, Client(app.address, url) as client:
        root = await client.administrator()
        calls = [watching(client, root, latest=True) for _ in range(3)]
        for call in calls:
            await call.read()
        assert len(watchers(feeds[0])) == 3
        for call in calls:
            call.cancel()
        async with asyncio.timeout(20):
            while watchers(feeds[0]):
                await asyncio.sleep(0.01)
        assert all(reader.wanted.types for reader in feeds[0]._live)


def watchers(feed: Feed) -> list[Reader]:
    """Return the readers that are calls: the service itself wants events of certain types only."""
    return [reader for reader in feed._readers if not reader.wanted.types]
