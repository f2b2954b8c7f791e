"""Passwords that are changed by their owners, set by operators, and refused by the policy."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
from gatelodge.auth.v1 import auth_pb2
from gatelodge.users.v1 import users_pb2
from tests.app.client import PASSWORD, Client, failure

ADA = "ada@example.com"
NEW = "an utterly different phrase"
WEAK = "password12345678"


def change(current: str = PASSWORD, new: str = NEW, request_id: str = "") -> auth_pb2.ChangePasswordRequest:
    return auth_pb2.ChangePasswordRequest(current_password=current, new_password=new, request_id=request_id)


def login(password: str = PASSWORD, new: str = "", email: str = ADA) -> auth_pb2.LoginRequest:
    return auth_pb2.LoginRequest(email=email, password=password, new_password=new)


async def reason(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> str:
    return (await failure(call)).reason


async def test_a_changed_password_opens_and_the_old_one_does_not(client: Client) -> None:
    ada = await client.user(ADA)
    await client.auth.ChangePassword(change(), metadata=ada.metadata)
    assert await reason(client.auth.Login(login())) == "LOGIN_FAILED"
    await client.auth.Login(login(NEW))


async def test_a_change_ends_the_other_sessions_and_keeps_its_own(client: Client) -> None:
    await client.register(ADA)
    own, other = [await client.auth.Login(login()) for _ in range(2)]
    metadata = (("authorization", f"Bearer {own.access_token}"),)
    await client.auth.ChangePassword(change(), metadata=metadata)
    ended = auth_pb2.RefreshRequest(refresh_token=other.refresh_token)
    assert await reason(client.auth.Refresh(ended)) == "REFRESH_TOKEN_INVALID"
    await client.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=own.refresh_token))
    events = await client.sql(
        "SELECT type, payload FROM events WHERE type IN ('session.revoked', 'user.password_set') ORDER BY type"
    )
    assert events == [
        ("session.revoked", {"session_id": other.session_id, "reason": "password_changed"}),
        ("user.password_set", {"must_change": False}),
    ]


async def test_a_wrong_current_password_changes_nothing(client: Client) -> None:
    ada = await client.user(ADA)
    refused = await failure(client.auth.ChangePassword(change("not the right password"), metadata=ada.metadata))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PASSWORD_WRONG")
    await client.auth.Login(login())


async def test_a_user_without_a_password_cannot_change_it(client: Client) -> None:
    ada = await client.user(ADA)
    await client.sql("DELETE FROM passwords")
    assert await reason(client.auth.ChangePassword(change(), metadata=ada.metadata)) == "PASSWORD_WRONG"


async def test_a_stranger_cannot_change_a_password(client: Client) -> None:
    assert await reason(client.auth.ChangePassword(change())) == "CREDENTIALS_MISSING"


@pytest.mark.parametrize(
    ("new", "why"),
    [("short", "at least 15"), (WEAK, "too easy"), ("ada@example.com 2024", "too easy"), (PASSWORD, "another one")],
)
async def test_a_new_password_keeps_to_the_policy_and_is_new(client: Client, new: str, why: str) -> None:
    ada = await client.user(ADA)
    refused = await failure(client.auth.ChangePassword(change(new=new), metadata=ada.metadata))
    assert (refused.reason, set(refused.fields)) == ("INVALID_FIELDS", {"new_password"})
    assert why in refused.fields["new_password"]


async def test_a_repeated_change_is_answered_as_the_first_time(client: Client) -> None:
    ada = await client.user(ADA)
    request = change(request_id=str(uuid.uuid4()))
    for _ in range(3):
        await client.auth.ChangePassword(request, metadata=ada.metadata)
    assert await client.sql("SELECT count(*) FROM events WHERE type = 'user.password_set'") == [(1,)]


async def test_of_two_changes_at_once_one_wins(client: Client) -> None:
    ada = await client.user(ADA)
    changes = [client.auth.ChangePassword(change(new=f"{NEW} number {n}"), metadata=ada.metadata) for n in range(4)]
    results = await asyncio.gather(*changes, return_exceptions=True)
    assert sum(isinstance(result, auth_pb2.ChangePasswordResponse) for result in results) == 1


async def set_password(client: Client, user_id: str, *, must_change: bool = False) -> None:
    operator = await client.administrator()
    request = users_pb2.SetPasswordRequest(user_id=user_id, password=NEW, must_change=must_change)
    await client.users.SetPassword(request, metadata=operator.metadata)


async def test_an_operator_sets_a_password_and_everything_of_the_user_ends(client: Client) -> None:
    await client.register(ADA)
    before = await client.auth.Login(login())
    await set_password(client, before.user_id)
    assert await reason(client.auth.Login(login())) == "LOGIN_FAILED"
    refresh = auth_pb2.RefreshRequest(refresh_token=before.refresh_token)
    assert await reason(client.auth.Refresh(refresh)) == "REFRESH_TOKEN_INVALID"
    await client.auth.Login(login(NEW))
    events = await client.sql("SELECT type, payload FROM events WHERE type ~ 'tokens_revoked|password_set'")
    assert ("user.tokens_revoked", {"version": 2, "reason": "password_set"}) in events
    assert ("user.password_set", {"must_change": False}) in events


async def test_a_user_made_without_a_password_gets_one(client: Client) -> None:
    root = await client.administrator()
    made = await client.users.CreateUser(users_pb2.CreateUserRequest(email=ADA), metadata=root.metadata)
    request = users_pb2.SetPasswordRequest(user_id=made.user.id, password=NEW)
    await client.users.SetPassword(request, metadata=root.metadata)
    await client.auth.Login(login(NEW))


async def test_who_may_set_passwords_and_whose(client: Client) -> None:
    root = await client.administrator()
    ada, bob = await client.user(ADA), await client.user("bob@example.com")
    request = users_pb2.SetPasswordRequest(user_id=bob.user_id, password=NEW)
    assert await reason(client.users.SetPassword(request, metadata=ada.metadata)) == "PERMISSION_MISSING"
    request = users_pb2.SetPasswordRequest(user_id=str(uuid.uuid4()), password=NEW)
    assert await reason(client.users.SetPassword(request, metadata=root.metadata)) == "USER_NOT_FOUND"
    await client.sql("UPDATE users SET delete_time = now() WHERE email = 'bob@example.com'")
    request = users_pb2.SetPasswordRequest(user_id=bob.user_id, password=NEW)
    assert await reason(client.users.SetPassword(request, metadata=root.metadata)) == "USER_NOT_FOUND"


async def test_nobody_sets_their_own_password_without_the_old_one(client: Client) -> None:
    root = await client.administrator()
    request = users_pb2.SetPasswordRequest(user_id=root.user_id.upper(), password=NEW)
    refused = await failure(client.users.SetPassword(request, metadata=root.metadata))
    assert (refused.reason, set(refused.fields)) == ("INVALID_FIELDS", {"user_id"})


async def test_a_set_password_keeps_to_the_policy(client: Client) -> None:
    root = await client.administrator()
    ada = await client.user(ADA)
    request = users_pb2.SetPasswordRequest(user_id=ada.user_id, password=WEAK)
    refused = await failure(client.users.SetPassword(request, metadata=root.metadata))
    assert set(refused.fields) == {"password"}


async def test_a_password_to_be_changed_opens_nothing_until_it_is(client: Client) -> None:
    ada = await client.user(ADA)
    await set_password(client, ada.user_id, must_change=True)
    refused = await failure(client.auth.Login(login(NEW)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PASSWORD_CHANGE_REQUIRED")
    for new in ("short", WEAK, NEW):
        refused = await failure(client.auth.Login(login(NEW, new)))
        assert (refused.reason, set(refused.fields)) == ("INVALID_FIELDS", {"new_password"})
    living = "SELECT 1 FROM sessions WHERE revoke_time IS NULL AND user_id = %s"
    assert await client.sql(living, ada.user_id) == []
    mine = "nobody but me knows this one"
    answer = await client.auth.Login(login(NEW, mine))
    assert answer.refresh_token
    assert await reason(client.auth.Login(login(NEW))) == "LOGIN_FAILED"
    await client.auth.Login(login(mine))


async def test_of_two_logins_that_replace_a_password_at_once_one_wins(client: Client) -> None:
    ada = await client.user(ADA)
    await set_password(client, ada.user_id, must_change=True)
    results = await asyncio.gather(
        *(client.auth.Login(login(NEW, f"nobody but me knows number {n}")) for n in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, auth_pb2.LoginResponse) for result in results) == 1


async def test_a_new_password_says_nothing_until_the_old_one_is_right(client: Client) -> None:
    ada = await client.user(ADA)
    for new in (WEAK, "short", NEW):
        for email in (ADA, "nobody@example.com"):
            assert await reason(client.auth.Login(login("wrong password", new, email))) == "LOGIN_FAILED"
    refused = await failure(client.auth.Login(login(PASSWORD, NEW)))
    assert (refused.reason, set(refused.fields)) == ("INVALID_FIELDS", {"new_password"})
    await client.sql("UPDATE passwords SET must_change = true")
    await client.sql("UPDATE users SET state = 'disabled' WHERE id = %s", ada.user_id)
    assert await reason(client.auth.Login(login())) == "LOGIN_FAILED"


async def test_operators_are_told_that_a_new_password_is_due(client: Client) -> None:
    ada = await client.user(ADA)
    await set_password(client, ada.user_id, must_change=True)
    root = await client.login("root@example.com")
    told = await client.users.ExplainLogin(users_pb2.ExplainLoginRequest(email=ADA), metadata=root.metadata)
    assert list(told.obstacles) == [users_pb2.ExplainLoginResponse.OBSTACLE_PASSWORD_CHANGE_REQUIRED]


async def test_every_way_to_a_new_password_refuses_a_weak_one(client: Client) -> None:
    root = await client.administrator()
    for weak in (WEAK, "eve@example.com 1234", "Eve Polastri 1970"):
        about: dict[str, Any] = {"email": "eve@example.com", "display_name": "Eve Polastri", "password": weak}
        registered = await failure(client.auth.Register(auth_pb2.RegisterRequest(**about)))
        created = await failure(client.users.CreateUser(users_pb2.CreateUserRequest(**about), metadata=root.metadata))
        for refused in (registered, created):
            assert "too easy to guess" in refused.fields["password"]
            assert weak not in str(refused)


async def test_what_register_says_of_a_password_does_not_depend_on_who_has_an_account(client: Client) -> None:
    await client.register("eve@example.com")
    told = [
        (await failure(client.register(email, WEAK))).fields  # type: ignore[arg-type]  # awaitable all the same
        for email in ("eve@example.com", "new@example.com")
    ]
    assert told[0] == told[1]
