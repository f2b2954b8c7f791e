"""Tokens looked at and revoked for others: RFC 7662 and RFC 7009 (E11)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import jwt
import pytest
from gatelodge.auth.v1 import auth_pb2, tokens_pb2
from gatelodge.users.v1 import users_pb2
from tests.app.client import Client, Login, failure
from tests.app.test_revocation import _refused, accepted, until

if TYPE_CHECKING:
    from tests.app.conftest import SettingsFor

    from service.app import App

DEAD = tokens_pb2.TokenIntrospection()


@pytest.fixture
async def root(client: Client) -> Login:
    return await client.administrator()


async def look(client: Client, who: Login, token: str) -> tokens_pb2.TokenIntrospection:
    request = tokens_pb2.IntrospectTokenRequest(token=token)
    return (await client.tokens.IntrospectToken(request, metadata=who.metadata)).introspection


async def revoke(client: Client, who: Login, token: str, **fields: Any) -> tokens_pb2.RevokeTokenResponse:
    request = tokens_pb2.RevokeTokenRequest(token=token, **fields)
    return await client.tokens.RevokeToken(request, metadata=who.metadata)


async def ends(client: Client, user: Login) -> list[tuple[str, str]]:
    """Return what is on the record about the ends of the user's sessions: their ids and why."""
    rows = await client.sql(
        "SELECT payload FROM events WHERE subject = %s::uuid AND type = 'session.revoked' ORDER BY id", user.user_id
    )
    return [(payload["session_id"], payload["reason"]) for (payload,) in rows]


async def dead(client: Client, who: Login, token: str) -> bool:
    return await look(client, who, token) == DEAD


# --- introspection ---------------------------------------------------------------------------------------------------


async def test_a_good_access_token_is_told_with_all_it_says(client: Client, root: Login) -> None:
    said = jwt.decode(root.token, options={"verify_signature": False})
    told = await look(client, root, root.token)
    assert told.active
    assert told.token_type == "access_token"
    assert {name: getattr(told, name) for name in ("iss", "aud", "sub", "client_id", "jti", "sid", "ver")} == {
        name: said[name] for name in ("iss", "aud", "sub", "client_id", "jti", "sid", "ver")
    }
    assert (told.exp.seconds, told.iat.seconds, told.nbf.seconds) == (said["exp"], said["iat"], said["nbf"])
    assert list(told.roles) == said["roles"] == ["admin"]


async def test_a_good_refresh_token_is_told_too_and_no_longer_when_it_was_used(client: Client, root: Login) -> None:
    ada = await client.user()
    told = await look(client, root, ada.refresh_token)
    assert (told.active, told.token_type) == (True, "refresh_token")
    assert (told.sub, told.sid, told.client_id) == (ada.user_id, ada.session_id, "gatelodge")
    assert told.exp.seconds - told.iat.seconds == 7 * 86_400
    assert not told.jti
    assert not told.HasField("nbf")
    successor = (await client.refresh(ada.refresh_token)).refresh_token
    assert await look(client, root, ada.refresh_token) == DEAD
    assert (await look(client, root, successor)).active


