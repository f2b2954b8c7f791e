"""Nothing of a call waits for the next garbage collection, whatever the database made of it."""

from __future__ import annotations

import asyncio
import gc
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

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.app.conftest import SettingsFor

KINDS = (Call, Password)


async def left_of(*calls: Awaitable[object]) -> list[str]:
    """Make the calls at once, without a garbage collector; return what is still there a moment later."""
    gc.collect()
    gc.disable()
    try:
        known = {id(found) for found in gc.get_objects() if type(found) in KINDS}
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert not isinstance(outcome, BaseException) or isinstance(outcome, grpc.aio.AioRpcError)
        del calls
        for _ in range(100):
            left = [type(o).__name__ for o in gc.get_objects() if type(o) in KINDS and id(o) not in known]
            if not left:
                break
            await asyncio.sleep(0.01)
        return left
    finally:
        gc.enable()


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
        assert not await left_of(create("ada@example.com"))
        assert not await left_of(create("ada@example.com", str(uuid.uuid4())))
        assert not await left_of(*(create("eve@example.com", same) for _ in range(4)))
        assert not await left_of(update(root.user_id, '"nonsense"'))
        assert not await left_of(update(str(uuid.uuid4()), ""))
        assert not await left_of(client.login("ada@example.com", "not her password"))
        assert not await left_of(client.register("ada@example.com"))
        await client.sql("ALTER TABLE users RENAME TO gone")
        assert not await left_of(client.register("bob@example.com"))


async def test_nothing_is_left_of_a_login_that_is_broken_off(url: str, settings_for: SettingsFor) -> None:
    async with running(settings_for(url)) as app, Client(app.address, url) as client:
        await client.user("ada@example.com")

        async def broken_off() -> None:
            login = client.auth.Login(auth_pb2.LoginRequest(email="ada@example.com", password=PASSWORD))
            await asyncio.sleep(0.01)
            login.cancel()
            with suppress(asyncio.CancelledError):
                await login

        assert not await left_of(broken_off())
