"""Nothing of a call waits for the next garbage collection, whatever the database made of it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc.aio
from gatelodge.auth.v1 import auth_pb2
from gatelodge.users.v1 import users_pb2
from tests.app.client import PASSWORD, Client

from service.app import running
from service.auth.passwords import Password
from service.call import Call
from service.db import clone, migrations

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.app.conftest import SettingsFor
    from tests.conftest import Fragile

KINDS = (Call, Password)


async def codes(*calls: Awaitable[object]) -> set[str]:
    """Make the calls at once and return their codes. A moment later nothing is left of them, without a collector."""
    gc.collect()
    gc.disable()
    try:
        known = {id(found) for found in gc.get_objects() if type(found) in KINDS}
        told = {code_of(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)}
        del calls
        for _ in range(100):
            left = [type(o).__name__ for o in gc.get_objects() if type(o) in KINDS and id(o) not in known]
            if not left:
                break
            await asyncio.sleep(0.01)
        assert not left
        return told
    finally:
        gc.enable()


def code_of(outcome: object) -> str:
    if isinstance(outcome, grpc.aio.AioRpcError):
        return str(outcome.code().name)
    assert not isinstance(outcome, BaseException), outcome
    return "OK"


async def test_nothing_is_left_of_calls_that_the_database_refused(url: str, settings_for: SettingsFor) -> None:
    async with running(settings_for(url)) as app, Client(app.address, url) as client:
        await client.user("ada@example.com")
        root = await client.administrator()

        def create(email: str, request_id: str = "") -> Awaitable[object]:
            request = users_pb2.CreateUserRequest(email=email, password=PASSWORD, request_id=request_id)
            return client.users.CreateUser(request, metadata=root.metadata)

        def update(user_id: str, etag: str) -> Awaitable[object]:
            user = users_pb2.User(display_name="new", etag=etag)
            return client.users.UpdateUser(
                users_pb2.UpdateUserRequest(user_id=user_id, user=user), metadata=root.metadata
            )

        same = str(uuid.uuid4())
        assert await codes(create("ada@example.com")) == {"ALREADY_EXISTS"}
        assert await codes(create("ada@example.com", str(uuid.uuid4()))) == {"ALREADY_EXISTS"}
        assert await codes(*(create("eve@example.com", same) for _ in range(4))) == {"OK"}
        assert await codes(update(root.user_id, '"nonsense"')) == {"ABORTED"}
        assert await codes(update(str(uuid.uuid4()), "")) == {"NOT_FOUND"}
        assert await codes(client.login("ada@example.com", "not her password")) == {"UNAUTHENTICATED"}
        assert await codes(client.register("ada@example.com")) == {"OK"}  # nobody is told
        await client.sql("ALTER TABLE users RENAME TO gone")
        assert await codes(client.register("bob@example.com")) == {"INTERNAL"}


async def test_nothing_is_left_of_a_login_that_is_broken_off(url: str, settings_for: SettingsFor) -> None:
    async with running(settings_for(url)) as app, Client(app.address, url) as client:
        await client.user("ada@example.com")

        async def broken_off() -> None:
            login = client.auth.Login(auth_pb2.LoginRequest(email="ada@example.com", password=PASSWORD))
            await asyncio.sleep(0.01)
            login.cancel()
            with suppress(asyncio.CancelledError):
                await login

        assert await codes(broken_off()) == {"OK"}


async def test_nothing_is_left_of_calls_while_the_database_is_away(fragile: Fragile, settings_for: SettingsFor) -> None:
    await clone.template(fragile.url, migrations.load(migrations.folder()))
    async with running(settings_for(fragile.url)) as app, Client(app.address, fragile.url) as client:
        ada = await client.user("ada@example.com")
        assert fragile.server.pid is not None
        os.kill(fragile.server.pid, signal.SIGKILL)
        for _ in range(2):  # on connections that die, and then without any
            assert await codes(
                client.register("bob@example.com"),
                client.login("ada@example.com"),
                client.users.GetUser(users_pb2.GetUserRequest(user_id=ada.user_id), metadata=ada.metadata),
                client.refresh(ada.refresh_token),
            ) == {"UNAVAILABLE"}