BAD = {
    "garbage": "garbage",
    "a blank": " ",
    "too long": "a" * 100_000,
    "too long for a refresh token": "glr_" + "A" * 100_000,
    "the prefix alone": "glr_",
    "a refresh token's form": "glr_" + "A" * 112,
    "three dots": "...",
    "not ASCII": "é" * 50,
    "none": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJyb290In0.",
    "a line break": "\n",
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_token_is_dead_and_nothing_else(client: Client, root: Login, name: str) -> None:
    assert await look(client, root, BAD[name]) == DEAD
    assert await revoke(client, root, BAD[name]) == tokens_pb2.RevokeTokenResponse()


async def test_dead_tokens_of_every_kind_are_dead_and_nothing_else(client: Client, root: Login) -> None:
    gone, disabled = await client.user(), await client.user("bob@example.com")
    await client.auth.Logout(auth_pb2.LogoutRequest(), metadata=gone.metadata)
    await client.users.DisableUser(users_pb2.DisableUserRequest(user_id=disabled.user_id), metadata=root.metadata)
    for user in (gone, disabled):
        await until(lambda user=user: dead(client, root, user.token), within=1)  # type: ignore[misc]
        assert await look(client, root, user.refresh_token) == DEAD
    idle, expired = await client.login("root@example.com"), await client.login("root@example.com")
    await client.sql(
        "UPDATE sessions SET last_use_time = now() - interval '7 days' WHERE id = %s::uuid", idle.session_id
    )
    await client.sql("UPDATE sessions SET expire_time = now() WHERE id = %s::uuid", expired.session_id)
    assert await look(client, root, idle.refresh_token) == DEAD
    assert await look(client, root, expired.refresh_token) == DEAD


async def test_a_batch_is_answered_in_its_order(client: Client, root: Login) -> None:
    ada = await client.user()
    tokens = [ada.token, "garbage", ada.refresh_token, "", "a" * 50_000]
    request = tokens_pb2.BatchIntrospectTokensRequest(tokens=tokens)
    answer = await client.tokens.BatchIntrospectTokens(request, metadata=root.metadata)
    assert [told.token_type for told in answer.introspections] == ["access_token", "", "refresh_token", "", ""]
    assert [told == DEAD for told in answer.introspections] == [False, True, False, True, True]
    for count in (0, 101):
        request = tokens_pb2.BatchIntrospectTokensRequest(tokens=["x"] * count)
        refused = await failure(client.tokens.BatchIntrospectTokens(request, metadata=root.metadata))
        assert refused.reason == "INVALID_FIELDS"


async def test_only_who_may_can_look(client: Client) -> None:
    ada = await client.user()
    request = tokens_pb2.IntrospectTokenRequest(token=ada.token)
    refused = await failure(client.tokens.IntrospectToken(request, metadata=ada.metadata))
    assert refused.reason == "PERMISSION_MISSING"
    assert (await failure(client.tokens.IntrospectToken(request))).reason == "CREDENTIALS_MISSING"
    missing = tokens_pb2.RevokeTokenRequest(token=ada.token)
    assert (await failure(client.tokens.RevokeToken(missing))).reason == "CREDENTIALS_MISSING"


# --- revocation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["access", "refresh", "used refresh"])
async def test_whoever_holds_a_token_can_end_its_session(client: Client, root: Login, kind: str) -> None:
    ada = await client.user()
    bob = await client.user("bob@example.com")
    if kind == "used refresh":
        await client.refresh(ada.refresh_token)
    await revoke(client, bob, ada.token if kind == "access" else ada.refresh_token)
    await until(lambda: _refused(client, ada), within=1)
    assert await ends(client, ada) == [(ada.session_id, "revoked")]
    assert await look(client, root, ada.refresh_token) == DEAD
    assert await accepted(client, bob)


async def test_what_is_dead_already_stays_dead_and_is_answered_alike(client: Client, root: Login) -> None:
    ada = await client.user()
    await revoke(client, root, ada.token)
    await until(lambda: _refused(client, ada), within=1)
    for token in (ada.token, ada.refresh_token):
        assert await revoke(client, root, token) == tokens_pb2.RevokeTokenResponse()
    assert len(await ends(client, ada)) == 1


async def test_a_revocation_can_be_repeated_under_its_id(client: Client, root: Login) -> None:
    ada = await client.user()
    request_id = "0197a4e0-0000-7000-8000-000000000001"
    for _ in range(2):
        assert await revoke(client, root, ada.token, request_id=request_id) == tokens_pb2.RevokeTokenResponse()
    await asyncio.sleep(0.3)
    assert await revoke(client, root, ada.token, request_id=request_id) == tokens_pb2.RevokeTokenResponse()
    assert len(await ends(client, ada)) == 1


async def test_one_may_revoke_the_token_one_calls_with(client: Client) -> None:
    ada = await client.user()
    await revoke(client, ada, ada.token)
    await until(lambda: _refused(client, ada), within=1)


async def test_tokens_looked_at_reach_no_log(
    client: Client, root: Login, app: App, settings_for: SettingsFor, capfd: pytest.CaptureFixture[str]
) -> None:
    del app, settings_for
    ada = await client.user()
    await look(client, root, ada.token)
    await look(client, root, ada.refresh_token)
    call = client.tokens.IntrospectToken(tokens_pb2.IntrospectTokenRequest(token=""), metadata=root.metadata)
    assert (await failure(call)).code is grpc.StatusCode.INVALID_ARGUMENT
    await revoke(client, root, ada.refresh_token)
    out = "".join(capfd.readouterr())
    assert all(token not in out for token in (ada.token, ada.refresh_token, root.token))
