"""Whom a caller may overpower, and who may go."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from service.access import Principal
from service.errors import CredentialsInvalid, LastAdministrator, PermissionMissing
from service.roles.guard import Guard
from service.users.model import UserId

if TYPE_CHECKING:
    from service.db import Connection

GUARD = Guard()


async def add(conn: Connection, *roles: str, state: str = "active", password: bool = True) -> UserId:
    user_id = uuid4()
    await conn.execute(
        "INSERT INTO users (id, email, email_canonical, roles, state) VALUES (%s, %s, %s, %s, %s)",
        (user_id, f"{user_id}@example.com", f"{user_id}@example.com", list(roles), state),
    )
    if password:
        await conn.execute("INSERT INTO passwords (user_id, hash) VALUES (%s, '$argon2id$x')", (user_id,))
    return UserId(user_id)


def caller(*permissions: str, roles: tuple[str, ...] = (), subject: UUID | None = None) -> Principal:
    return Principal(str(subject or uuid4()), roles=frozenset(roles), permissions=frozenset(permissions))


@pytest.fixture
async def desk(conn: Connection) -> UserId:
    await conn.execute("INSERT INTO roles (name, permissions) VALUES ('desk', '{users.read,users.disable}')")
    return await add(conn, "desk", "undefined")


async def test_who_holds_as_much_may_act_on_a_user(conn: Connection, desk: UserId) -> None:
    await GUARD.may_act_on(conn, caller("users.disable", "users.read", "events.read"), desk)
    await GUARD.may_act_on(conn, caller(roles=("admin",)), desk)
    await GUARD.may_act_on(conn, caller(), await add(conn))


async def test_who_holds_less_is_told_the_first_permission_that_is_missing(conn: Connection, desk: UserId) -> None:
    for holds, lacks in (("users.read", "users.disable"), ("users.disable", "users.read"), ("", "users.disable")):
        with pytest.raises(PermissionMissing) as caught:
            await GUARD.may_act_on(conn, caller(holds), desk)
        assert caught.value.metadata["permission"] == lacks


async def test_on_an_administrator_acts_an_administrator_only(conn: Connection) -> None:
    root = await add(conn, "admin")
    with pytest.raises(PermissionMissing) as caught:
        await GUARD.may_act_on(conn, caller("users.read", "users.disable"), root)
    assert caught.value.metadata["permission"] == "admin"
    await GUARD.may_act_on(conn, caller(roles=("admin",)), root)


async def test_who_may_no_longer_log_in_does_nothing_to_themselves(conn: Connection) -> None:
    shut_out = await add(conn, "admin", state="disabled")
    with pytest.raises(CredentialsInvalid):
        await GUARD.may_act_on(conn, caller(roles=("admin",), subject=shut_out.value), shut_out)
    await GUARD.may_act_on(conn, caller(roles=("admin",)), shut_out)


@pytest.mark.parametrize(
    "other",
    [
        {"state": "disabled"},
        {"password": False},
        {"deleted": True},
        {"roles": ("desk",)},
    ],
    ids=str,
)
async def test_the_last_who_can_log_in_as_admin_stays(conn: Connection, other: dict[str, object]) -> None:
    last = await add(conn, "admin")
    roles = other.pop("roles", ("admin",))
    deleted = other.pop("deleted", False)
    second = await add(conn, *roles, **other)  # type: ignore[misc, arg-type]  # what the parameters say
    if deleted:
        await conn.execute("UPDATE users SET delete_time = now() WHERE id = %s", (second.value,))
    with pytest.raises(LastAdministrator):
        await GUARD.keep_an_administrator(conn, last)
    await GUARD.keep_an_administrator(conn, second)  # who does not count may go
    await add(conn, "admin", "desk")
    await GUARD.keep_an_administrator(conn, last)
