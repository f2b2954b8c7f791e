"""Roles and who holds them, through the API."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
from gatelodge.access.v1 import access_pb2, roles_pb2
from gatelodge.auth.v1 import auth_pb2
from gatelodge.events.v1 import events_pb2
from gatelodge.users.v1 import users_pb2
from google.protobuf import descriptor_pool
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2
from tests.app.client import Client, Failure, Login, failure, taken_apart
from tests.app.powers import granted, let_in, make_role, person

from service.access import Kind
from service.rpc.methods import describe


@pytest.fixture
async def root(client: Client) -> Login:
    return await client.administrator()


async def get(client: Client, by: Login, name: str) -> roles_pb2.Role:
    return (await client.roles.GetRole(roles_pb2.GetRoleRequest(name=name), metadata=by.metadata)).role


def creation(name: str, *permissions: str, **fields: Any) -> roles_pb2.CreateRoleRequest:
    return roles_pb2.CreateRoleRequest(role=roles_pb2.Role(name=name, permissions=permissions), **fields)


def change(name: str, *paths: str, request_id: str = "", **values: Any) -> roles_pb2.UpdateRoleRequest:
    return roles_pb2.UpdateRoleRequest(
        role=roles_pb2.Role(name=name, **values),
        update_mask=FieldMask(paths=paths) if paths else None,
        request_id=request_id,
    )


async def update(client: Client, by: Login, name: str, *paths: str, **values: Any) -> roles_pb2.Role:
    return (await client.roles.UpdateRole(change(name, *paths, **values), metadata=by.metadata)).role


async def refused_update(client: Client, by: Login, name: str, *paths: str, **values: Any) -> Failure:
    return await failure(client.roles.UpdateRole(change(name, *paths, **values), metadata=by.metadata))


async def events(client: Client, kind: str) -> list[tuple[Any, ...]]:
    return await client.sql("SELECT subject::text, payload FROM events WHERE type = %s ORDER BY create_time", kind)


# --- definitions -----------------------------------------------------------------------------------------------------


async def test_a_role_is_made_read_changed_and_removed(client: Client, root: Login) -> None:
    made = await make_role(client, root, "desk", "users.read", "users.disable", "users.read", "billing.pay")
    assert list(made.permissions) == ["billing.pay", "users.disable", "users.read"]
    assert (made.etag, made.built_in) == ('"1"', False)
    assert await get(client, root, "desk") == made
    after = await update(
        client, root, "desk", "permissions", "description", permissions=["users.read"], description="Help", etag='"1"'
    )
    assert (list(after.permissions), after.description, after.etag) == (["users.read"], "Help", '"2"')
    assert after.update_time.ToNanoseconds() > made.update_time.ToNanoseconds()
    assert await get(client, root, "desk") == after
    await client.roles.DeleteRole(roles_pb2.DeleteRoleRequest(name="desk", etag='"2"'), metadata=root.metadata)
    gone = await failure(client.roles.GetRole(roles_pb2.GetRoleRequest(name="desk"), metadata=root.metadata))
    assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "ROLE_NOT_FOUND")
    role = {"role": "desk"}
    all_three = ["billing.pay", "users.disable", "users.read"]
    assert await events(client, "role.created") == [(None, role | {"permissions": all_three})]
    assert await events(client, "role.updated") == [(None, role | {"permissions": ["users.read"]})]
    assert await events(client, "role.deleted") == [(None, role)]


async def test_the_mask_says_what_changes_and_a_change_of_nothing_is_none(client: Client, root: Login) -> None:
    await make_role(client, root, "desk", "users.read")
    assert (await update(client, root, "desk", description="Help")).permissions == ["users.read"]
    same = await update(client, root, "desk", "description", description="Help", permissions=["events.read"])
    assert (list(same.permissions), same.etag) == (["users.read"], '"2"')
    sent_back = await client.roles.UpdateRole(roles_pb2.UpdateRoleRequest(role=same), metadata=root.metadata)
    assert sent_back.role == same
    emptied = await update(client, root, "desk", "*")
    assert (list(emptied.permissions), emptied.description) == ([], "")
    assert list((await refused_update(client, root, "desk", "colour")).fields) == ["update_mask"]
    assert len(await events(client, "role.updated")) == 2


async def test_bad_roles_are_refused_with_their_fields(client: Client, root: Login) -> None:
    for request, field in (
        (creation("Desk"), "role.name"),
        (creation(""), "role.name"),
        (creation("desk", "users"), "role.permissions[0]"),
        (creation("desk", *(f"a.b{number}" for number in range(257))), "role.permissions"),
        (roles_pb2.CreateRoleRequest(role=roles_pb2.Role(name="desk", description="\x07")), "role.description"),
        (creation("desk", "users.raed"), "role.permissions"),
    ):
        refused = await failure(client.roles.CreateRole(request, metadata=root.metadata))
        assert (refused.reason, list(refused.fields)) == ("INVALID_FIELDS", [field])
    assert "did you mean users.read?" in refused.fields["role.permissions"]
    await make_role(client, root, "desk")
    unknown = await refused_update(client, root, "desk", permissions=["events.raed"])
    assert "did you mean events.read?" in unknown.fields["role.permissions"]


async def test_a_name_is_taken_once_also_by_two_at_once_and_admin_always(client: Client, root: Login) -> None:
    calls = (failure_or_none(client.roles.CreateRole(creation("desk"), metadata=root.metadata)) for _ in range(5))
    outcomes = await asyncio.gather(*calls)
    assert sorted(outcome.reason for outcome in outcomes if outcome) == ["ROLE_EXISTS"] * 4
    assert (await failure(client.roles.CreateRole(creation("admin"), metadata=root.metadata))).reason == "ROLE_EXISTS"


async def failure_or_none(call: Any) -> Failure | None:
    try:
        return await failure(call)
    except AssertionError:
        return None


async def test_a_name_that_somebody_holds_without_a_definition_cannot_be_given_one(client: Client, root: Login) -> None:
    ada = await client.user()
    await client.sql("UPDATE users SET roles = '{old}' WHERE id = %s::uuid", ada.user_id)
    refused = await failure(client.roles.CreateRole(creation("old", "users.read"), metadata=root.metadata))
    assert refused.reason == "ROLE_IN_USE"
    revoke = roles_pb2.RevokeRoleRequest(user_id=ada.user_id, role="old")
    assert not (await client.roles.RevokeRole(revoke, metadata=root.metadata)).roles
    await make_role(client, root, "old", "users.read")


async def test_a_rehearsal_answers_alike_and_makes_nothing(client: Client, root: Login) -> None:
    request = creation("desk", "users.read", validate_only=True)
    rehearsed = (await client.roles.CreateRole(request, metadata=root.metadata)).role
    assert (rehearsed.name, list(rehearsed.permissions)) == ("desk", ["users.read"])
    assert await client.sql("SELECT name FROM roles") == [("admin",)]
    taken = creation("admin", validate_only=True)
    assert (await failure(client.roles.CreateRole(taken, metadata=root.metadata))).reason == "ROLE_EXISTS"


async def test_the_built_in_role_cannot_be_changed_or_removed(client: Client, root: Login) -> None:
    assert (await get(client, root, "admin")).built_in
    refused = await refused_update(client, root, "admin", description="mine")
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ROLE_BUILT_IN")
    removal = roles_pb2.DeleteRoleRequest(name="admin")
    assert (await failure(client.roles.DeleteRole(removal, metadata=root.metadata))).reason == "ROLE_BUILT_IN"


async def test_a_stale_etag_and_a_role_that_is_not_there_change_nothing(client: Client, root: Login) -> None:
    await make_role(client, root, "desk")
    for request, reason in (
        (roles_pb2.DeleteRoleRequest(name="desk", etag='"9"'), "ETAG_MISMATCH"),
        (roles_pb2.DeleteRoleRequest(name="none"), "ROLE_NOT_FOUND"),
        (roles_pb2.DeleteRoleRequest(name="No Name"), "ROLE_NOT_FOUND"),
    ):
        assert (await failure(client.roles.DeleteRole(request, metadata=root.metadata))).reason == reason
    assert (await refused_update(client, root, "desk", description="x", etag='"9"')).reason == "ETAG_MISMATCH"
    assert (await refused_update(client, root, "none", description="x")).reason == "ROLE_NOT_FOUND"
    assert (await get(client, root, "desk")).etag == '"1"'


async def test_roles_are_listed_by_name_in_pages(client: Client, root: Login) -> None:
    await client.sql("INSERT INTO roles (name) SELECT 'r' || n FROM generate_series(1, 9) AS n")
    await make_role(client, root, "r-dash")
    await make_role(client, root, "r_under")
    names, token, sizes = [], "", []
    while True:
        request = roles_pb2.ListRolesRequest(page_size=4, page_token=token)
        page = await client.roles.ListRoles(request, metadata=root.metadata)
        names += [role.name for role in page.roles]
        sizes.append(len(page.roles))
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(names)
    assert (len(names), sizes) == (12, [4, 4, 4])
    for bad, field in (({"page_size": -1}, "page_size"), ({"page_token": "made-up"}, "page_token")):
        refused = await failure(client.roles.ListRoles(roles_pb2.ListRolesRequest(**bad), metadata=root.metadata))
        assert list(refused.fields) == [field]


async def test_every_change_can_be_repeated_under_its_id(client: Client, root: Login) -> None:
    ada = await client.user()

    def new() -> str:
        return str(uuid.uuid4())

    calls: list[tuple[Any, Any]] = [
        (client.roles.CreateRole, creation("desk", "users.read", request_id=new())),
        (client.roles.UpdateRole, change("desk", request_id=new(), description="Help")),
        (client.roles.GrantRole, roles_pb2.GrantRoleRequest(user_id=ada.user_id, role="desk", request_id=new())),
        (client.roles.RevokeRole, roles_pb2.RevokeRoleRequest(user_id=ada.user_id, role="desk", request_id=new())),
        (client.roles.DeleteRole, roles_pb2.DeleteRoleRequest(name="desk", request_id=new())),
    ]
    for call, request in calls:
        first = await call(request, metadata=root.metadata)
        assert await call(request, metadata=root.metadata) == first
    counts = await client.sql("SELECT type, count(*) FROM events WHERE type LIKE 'role.%%' GROUP BY type")
    assert {count for _, count in counts} == {1}
    assert len(counts) == 5


# --- who holds them --------------------------------------------------------------------------------------------------


async def test_who_holds_a_role_may_do_what_it_allows_and_no_more(client: Client, root: Login) -> None:
    await make_role(client, root, "reader", "users.read")
    ada, eve = await person(client, root, "ada@example.com", "reader"), await client.user("eve@example.com")
    everyone = await let_in(lambda: client.users.ListUsers(users_pb2.ListUsersRequest(), metadata=ada.metadata))
    assert len(everyone.users) == 3
    deletion = users_pb2.DeleteUserRequest(user_id=eve.user_id)
    refused = await failure(client.users.DeleteUser(deletion, metadata=ada.metadata))
    assert (refused.reason, refused.info.metadata["permission"]) == ("PERMISSION_MISSING", "users.delete")
    refused = await failure(client.users.ListUsers(users_pb2.ListUsersRequest(), metadata=eve.metadata))
    assert refused.info.metadata["permission"] == "users.read"


async def test_a_grant_and_a_revocation_change_the_user_and_end_their_access_tokens(
    client: Client, root: Login
) -> None:
    await make_role(client, root, "desk", "users.read")
    await make_role(client, root, "audit", "events.read")
    ada = await client.user()
    for role in ("desk", "audit"):
        answer = await client.roles.GrantRole(
            roles_pb2.GrantRoleRequest(user_id=ada.user_id, role=role), metadata=root.metadata
        )
    assert (list(answer.roles), answer.etag) == (["audit", "desk"], '"3"')
    taken = await client.roles.RevokeRole(
        roles_pb2.RevokeRoleRequest(user_id=ada.user_id, role="desk", etag='"3"'), metadata=root.metadata
    )
    assert (list(taken.roles), taken.etag) == (["audit"], '"4"')
    user = await client.users.GetUser(users_pb2.GetUserRequest(user_id=ada.user_id), metadata=root.metadata)
    assert (list(user.user.roles), user.user.etag) == (["audit"], '"4"')
    assert await client.sql("SELECT token_version FROM users WHERE id = %s::uuid", ada.user_id) == [(4,)]
    dead = [payload for subject, payload in await events(client, "user.tokens_revoked") if subject == ada.user_id]
    assert dead == [{"version": version, "reason": "roles_changed"} for version in (2, 3, 4)]
    assert await events(client, "role.granted") == [(ada.user_id, {"role": role}) for role in ("desk", "audit")]
    assert await events(client, "role.revoked") == [(ada.user_id, {"role": "desk"})]


async def test_after_a_grant_a_refresh_brings_a_token_with_the_role(client: Client, root: Login) -> None:
    await make_role(client, root, "reader", "users.read")
    ada = await client.user()
    await granted(client, root, ada.user_id, "reader")
    answer = await client.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=ada.refresh_token))
    refreshed = Login(ada.user_id, answer.access_token)
    listed = await let_in(lambda: client.users.ListUsers(users_pb2.ListUsersRequest(), metadata=refreshed.metadata))
    assert len(listed.users) == 2


async def test_granting_what_is_held_and_revoking_what_is_not_change_nothing(client: Client, root: Login) -> None:
    await make_role(client, root, "desk")
    ada = await client.user()
    nothing = roles_pb2.RevokeRoleRequest(user_id=ada.user_id, role="desk")
    answer = await client.roles.RevokeRole(nothing, metadata=root.metadata)
    assert (list(answer.roles), answer.etag) == ([], '"1"')
    for _ in range(2):
        held = await granted(client, root, ada.user_id, "desk")
        assert (list(held.roles), held.etag) == (["desk"], '"2"')
    assert len(await events(client, "role.granted")) == len(await events(client, "user.tokens_revoked")) == 1
    assert await events(client, "role.revoked") == []


@pytest.mark.parametrize("call", ["GrantRole", "RevokeRole"])
async def test_nothing_is_granted_or_revoked_on_a_stale_etag_or_of_whom_and_what_is_not_there(
    client: Client, root: Login, call: str
) -> None:
    await make_role(client, root, "desk")
    ada, gone = await client.user(), await client.user("gone@example.com")
    await client.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=gone.user_id), metadata=root.metadata)
    request_type = getattr(roles_pb2, f"{call}Request")
    for fields, reason in (
        ({"user_id": ada.user_id, "role": "desk", "etag": '"9"'}, "ETAG_MISMATCH"),
        ({"user_id": gone.user_id, "role": "desk"}, "USER_NOT_FOUND"),
        ({"user_id": str(uuid.uuid4()), "role": "desk"}, "USER_NOT_FOUND"),
        ({"user_id": ada.user_id, "role": "No Name"}, "ROLE_NOT_FOUND"),
    ):
        refused = await failure(getattr(client.roles, call)(request_type(**fields), metadata=root.metadata))
        assert refused.reason == reason
    missing = roles_pb2.GrantRoleRequest(user_id=ada.user_id, role="none")
    assert (await failure(client.roles.GrantRole(missing, metadata=root.metadata))).reason == "ROLE_NOT_FOUND"


async def test_nobody_holds_more_than_64_roles(client: Client, root: Login) -> None:
    await make_role(client, root, "desk")
    ada = await client.user()
    await client.sql(
        "UPDATE users SET roles = (SELECT array_agg('r' || n) FROM generate_series(1, 64) AS n) WHERE id = %s::uuid",
        ada.user_id,
    )
    request = roles_pb2.GrantRoleRequest(user_id=ada.user_id, role="desk")
    assert list((await failure(client.roles.GrantRole(request, metadata=root.metadata))).fields) == ["role"]


async def test_a_role_that_somebody_holds_is_not_removed_not_even_of_the_deleted(client: Client, root: Login) -> None:
    await make_role(client, root, "desk")
    ada = await client.user()
    await granted(client, root, ada.user_id, "desk")
    removal = roles_pb2.DeleteRoleRequest(name="desk")
    assert (await failure(client.roles.DeleteRole(removal, metadata=root.metadata))).reason == "ROLE_IN_USE"
    await client.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=ada.user_id), metadata=root.metadata)
    refused = await failure(client.roles.DeleteRole(removal, metadata=root.metadata))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ROLE_IN_USE")
    await client.users.EraseUser(users_pb2.EraseUserRequest(user_id=ada.user_id), metadata=root.metadata)
    await client.roles.DeleteRole(removal, metadata=root.metadata)


async def test_a_removal_and_a_grant_at_once_never_both_succeed(client: Client, root: Login) -> None:
    ada = await client.user()
    for number in range(8):
        name = f"role{number}"
        await make_role(client, root, name)
        grant = roles_pb2.GrantRoleRequest(user_id=ada.user_id, role=name)
        removal = roles_pb2.DeleteRoleRequest(name=name)
        calls = [
            failure_or_none(client.roles.GrantRole(grant, metadata=root.metadata)),
            failure_or_none(client.roles.DeleteRole(removal, metadata=root.metadata)),
        ]
        outcomes = await asyncio.gather(*(calls if number % 2 else reversed(calls)))
        assert len([outcome for outcome in outcomes if outcome]) == 1
        assert {outcome.reason for outcome in outcomes if outcome} <= {"ROLE_NOT_FOUND", "ROLE_IN_USE"}
    held = await client.sql("SELECT unnest(roles) FROM users WHERE id = %s::uuid", ada.user_id)
    assert set(held) == set(await client.sql("SELECT name FROM roles WHERE name <> 'admin'"))


# --- what is allowed -------------------------------------------------------------------------------------------------


async def permissions(client: Client, by: Login) -> dict[str, list[str]]:
    answer = await client.roles.ListPermissions(roles_pb2.ListPermissionsRequest(), metadata=by.metadata)
    return {permission.name: list(permission.methods) for permission in answer.permissions}


async def test_the_permissions_listed_are_those_that_the_served_methods_declare(client: Client, root: Login) -> None:
    served = (await client.health.List(health_pb2.HealthListRequest())).statuses
    declared: dict[str, set[str]] = {}
    for service in [name for name in served if name.startswith("gatelodge.")]:
        for method in descriptor_pool.Default().FindServiceByName(service).methods:
            rule = method.GetOptions().Extensions[access_pb2.rule]
            for name in {rule.permission, rule.self_or} - {""}:
                declared.setdefault(name, set()).add(f"{service}/{method.name}")
    listed = await permissions(client, root)
    assert {name: set(methods) for name, methods in listed.items()} == declared
    assert list(listed) == sorted(listed)
    assert all(methods == sorted(methods) for methods in listed.values())


async def test_every_permission_listed_is_enforced(client: Client, root: Login) -> None:
    """Who holds all but one permission is refused by that one's methods; who holds only it is let in."""
    listed = await permissions(client, root)
    assert len(listed) > 9
    for number, (name, methods) in enumerate(listed.items()):
        await make_role(client, root, f"without{number}", *(other for other in listed if other != name))
        await make_role(client, root, f"only{number}", name)
        without = await person(client, root, f"without{number}@example.com", f"without{number}")
        only = await person(client, root, f"only{number}@example.com", f"only{number}")
        for method in methods:
            kind = describe(f"/{method}", client_streaming=False, server_streaming=False).rule.kind
            expected = ("PERMISSION_MISSING", name) if kind is Kind.PERMISSION else ("USER_NOT_FOUND", "")
            async with asyncio.timeout(2):
                while await answer(client, method, only) == expected:
                    await asyncio.sleep(0.02)
            assert await answer(client, method, without) == expected, method


