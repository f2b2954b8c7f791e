"""Some of everything that callers do, for a look at the dashboard: ``traffic.py <host:port> <seconds>``.

For a service on this machine that lets anyone register. ADMIN names an administrator, ``email:password``.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import uuid
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from gatelodge.auth.v1 import auth_pb2, auth_pb2_grpc
from gatelodge.events.v1 import events_pb2, events_pb2_grpc
from gatelodge.users.v1 import users_pb2, users_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

PASSWORD = "correct horse battery staple"
CALLERS = 12
PAUSE = 0.12
Metadata = tuple[tuple[str, str]]


class Caller:
    """One caller, who does one thing after the other until cancelled."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._auth: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(channel)
        self._users: users_pb2_grpc.UserServiceAsyncStub = users_pb2_grpc.UserServiceStub(channel)
        self._events: events_pb2_grpc.EventServiceAsyncStub = events_pb2_grpc.EventServiceStub(channel)
        self._dice = random.Random()

    async def token(self, email: str, password: str = PASSWORD) -> Metadata:
        """Log in."""
        answer = await self._auth.Login(auth_pb2.LoginRequest(email=email, password=password))
        return (("authorization", f"Bearer {answer.access_token}"),)

    async def run(self, admin: Sequence[str]) -> None:
        """Register, and go on from there."""
        email = f"{uuid.uuid4().hex}@example.com"
        await self._auth.Register(auth_pb2.RegisterRequest(email=email, password=PASSWORD))
        own, root = await self.token(email), await self.token(*admin)
        while True:
            await asyncio.sleep(self._dice.uniform(0, 2 * PAUSE))
            try:
                await self._something(email, own, root)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    await asyncio.sleep(1)

    async def watch(self, admin: Sequence[str]) -> None:
        """Follow the events."""
        token = await self.token(*admin)
        async for _ in self._events.WatchEvents(events_pb2.WatchEventsRequest(latest=True), metadata=token):
            pass

    async def _something(self, email: str, own: Metadata, root: Metadata) -> None:
        new = users_pb2.CreateUserRequest(email=f"{uuid.uuid4().hex}@example.com", request_id=str(uuid.uuid4()))
        itself = users_pb2.LookupUserRequest(email=email)
        nobody = users_pb2.LookupUserRequest(email="nobody@example.com")
        page = users_pb2.ListUsersRequest(page_size=20)
        weights: dict[Callable[[], Awaitable[object]], int] = {
            lambda: self._auth.GetMe(auth_pb2.GetMeRequest(), metadata=own): 40,
            lambda: self._users.LookupUser(itself, metadata=root): 20,
            lambda: self._users.ListUsers(page, metadata=root): 12,
            lambda: self.token(email): 8,
            lambda: self._users.CreateUser(new, metadata=root): 4,
            lambda: self.token(email, "not the right password"): 3,
            lambda: self._users.LookupUser(nobody, metadata=root): 3,
            lambda: self._users.ListUsers(page, metadata=own): 2,
        }
        (call,) = self._dice.choices(list(weights), list(weights.values()))
        await call()


async def main(address: str, seconds: float) -> None:
    """Call for so long."""
    admin = os.environ["ADMIN"].split(":", 1)
    async with grpc.aio.insecure_channel(address) as channel:
        tasks = [asyncio.create_task(Caller(channel).run(admin)) for _ in range(CALLERS)]
        tasks += [asyncio.create_task(Caller(channel).watch(admin)) for _ in range(2)]
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        for end in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(end, asyncio.CancelledError):
                raise SystemExit(f"a caller ended early: {end!r}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
