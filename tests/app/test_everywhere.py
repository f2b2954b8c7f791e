"""What ends at one replica ends at the other within a second; what begins there is known here (E7, E10)."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import secrets
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import jwt
import pytest
from gatelodge.auth.v1 import auth_pb2, tokens_pb2
from gatelodge.events.v1 import events_pb2
from gatelodge.users.v1 import users_pb2
from tests.app import endings
from tests.app.client import A_SECOND, Client, Login, failure
from tests.app.conftest import environment
from tests.app.endings import Scene
from tests.app.powers import granted, let_in, make_role, person
from tests.app.process import serving
from tests.app.test_revocation import accepted, ended, until
from tests.app.test_signing_keys import activate, pair, stage, until_signed_with

from service.app import running
from service.auth.key_ring import KeyFollower, KeyRing
from service.auth.key_store import KeyStore
from service.auth.revocations import Revocations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.app.conftest import SettingsFor

ROUNDS = 3


async def dead(client: Client, who: Login) -> bool:
    return not await accepted(client, who)


# --- tokens ----------------------------------------------------------------------------------------------------------


async def scene(client: Client, root: Login, ending: Callable[[Scene], Awaitable[None]], email: str) -> Scene:
    """Return two logins of a new user, to whom the ending can be done."""
    user = await client.user(email)
    if ending is endings.revoke_role:
        await granted(client, root, user.user_id, endings.ROLE)
        user = await client.login(email)
    found = Scene(client, user, await client.login(email), root)
    if ending is endings.remove_key:
        staged = await stage(client, root)
        await activate(client, root, staged.id)
        found.root = await until_signed_with(client, staged.id)
    return found


async def test_every_ending_ends_tokens_on_another_replica_within_a_second(url: str, settings_for: SettingsFor) -> None:
    lags: dict[str, list[float]] = {ending.__name__: [] for ending in endings.ENDINGS}
    async with pair(url, settings_for) as (here, there, _, _):
        root = await here.administrator()
        await make_role(here, root, endings.ROLE, "users.read")
        for number in range(ROUNDS * len(endings.ENDINGS)):
            ending = endings.ENDINGS[number % len(endings.ENDINGS)]
            at = await scene(here, root, ending, f"user{number}@example.com")
            root = at.root
            assert await accepted(there, at.user)
            await ending(at)
            lags[ending.__name__].append(await until(lambda at=at: dead(there, at.user)))  # type: ignore[misc]  # a default binds the loop's value
            await until(lambda at=at: dead(here, at.user), within=1)  # type: ignore[misc]  # as above
            assert await accepted(there, at.other) == (ending in endings.OF_ONE_SESSION), ending
            assert await accepted(there, root)
    told = sorted(lag for of_one in lags.values() for lag in of_one)
    for name, of_one in lags.items():
        print(f"{name:<20} p50 {sorted(of_one)[ROUNDS // 2] * 1000:4.0f} ms   p99 {max(of_one) * 1000:4.0f} ms")
    print(f"{'all':<20} p50 {told[len(told) // 2] * 1000:4.0f} ms   p99 {told[-1] * 1000:4.0f} ms of {len(told)}")
    assert told[-1] < 1


async def test_a_replica_that_hears_nothing_lets_everyone_in_who_was_shut_out_elsewhere(
    url: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: nothing but what a replica hears ends a token there."""
    async with deaf_pair(url, settings_for, monkeypatch) as (here, there):
        root = await here.administrator()
        await make_role(here, root, endings.ROLE, "users.read")
        users = []
        for number, ending in enumerate(each for each in endings.ENDINGS if each is not endings.remove_key):
            at = await scene(here, root, ending, f"user{number}@example.com")
            users.append(at.user)
            await ending(at)
        at = await scene(here, root, endings.remove_key, "last@example.com")
        await endings.remove_key(at)
        for user in (*users, at.user):
            await until(lambda user=user: dead(here, user), within=1)  # type: ignore[misc]  # a default binds the loop's value
            assert await accepted(there, user)


@asynccontextmanager
async def deaf_pair(
    url: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch, *tasks: Any
) -> AsyncIterator[tuple[Client, Client]]:
    """Run two replicas, the second one without the background tasks that bring it revocations and keys."""
    settings = settings_for(url)
    async with running(settings) as one, Client(one.address, url) as here:
        with monkeypatch.context() as patch:
            for task in tasks or (Revocations, KeyFollower):
                patch.setattr(task, "run", _hear_nothing)
            two = running(settings)
            app = await two.__aenter__()
        try:
            async with Client(app.address, url) as there:
                yield here, there
        finally:
            await two.__aexit__(None, None, None)


async def _hear_nothing(task: Any) -> None:
    if isinstance(task, Revocations):
        task._as_of = math.inf  # it takes itself for fresh
        task._complete.set()
    await asyncio.Event().wait()


