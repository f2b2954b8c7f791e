"""Revocation: dead everywhere in under a second, from memory; and what happens when memory cannot be trusted (E10)."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from gatelodge.auth.v1 import auth_pb2
from gatelodge.events.v1 import events_pb2
from gatelodge.info.v1 import info_pb2
from gatelodge.users.v1 import users_pb2
from grpc_health.v1 import health_pb2
from tests.app.client import A_SECOND, Client, Failure, Login, failure, taken_apart
from tests.app.test_health import get

from service.app import App, running
from service.db import clone, migrations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.app.conftest import SettingsFor
    from tests.conftest import Fragile

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
REVOKE_SESSION = """
    INSERT INTO events (id, type, subject, payload)
    VALUES (gen_random_uuid(), 'session.revoked', %s::uuid, jsonb_build_object('session_id', %s::text, 'reason', 'x'))
"""


def info(client: Client, who: Login) -> Any:
    """Call what needs a token and nothing else, no database either."""
    return client.info.GetServerInfo(info_pb2.GetServerInfoRequest(), metadata=who.metadata)


async def accepted(client: Client, who: Login) -> bool:
    call = info(client, who)
    if await call.code() is grpc.StatusCode.OK:
        return True
    refused = await failure(call)
    assert refused.reason == "CREDENTIALS_INVALID", refused
    return False


async def until(condition: Callable[[], Awaitable[bool]], within: float = 15) -> float:
    """Wait until something holds; return the seconds it took."""
    start = time.perf_counter()
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.001)
    return time.perf_counter() - start


async def health(client: Client, name: str = "revocations") -> int:
    return int((await client.health.Check(health_pb2.HealthCheckRequest(service=name))).status)


@asynccontextmanager
async def service(settings_for: SettingsFor, url: str, **environ: str) -> AsyncIterator[tuple[App, Client]]:
    async with running(settings_for(url, **environ)) as app, Client(app.address, url) as client:
        yield app, client


# --- known -----------------------------------------------------------------------------------------------------------


async def log_out(client: Client, user: Login, _: Login) -> None:
    await client.auth.Logout(auth_pb2.LogoutRequest(), metadata=user.metadata)


async def disable(client: Client, user: Login, root: Login) -> None:
    await client.users.DisableUser(users_pb2.DisableUserRequest(user_id=user.user_id), metadata=root.metadata)


async def _refused(client: Client, who: Login) -> bool:
    return not await accepted(client, who)


async def test_what_was_revoked_before_the_start_is_refused_from_the_first_call(
    client: Client, url: str, settings_for: SettingsFor
) -> None:
    ada, bob = await client.user(), await client.user("bob@example.com")
    # An event alone: the database, if it were asked, would say that the session is well.
    await client.sql(REVOKE_SESSION, ada.user_id, ada.session_id)
    async with service(settings_for, url) as (_, other):
        assert await health(other) == SERVING
        assert not await accepted(other, ada)
        assert await accepted(other, bob)


async def test_a_token_is_checked_without_asking_the_database(client: Client) -> None:
    ada = await client.user()
    await client.sql("UPDATE sessions SET revoke_time = now()")
    assert await accepted(client, ada)


async def test_a_disabled_user_is_refused_by_get_me(client: Client) -> None:
    ada = await client.user()
    await client.sql("UPDATE users SET state = 'disabled' WHERE id = %s::uuid", ada.user_id)
    refused = await failure(client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata))
    assert refused.reason == "CREDENTIALS_INVALID"


async def test_the_lag_and_the_freshness_are_measured(app: App, client: Client) -> None:
    ada = await client.user()
    await log_out(client, ada, ada)
    await until(lambda: _refused(client, ada))
    page = (await get(app, "/metrics")).decode()
    assert "gatelodge_revocation_lag_seconds_count 1.0" in page
    assert "gatelodge_revocations_fresh 1.0" in page
    assert 'gatelodge_health{service="revocations"} 1.0' in page


# --- when memory cannot be trusted -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        "UPDATE sessions SET revoke_time = now()",
        "UPDATE sessions SET expire_time = now()",
        "DELETE FROM sessions",
        "UPDATE users SET token_version = token_version + 1",
        "UPDATE users SET state = 'disabled'",
        "UPDATE users SET delete_time = now()",
    ],
)
async def test_when_the_feed_stops_each_token_is_asked_about_until_it_goes_on(
    url: str, settings_for: SettingsFor, end: str
) -> None:
    async with service(settings_for, url, AUTH__REVOCATION_STALENESS_SECONDS="1") as (app, client):
        ada, bob = await client.user(), await client.user("bob@example.com")
        assert await health(client) == SERVING
        # Nobody can read the events: the pollers of this process fail, everything else works.
        await client.sql("ALTER TABLE event_positions RENAME TO elsewhere")
        await asyncio.sleep(1.1)  # what was read before is stale now, however late it is handed on
        await until(lambda: _is(client, NOT_SERVING))
        assert "gatelodge_revocations_fresh 0.0" in (await get(app, "/metrics")).decode()
        assert await health(client, "readiness") == SERVING
        assert await accepted(client, ada)
        column = "user_id" if "sessions" in end else "id"
        await client.sql(f"{end} WHERE {column} = %s::uuid", ada.user_id)
        assert not await accepted(client, ada)
        assert await accepted(client, bob)
        await client.sql("ALTER TABLE elsewhere RENAME TO event_positions")
        await until(lambda: _is(client, SERVING))
        assert await accepted(client, bob)


async def _is(client: Client, status: int) -> bool:
    return await health(client) == status


async def test_nobody_is_let_in_when_neither_memory_nor_the_database_can_tell(
    fragile: Fragile, settings_for: SettingsFor
) -> None:
    await clone.template(fragile.url, migrations.load(migrations.folder()))
    async with service(settings_for, fragile.url, AUTH__REVOCATION_STALENESS_SECONDS="1") as (_, client):
        ada = await client.user()
        stream = client.events.WatchEvents(events_pb2.WatchEventsRequest(), metadata=ada.metadata)
        await fragile.server.stop()
        assert await accepted(client, ada)
        await until(lambda: _is(client, NOT_SERVING))
        refused = await failure(info(client, ada))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
        stream.cancel()
        await fragile.server.start()
        await until(lambda: _is(client, SERVING))
        assert await accepted(client, ada)


# --- streams ---------------------------------------------------------------------------------------------------------


async def ended(stream: Any) -> Failure:
    """Read a stream until it fails, and return how."""
    try:
        async with asyncio.timeout(20):
            while await stream.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        return taken_apart(error)
    raise AssertionError("the stream ended well")


async def test_a_stream_ends_within_a_second_when_its_token_is_revoked(client: Client) -> None:
    root = await client.administrator()
    stream = client.events.WatchEvents(events_pb2.WatchEventsRequest(latest=True), metadata=root.metadata)
    other = await client.login("root@example.com")
    going_on = client.events.WatchEvents(events_pb2.WatchEventsRequest(latest=True), metadata=other.metadata)
    await stream.read()
    await going_on.read()
    await log_out(client, root, root)
    start = time.monotonic()
    assert (await ended(stream)).reason == "CREDENTIALS_INVALID"
    assert time.monotonic() - start < A_SECOND
    await asyncio.sleep(1)
    assert await going_on.read() is not grpc.aio.EOF
    going_on.cancel()


async def test_a_stream_ends_when_its_token_expires(url: str, settings_for: SettingsFor) -> None:
    ahead = timedelta(0)
    settings = settings_for(url)
    async with (
        running(settings, clock=lambda: datetime.now(UTC) + ahead) as app,
        Client(app.address, url) as client,
    ):
        root = await client.administrator()
        stream = client.events.WatchEvents(events_pb2.WatchEventsRequest(latest=True), metadata=root.metadata)
        await stream.read()
        ahead = timedelta(seconds=899)
        await asyncio.sleep(0)
        assert await accepted(client, root)
        ahead = timedelta(seconds=901)
        start = time.monotonic()
        assert (await ended(stream)).reason == "CREDENTIALS_INVALID"
        assert time.monotonic() - start < A_SECOND
        assert not await accepted(client, root)


# --- one answer ------------------------------------------------------------------------------------------------------


async def test_every_dead_token_gets_the_same_answer_to_the_last_byte_but_the_request_id(
    client: Client, url: str, settings_for: SettingsFor
) -> None:
    users = [await client.user(f"user{number}@example.com") for number in range(3)]
    root = await client.administrator()
    await log_out(client, users[0], root)
    await disable(client, users[1], root)
    for user in users[:2]:
        await until(lambda user=user: _refused(client, user))  # type: ignore[misc]
    async with service(settings_for, url, AUTH__ISSUER="another") as (_, stranger):
        foreign = await stranger.login("user2@example.com")
    good = users[2].token
    answers = set()
    for token in (
        users[0].token,
        users[1].token,
        foreign.token,
        good[:-2],
        good + "=",
        good.rpartition(".")[0] + ".",
        "garbage",
        "a" * 8000,
        users[2].refresh_token,
    ):
        request_id = f"request-{uuid.uuid4()}"
        metadata = (("authorization", f"Bearer {token}"), ("x-request-id", request_id))
        call = client.info.GetServerInfo(info_pb2.GetServerInfoRequest(), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        error = caught.value
        trailers = [
            (key, value.replace(request_id.encode(), b"") if isinstance(value, bytes) else value)
            for key, value in error.trailing_metadata() or ()
            if key != "x-request-id"
        ]
        answers.add((error.code(), error.details(), tuple(trailers)))
        taken_apart(error)
    assert len(answers) == 1
    assert await accepted(client, users[2])