async def answer(client: Client, method: str, by: Login) -> tuple[str, str]:
    """Call a method about somebody else with a request that has nothing in it; return the reason and permission."""
    described = describe(f"/{method}", client_streaming=False, server_streaming=False)
    assert described.request_class is not None
    call: Any = client.channel.unary_stream(f"/{method}")
    stream = call(described.request_class().SerializeToString(), metadata=by.metadata, timeout=10)
    try:
        await stream.read()
    except grpc.aio.AioRpcError as error:
        refused = taken_apart(error)
        return refused.reason, refused.info.metadata["permission"]
    finally:
        stream.cancel()
    return "OK", ""


async def test_permissions_are_checked_as_they_are_now(client: Client, root: Login) -> None:
    await make_role(client, root, "reader", "users.read", "billing.pay")
    ada, eve = await person(client, root, "ada@example.com", "reader"), await client.user("eve@example.com")
    asked = ["users.read", "users.delete", "billing.pay"]

    async def held(user: Login, by: Login) -> list[bool]:
        request = roles_pb2.CheckPermissionsRequest(user_id=user.user_id, permissions=asked)
        return list((await client.roles.CheckPermissions(request, metadata=by.metadata)).held)

    assert await held(ada, root) == await held(ada, ada) == [True, False, True]
    assert await held(root, root) == [True, True, True]
    assert await held(eve, eve) == [False, False, False]
    about_ada = roles_pb2.CheckPermissionsRequest(user_id=ada.user_id, permissions=asked)
    assert (await failure(client.roles.CheckPermissions(about_ada, metadata=eve.metadata))).reason == "USER_NOT_FOUND"
    # The token still names the role; the database no longer does.
    await client.sql("UPDATE users SET roles = '{}' WHERE id = %s::uuid", ada.user_id)
    assert await held(ada, ada) == [False, False, False]
    await client.sql("UPDATE users SET roles = '{admin}', state = 'disabled' WHERE id = %s::uuid", ada.user_id)
    assert await held(ada, root) == [False, False, False]
    await client.sql("UPDATE users SET state = 'active', delete_time = now() WHERE id = %s::uuid", ada.user_id)
    assert await held(ada, root) == [False, False, False]
    nobody = roles_pb2.CheckPermissionsRequest(user_id=str(uuid.uuid4()), permissions=asked)
    assert (await failure(client.roles.CheckPermissions(nobody, metadata=root.metadata))).reason == "USER_NOT_FOUND"


async def test_the_events_of_roles_can_be_read(client: Client, root: Login) -> None:
    await make_role(client, root, "desk", "users.read")
    ada = await client.user()
    await granted(client, root, ada.user_id, "desk")
    request = events_pb2.ListEventsRequest(types=["role.created", "role.granted"])
    listed = (await client.events.ListEvents(request, metadata=root.metadata)).events
    assert [event.type for event in listed] == ["role.granted", "role.created"]
    assert listed[0].role_granted.role == "desk"
    assert list(listed[1].role_created.permissions) == ["users.read"]
