"""A tour of the API against a running service: ``make run`` in one terminal, ``make demo`` in another.

Each step prints the call, what came back, and what to notice. It makes users and a role of its own and
leaves them there.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from gatelodge.access.v1 import roles_pb2, roles_pb2_grpc
from gatelodge.auth.v1 import auth_pb2, auth_pb2_grpc, sessions_pb2, sessions_pb2_grpc, tokens_pb2, tokens_pb2_grpc
from gatelodge.events.v1 import events_pb2, events_pb2_grpc
from gatelodge.info.v1 import info_pb2, info_pb2_grpc
from gatelodge.users.v1 import users_pb2, users_pb2_grpc
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

PASSWORD = "correct horse battery staple"
SECRETS = ("password", "accessToken", "refreshToken", "deviceToken", "token")
SECONDS_TO_BE_KNOWN = 1
"""What is granted or revoked is in force everywhere within."""
DETAILS = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RequestInfo)


async def tour(address: str) -> None:
    name = secrets.token_hex(4)
    email, admin = f"ada.{name}@example.com", f"root.{name}@example.com"
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        auth: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(channel)
        tokens: tokens_pb2_grpc.TokenServiceAsyncStub = tokens_pb2_grpc.TokenServiceStub(channel)
        users: users_pb2_grpc.UserServiceAsyncStub = users_pb2_grpc.UserServiceStub(channel)
        info: info_pb2_grpc.InfoServiceAsyncStub = info_pb2_grpc.InfoServiceStub(channel)

        heading("Is it there? The gRPC health protocol, as Kubernetes speaks it")
        await show(health.Check, health_pb2.HealthCheckRequest(service="readiness"))

        heading("Register, twice: the second answer is the same, though the address is taken by then")
        for typed in (email, email.upper()):
            await show(auth.Register, auth_pb2.RegisterRequest(email=typed, password=PASSWORD, display_name="Ada"))

        heading("What is wrong is said field by field, all at once")
        await show(auth.Register, auth_pb2.RegisterRequest(email="nobody", password="short"))

        heading("A wrong password: the same words as for an unknown address")
        await show(auth.Login, auth_pb2.LoginRequest(email=email, password="a wrong password, quite"))

        heading("Log in: the token is a JWT that says who, for whom and until when")
        logged_in = await show(auth.Login, auth_pb2.LoginRequest(email=email, password=PASSWORD, device_label="laptop"))
        ada = bearer(logged_in.access_token)
        print("   claims:", json.dumps(claims(logged_in.access_token), indent=2).replace("\n", "\n   "))

        heading("The keys to verify it offline")
        await show(tokens.GetJwks, tokens_pb2.GetJwksRequest())

        heading("Who am I?")
        await show(auth.GetMe, auth_pb2.GetMeRequest(), ada)

        heading("Users see themselves; for them nobody else exists, and making accounts is for others")
        await show(users.GetUser, users_pb2.GetUserRequest(user_id="01890000-0000-7000-8000-000000000000"), ada)
        await show(users.CreateUser, users_pb2.CreateUserRequest(email="bob@example.com"), ada)

        heading("An administrator, made by the command line beside the running service")
        make_administrator(admin)
        root = bearer((await show(auth.Login, auth_pb2.LoginRequest(email=admin, password=PASSWORD))).access_token)
        await show(users.CreateUser, users_pb2.CreateUserRequest(email=f"bob.{name}@bücher.example"), root)

        heading("Looked up by another spelling of the same address")
        await show(users.LookupUser, users_pb2.LookupUserRequest(email=f"BOB.{name}@xn--bcher-kva.example"), root)

        await going_on(channel, name, email, logged_in, root)

        heading("Which build answers?")
        await show(info.GetServerInfo, info_pb2.GetServerInfoRequest(), root)


async def going_on(
    channel: grpc.aio.Channel, name: str, email: str, login: auth_pb2.LoginResponse, root: Sequence[tuple[str, str]]
) -> None:
    """Tour what comes of a login: sessions, roles, the end, and what the record has of it."""
    auth: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(channel)
    sessions: sessions_pb2_grpc.SessionServiceAsyncStub = sessions_pb2_grpc.SessionServiceStub(channel)
    tokens: tokens_pb2_grpc.TokenServiceAsyncStub = tokens_pb2_grpc.TokenServiceStub(channel)
    users: users_pb2_grpc.UserServiceAsyncStub = users_pb2_grpc.UserServiceStub(channel)
    roles: roles_pb2_grpc.RoleServiceAsyncStub = roles_pb2_grpc.RoleServiceStub(channel)
    events: events_pb2_grpc.EventServiceAsyncStub = events_pb2_grpc.EventServiceStub(channel)

    heading("A token lives for minutes, the session for weeks: each refresh gives the next pair")
    refreshed = await show(auth.Refresh, auth_pb2.RefreshRequest(refresh_token=login.refresh_token))

    heading("Where Ada is logged in; RevokeSession would end one of them from another")
    ada = bearer(refreshed.access_token)
    await show(sessions.ListSessions, sessions_pb2.ListSessionsRequest(user_id=login.user_id), ada)

    heading("A role is made and granted. Ada's old token died of it, so that the next one has the role")
    support = roles_pb2.Role(name=f"support-{name}", permissions=["roles.manage", "users.read"])
    await show(roles.CreateRole, roles_pb2.CreateRoleRequest(role=support), root)
    await show(roles.GrantRole, roles_pb2.GrantRoleRequest(user_id=login.user_id, role=support.name), root)
    await asyncio.sleep(SECONDS_TO_BE_KNOWN)
    await show(auth.GetMe, auth_pb2.GetMeRequest(), ada)
    refreshed = await show(auth.Refresh, auth_pb2.RefreshRequest(refresh_token=refreshed.refresh_token))
    ada = bearer(refreshed.access_token)
    await show(users.LookupUser, users_pb2.LookupUserRequest(email=email), ada)

    heading("Nobody gives what they do not hold")
    more = roles_pb2.Role(name=f"more-{name}", permissions=["users.erase"])
    await show(roles.CreateRole, roles_pb2.CreateRoleRequest(role=more), ada)

    heading("Logged out: the token is dead on every replica, and who asks is told so")
    await show(auth.Logout, auth_pb2.LogoutRequest(), ada)
    await asyncio.sleep(SECONDS_TO_BE_KNOWN)
    await show(auth.GetMe, auth_pb2.GetMeRequest(), ada)
    await show(tokens.IntrospectToken, tokens_pb2.IntrospectTokenRequest(token=refreshed.access_token), root)

    heading("All of it is in the audit record")
    await show(events.ListEvents, events_pb2.ListEventsRequest(user_id=login.user_id, page_size=3), root)


def heading(text: str) -> None:
    print(f"\n# {text}")


async def show(call: Any, request: Message, metadata: Sequence[tuple[str, str]] = ()) -> Any:
    """Make one call and print it with its answer; a failure is an answer as well."""
    print(f"-> {type(request).__name__.removesuffix('Request')} {plain(request)}")
    try:
        answer = await call(request, metadata=metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        print(f"<- {error.code().name}: {error.details()}")
        for detail in details(error):
            print(f"   {type(detail).__name__} {plain(detail)}")
        return None
    print(f"<- {plain(answer)}")
    return answer


def plain(message: Message) -> str:
    """Return a message as JSON, secrets cut short."""
    fields = MessageToDict(message)
    for secret in SECRETS:
        if secret in fields:
            fields[secret] = f"{fields[secret][:3]}…"
    return json.dumps(fields, ensure_ascii=False)


def details(error: grpc.aio.AioRpcError) -> list[Message]:
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    packed = status_pb2.Status.FromString(raw).details
    return [kind.FromString(one.value) for one in packed for kind in DETAILS if one.Is(kind.DESCRIPTOR)]


def claims(token: str) -> Any:
    payload = token.split(".")[1]
    return json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def bearer(token: str) -> Sequence[tuple[str, str]]:
    return (("authorization", f"Bearer {token}"),)


def make_administrator(email: str) -> None:
    command = [str(Path(sys.executable).with_name("gatelodge")), "users", "create-admin", "--email", email]
    print("$", " ".join(["gatelodge", *command[1:], "--password-stdin"]))
    subprocess.run([*command, "--password-stdin"], input=PASSWORD, text=True, check=True)


if __name__ == "__main__":
    asyncio.run(tour(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"))
