"""What the tests call the service with: stubs on a real channel, and the shortcuts that many of them take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio
import psycopg
from gatelodge.access.v1 import roles_pb2_grpc
from gatelodge.auth.v1 import (
    auth_pb2,
    auth_pb2_grpc,
    keys_pb2_grpc,
    revocations_pb2_grpc,
    sessions_pb2_grpc,
    tokens_pb2_grpc,
)
from gatelodge.events.v1 import events_pb2_grpc
from gatelodge.info.v1 import info_pb2_grpc
from gatelodge.users.v1 import users_pb2_grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.any_pb2 import Any as AnyMessage

A_SECOND = 1.0
"""In which what ends at one replica is promised to end at all (E7, E10)."""
PASSWORD = "correct horse battery staple"
DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.RequestInfo,
    error_details_pb2.PreconditionFailure,
)


class Client:
    """All stubs on one channel, in the clear unless given."""

    def __init__(self, address: str, database_url: str, channel: grpc.aio.Channel | None = None) -> None:
        self.address = address
        self.database_url = database_url
        self.channel = channel or grpc.aio.insecure_channel(address, options=[("grpc.max_send_message_length", -1)])
        self.auth: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(self.channel)
        self.sessions: sessions_pb2_grpc.SessionServiceAsyncStub = sessions_pb2_grpc.SessionServiceStub(self.channel)
        self.tokens: tokens_pb2_grpc.TokenServiceAsyncStub = tokens_pb2_grpc.TokenServiceStub(self.channel)
        self.keys: keys_pb2_grpc.SigningKeyServiceAsyncStub = keys_pb2_grpc.SigningKeyServiceStub(self.channel)
        self.revocations: revocations_pb2_grpc.RevocationServiceAsyncStub = revocations_pb2_grpc.RevocationServiceStub(
            self.channel
        )
        self.users: users_pb2_grpc.UserServiceAsyncStub = users_pb2_grpc.UserServiceStub(self.channel)
        self.roles: roles_pb2_grpc.RoleServiceAsyncStub = roles_pb2_grpc.RoleServiceStub(self.channel)
        self.events: events_pb2_grpc.EventServiceAsyncStub = events_pb2_grpc.EventServiceStub(self.channel)
        self.info: info_pb2_grpc.InfoServiceAsyncStub = info_pb2_grpc.InfoServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

        self._entered = False
        self._idle: list[psycopg.AsyncConnection] = []

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._entered = False
        await self.channel.close()
        for conn in self._idle:
            await conn.close()
        self._idle.clear()

    async def register(self, email: str, password: str = PASSWORD) -> None:
        await self.auth.Register(auth_pb2.RegisterRequest(email=email, password=password))

    async def login(self, email: str, password: str = PASSWORD) -> Login:
        answer = await self.auth.Login(auth_pb2.LoginRequest(email=email, password=password))
        return Login(answer.user_id, answer.access_token, answer.refresh_token, answer.session_id)

    async def refresh(self, token: str) -> auth_pb2.RefreshResponse:
        return await self.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=token))

    async def user(self, email: str = "ada@example.com") -> Login:
        """Register and log in."""
        await self.register(email)
        return await self.login(email)

    async def administrator(self, email: str = "root@example.com") -> Login:
        """Register, make an administrator of it behind the service's back, and log in."""
        await self.register(email)
        await self.sql("UPDATE users SET roles = '{admin}' WHERE email = %s", email)
        return await self.login(email)

    async def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run SQL beside the service and return the rows, if any. Several at once have a connection each."""
        conn = self._idle.pop() if self._idle else None
        if conn is None or conn.closed:
            conn = await psycopg.AsyncConnection.connect(self.database_url, autocommit=True, prepare_threshold=None)
        keep = False
        try:
            cursor = await conn.execute(statement.encode(), values)
            rows = await cursor.fetchall() if cursor.description else []
            keep = self._entered
        finally:
            if keep:
                self._idle.append(conn)
            else:
                await conn.close()
        return rows


@dataclass(frozen=True)
class Login:
    user_id: str
    token: str
    refresh_token: str = ""
    session_id: str = ""

    @property
    def metadata(self) -> Sequence[tuple[str, str]]:
        return (("authorization", f"Bearer {self.token}"),)


@dataclass
class Failure:
    """A failed call, taken apart."""

    code: grpc.StatusCode
    message: str
    info: error_details_pb2.ErrorInfo
    details: dict[str, Any]
    metadata: dict[str, str | bytes]

    @property
    def reason(self) -> str:
        return str(self.info.reason)

    @property
    def fields(self) -> dict[str, str]:
        violations = self.details["BadRequest"].field_violations
        return {violation.field: violation.description for violation in violations}


def taken_apart(error: grpc.aio.AioRpcError) -> Failure:
    """Return what is in a failed call; asserts that it carries what every error of ours does."""
    metadata: dict[str, str | bytes] = dict(error.trailing_metadata() or ())
    raw = metadata.get("grpc-status-details-bin")
    assert isinstance(raw, bytes), f"no details: {error.code()} {error.details()}"
    status = status_pb2.Status.FromString(raw)
    details = {
        kind.__name__: _unpacked(any_, kind) for any_ in status.details for kind in DETAILS if any_.Is(kind.DESCRIPTOR)
    }
    assert status.code == error.code().value[0]
    assert details["ErrorInfo"].domain == "gatelodge"
    assert details["RequestInfo"].request_id == metadata["x-request-id"]
    return Failure(error.code(), error.details() or "", details["ErrorInfo"], details, metadata)


def _unpacked(packed: AnyMessage, kind: type[Any]) -> Any:
    message = kind()
    packed.Unpack(message)
    return message


async def failure(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> Failure:
    """Await a call that must fail, and return how."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return taken_apart(error)
    raise AssertionError(f"the call succeeded: {type(answer).__name__}")