# --- what a token that still lives may do ----------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "back"), [("DisableUser", "EnableUser"), ("DeleteUser", "UndeleteUser")])
async def test_an_administrator_shut_out_elsewhere_does_not_let_themselves_in_with_a_token_that_lives_here(
    url: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch, out: str, back: str
) -> None:
    async with deaf_pair(url, settings_for, monkeypatch) as (here, there):
        root, other = await here.administrator(), await here.administrator("other@example.com")
        shut_out = getattr(users_pb2, f"{out}Request")(user_id=other.user_id)
        await getattr(here.users, out)(shut_out, metadata=root.metadata)
        assert await accepted(there, other)
        let_in = getattr(users_pb2, f"{back}Request")(user_id=other.user_id)
        refused = await failure(getattr(there.users, back)(let_in, metadata=other.metadata))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
        query = "SELECT state = 'active' AND delete_time IS NULL FROM users WHERE id = %s::uuid"
        assert await here.sql(query, other.user_id) == [(False,)]
        # Whoever may still log in does it with the same request: nothing else is in the way.
        await getattr(there.users, back)(let_in, metadata=root.metadata)


@pytest.mark.parametrize("ending", [endings.disable, endings.revoke_role, endings.set_password])
async def test_a_stream_at_another_replica_ends_within_a_second_of_its_callers_end(
    url: str, settings_for: SettingsFor, ending: Callable[[Scene], Awaitable[None]]
) -> None:
    async with pair(url, settings_for) as (here, there, _, _):
        root = await here.administrator()
        await make_role(here, root, endings.ROLE, "events.read")
        user = await person(here, root, "ada@example.com", endings.ROLE)
        await let_in(lambda: there.events.ListEvents(events_pb2.ListEventsRequest(), metadata=user.metadata))
        streams = [
            there.events.WatchEvents(events_pb2.WatchEventsRequest(latest=True), metadata=who.metadata)
            for who in (user, root)
        ]
        for stream in streams:
            await stream.read()
        await ending(Scene(here, user, user, root))
        start = time.monotonic()
        assert (await ended(streams[0])).reason == "CREDENTIALS_INVALID"
        took = time.monotonic() - start
        print(f"the stream ended {took * 1000:.0f} ms after {ending.__name__}")
        assert took < A_SECOND
        assert await streams[1].read() is not grpc.aio.EOF
        streams[1].cancel()


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learns", [True, False], ids=["learned", "negative control"])
async def test_a_token_of_a_key_activated_by_force_is_taken_at_once_where_nobody_has_heard_of_it(
    url: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch, *, learns: bool
) -> None:
    if not learns:
        monkeypatch.setattr(KeyRing, "learn", _never)
    async with deaf_pair(url, settings_for, monkeypatch, KeyFollower) as (here, there):
        root = await here.administrator()
        staged = await stage(here, root)
        await activate(here, root, staged.id)
        fresh = await until_signed_with(here, staged.id)
        assert await accepted(there, root)
        assert await accepted(there, fresh) == learns
        request = tokens_pb2.IntrospectTokenRequest(token=fresh.token)
        told = await there.tokens.IntrospectToken(request, metadata=root.metadata)
        assert told.introspection.active == learns


async def _never(*_: object) -> None:
    return None


async def test_a_flood_of_unknown_keys_asks_the_database_once_a_second(
    url: str, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, load = [], KeyStore.load

    async def counted(self: KeyStore, **options: Any) -> Any:
        looks.append(time.monotonic())
        return await load(self, **options)

    monkeypatch.setattr(KeyStore, "load", counted)
    async with running(settings_for(url)) as app, Client(app.address, url) as client:
        ada = await client.user()
        looks.clear()
        start, asked = time.monotonic(), 0
        while time.monotonic() - start < 1.5:
            bad = [Login("", forged(ada.token)) for _ in range(50)]
            assert not any(await asyncio.gather(*(accepted(client, who) for who in bad)))
            asked += len(bad)
        took = time.monotonic() - start
        assert 2 <= len(looks) <= took + 1, f"{len(looks)} looks in {took:.1f} s"
        assert asked > 50 * len(looks)
        assert await accepted(client, ada)


def forged(token: str) -> str:
    """Return a token that names a key of its own."""
    header = jwt.get_unverified_header(token) | {"kid": secrets.token_urlsafe(32)}
    encoded = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return f"{encoded}.{token.partition('.')[2]}"


# --- refresh tokens --------------------------------------------------------------------------------------------------


async def test_a_refresh_token_used_again_after_the_grace_ends_its_session_on_a_second_process_within_a_second(
    url: str, tmp_path: Path
) -> None:
    environ = environment(url, tmp_path, AUTH__REFRESH_GRACE_SECONDS="0.3")
    async with AsyncExitStack() as stack:
        servers = await asyncio.gather(*(stack.enter_async_context(serving(environ)) for _ in range(2)))
        here, there = [await stack.enter_async_context(Client(server.address, url)) for server in servers]
        ada = await here.user()
        bystander = await here.login("ada@example.com")
        thief = await there.refresh(ada.refresh_token)
        stolen = Login(ada.user_id, thief.access_token)
        assert (await here.refresh(ada.refresh_token)).refresh_token == thief.refresh_token
        await asyncio.sleep(0.4)
        assert await accepted(there, stolen)
        call = here.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=ada.refresh_token))
        assert (await failure(call)).reason == "REFRESH_TOKEN_INVALID"
        took = await until(lambda: dead(there, stolen))
        print(f"dead in the other process after {took * 1000:.0f} ms")
        assert took < A_SECOND
        call = there.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=thief.refresh_token))
        assert (await failure(call)).reason == "REFRESH_TOKEN_INVALID"
        assert await accepted(there, bystander)
