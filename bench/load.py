"""A steady load of calls on an address, and what became of them."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc.aio
from gatelodge.auth.v1 import auth_pb2
from gatelodge.users.v1 import users_pb2
from tests.app.client import PASSWORD, Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

CHANNELS = 4
EMAIL = "ada@example.com"
VISITOR = "visitor@example.com"
"""Logs in so often that the oldest sessions end: nobody else may."""


@dataclass
class Load:
    """What was called, what failed and how long it took, so far."""

    calls: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Return the numbers."""
        ordered = sorted(self.seconds)
        p99 = ordered[int(len(ordered) * 0.99)] if ordered else 0.0
        return {
            "calls": self.calls,
            "failures": self.failures.total(),
            "failed": dict(self.failures),
            "p99_ms": round(p99 * 1000, 1),
        }

    async def one(self, name: str, call: Callable[[], Awaitable[object]]) -> None:
        """Make one call."""
        self.calls += 1
        start = time.monotonic()
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            self.failures[f"{name}: {error.code().name} {error.details()}"] += 1
        self.seconds.append(time.monotonic() - start)


@asynccontextmanager
async def loading(address: str, database_url: str, rate: float) -> AsyncIterator[Load]:
    """Make `rate` calls a second, from four channels and however long they take, until the block is left.

    Callers retry nothing: what fails, they have lost.
    """
    load, clients = Load(), [Client(address, database_url) for _ in range(CHANNELS)]
    calls = await _calls(clients)
    stop = asyncio.Event()
    caller = asyncio.create_task(_call_until(stop, load, itertools.cycle(calls), rate))
    try:
        yield load
    finally:
        stop.set()
        await caller
        for client in clients:
            await client.channel.close()


async def _call_until(
    stop: asyncio.Event, load: Load, calls: itertools.cycle[tuple[str, Callable[[], Awaitable[object]]]], rate: float
) -> None:
    running: set[asyncio.Task[None]] = set()
    due = time.monotonic()
    while not stop.is_set():
        name, call = next(calls)
        task = asyncio.create_task(load.one(name, call))
        running.add(task)
        task.add_done_callback(running.discard)
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    await asyncio.gather(*running)


async def _calls(clients: list[Client]) -> list[tuple[str, Callable[[], Awaitable[object]]]]:
    """Return the mix: mostly reads, some logins, some changes; a fifth of them writes."""
    root = await clients[0].administrator()
    ada = await clients[0].user(EMAIL)
    await clients[0].register(VISITOR)
    them = itertools.cycle(clients)

    def get_me() -> Awaitable[object]:
        return next(them).auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata, timeout=10)

    def get_user() -> Awaitable[object]:
        request = users_pb2.GetUserRequest(user_id=ada.user_id)
        return next(them).users.GetUser(request, metadata=root.metadata, timeout=10)

    def login() -> Awaitable[object]:
        return next(them).auth.Login(auth_pb2.LoginRequest(email=VISITOR, password=PASSWORD), timeout=10)

    def list_users() -> Awaitable[object]:
        return next(them).users.ListUsers(users_pb2.ListUsersRequest(page_size=10), metadata=root.metadata, timeout=10)

    def create_user() -> Awaitable[object]:
        request = users_pb2.CreateUserRequest(email=f"{uuid.uuid4().hex}@example.com", request_id=str(uuid.uuid4()))
        return next(them).users.CreateUser(request, metadata=root.metadata, timeout=10)

    def register() -> Awaitable[object]:
        request = auth_pb2.RegisterRequest(email=f"{uuid.uuid4().hex}@example.com", password=PASSWORD)
        return next(them).auth.Register(request, timeout=10)

    named = (get_me, get_user, login, get_me, create_user, get_user, list_users, get_me, register, get_user)
    return [(call.__name__, call) for call in named]
