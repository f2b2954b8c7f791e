"""Every change of an account is on the record, in its own transaction, and never without it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from gatelodge.users.v1 import users_pb2
from tests.app.client import Client, failure


async def recorded(client: Client, user_id: str) -> list[tuple[str, dict[str, Any]]]:
    rows = await client.sql("SELECT type, payload FROM events WHERE subject = %s::uuid ORDER BY id", user_id)
    return [(kind, payload) for kind, payload in rows]


async def test_the_whole_life_of_an_account_is_on_the_record(client: Client) -> None:
    root = await client.administrator()
    ada = await client.user()
    user_id, users = ada.user_id, client.users
    change = users_pb2.UpdateUserRequest(
        user_id=user_id, user=users_pb2.User(display_name="Ada", email="a@example.com")
    )
    await users.UpdateUser(change, metadata=root.metadata)
    await users.UpdateUser(change, metadata=root.metadata)
    await users.DisableUser(users_pb2.DisableUserRequest(user_id=user_id, reason="on leave"), metadata=root.metadata)
    await users.EnableUser(users_pb2.EnableUserRequest(user_id=user_id), metadata=root.metadata)
    await users.DeleteUser(users_pb2.DeleteUserRequest(user_id=user_id), metadata=root.metadata)
    await users.UndeleteUser(users_pb2.UndeleteUserRequest(user_id=user_id), metadata=root.metadata)
    await users.EraseUser(users_pb2.EraseUserRequest(user_id=user_id), metadata=root.metadata)
    events = await recorded(client, user_id)
    assert [kind for kind, _ in events] == [
        "user.registered",
        "session.started",
        "user.updated",
        "user.disabled",
        "user.tokens_revoked",
        "user.enabled",
        "user.deleted",
        "user.tokens_revoked",
        "user.undeleted",
        "user.tokens_revoked",
        "user.erased",
    ]
    assert dict(events)["user.updated"] == {"fields": ["email", "display_name"]}
    assert "example.com" not in str(events)
    actors = await client.sql("SELECT DISTINCT actor::text FROM events WHERE subject = %s::uuid", user_id)
    assert {actor for (actor,) in actors} == {None, root.user_id}


@pytest.mark.parametrize("call", ["UpdateUser", "DisableUser", "EnableUser", "DeleteUser", "EraseUser"])
async def test_a_change_whose_event_cannot_be_written_is_not_made(client: Client, call: str) -> None:
    root, ada = await client.administrator(), await client.user()
    if call == "EnableUser":
        await client.users.DisableUser(users_pb2.DisableUserRequest(user_id=ada.user_id), metadata=root.metadata)
    await client.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''full''; END'"
    )
    await client.sql("CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()")
    before = await client.sql("SELECT * FROM users ORDER BY id")
    extra = {"user": users_pb2.User(display_name="Ada")} if call == "UpdateUser" else {}
    request = getattr(users_pb2, f"{call}Request")(user_id=ada.user_id, **extra)
    failed = await failure(getattr(client.users, call)(request, metadata=root.metadata))
    assert failed.code is grpc.StatusCode.INTERNAL
    assert await client.sql("SELECT * FROM users ORDER BY id") == before
