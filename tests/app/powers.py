"""Roles for tests, made and granted through the API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio
from gatelodge.access.v1 import roles_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.app.client import Client, Login

Answer = TypeVar("Answer")


async def make_role(client: Client, by: Login, name: str, *permissions: str) -> roles_pb2.Role:
    request = roles_pb2.CreateRoleRequest(role=roles_pb2.Role(name=name, permissions=permissions))
    return (await client.roles.CreateRole(request, metadata=by.metadata)).role


async def granted(client: Client, by: Login, user_id: str, role: str) -> roles_pb2.GrantRoleResponse:
    request = roles_pb2.GrantRoleRequest(user_id=user_id, role=role)
    return await client.roles.GrantRole(request, metadata=by.metadata)


async def person(client: Client, by: Login, email: str, *roles: str) -> Login:
    """Register someone, grant them roles, and log in with these."""
    someone = await client.user(email)
    for role in roles:
        await granted(client, by, someone.user_id, role)
    return await client.login(email)


async def let_in(call: Callable[[], Awaitable[Answer]], *, seconds: float = 2) -> Answer:
    """Call, and again until what the caller's roles allow has come into force."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
                    raise
            await asyncio.sleep(0.005)
