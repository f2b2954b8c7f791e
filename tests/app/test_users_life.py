"""The whole life of an account, through the API."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from gatelodge.auth.v1 import auth_pb2
from gatelodge.users.v1 import users_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from tests.app.client import PASSWORD, Client, Failure, Login, failure, taken_apart

from service.app import running

if TYPE_CHECKING:
    from tests.app.conftest import SettingsFor

List = users_pb2.ListUsersRequest


@pytest.fixture
async def root(client: Client) -> Login:
    return await client.administrator()


async def update(client: Client, by: Login, user_id: str, *paths: str, **values: Any) -> users_pb2.User:
    request = users_pb2.UpdateUserRequest(
        user_id=user_id, user=users_pb2.User(**values), update_mask=FieldMask(paths=paths) if paths else None
    )
    return (await client.users.UpdateUser(request, metadata=by.metadata)).user


async def refused(client: Client, by: Login, user_id: str, *paths: str, **values: Any) -> Failure:
    request = users_pb2.UpdateUserRequest(
        user_id=user_id, user=users_pb2.User(**values), update_mask=FieldMask(paths=paths) if paths else None
    )
    return await failure(client.users.UpdateUser(request, metadata=by.metadata))


async def get(client: Client, by: Login, user_id: str) -> users_pb2.User:
    return (await client.users.GetUser(users_pb2.GetUserRequest(user_id=user_id), metadata=by.metadata)).user


# --- update ----------------------------------------------------------------------------------------------------------


async def test_a_user_changes_their_own_name_and_the_etag_changes_with_it(client: Client) -> None:
    ada = await client.user()
    before = await get(client, ada, ada.user_id)
    after = await update(client, ada, ada.user_id, "display_name", display_name="Ada", etag=before.etag)
    assert (after.display_name, after.email) == ("Ada", before.email)
    assert after.etag != before.etag
    assert after.update_time.ToNanoseconds() > before.update_time.ToNanoseconds()
    assert await get(client, ada, ada.user_id) == after


async def test_what_is_not_in_the_mask_and_what_the_server_sets_is_left_alone(client: Client, root: Login) -> None:
    ada = await client.user()
    values = {
        "display_name": "Ada",
        "email": "new@example.com",
        "roles": ["admin"],
        "state": users_pb2.User.STATE_DISABLED,
    }
    after = await update(client, root, ada.user_id, "display_name", "roles", "state", **values)
    assert (after.display_name, after.email) == ("Ada", "ada@example.com")
    assert (list(after.roles), after.state) == ([], users_pb2.User.STATE_ACTIVE)


async def test_without_a_mask_the_fields_that_are_not_empty_change_and_a_star_means_all(
    client: Client, root: Login
) -> None:
    ada = await client.user()
    assert (await update(client, root, ada.user_id, display_name="Ada")).email == "ada@example.com"
    after = await update(client, root, ada.user_id, "*", email="lovelace@example.com")
    assert (after.email, after.display_name) == ("lovelace@example.com", "")


async def test_a_user_may_send_their_own_record_back_with_another_name(client: Client) -> None:
    ada = await client.user()
    own = await get(client, ada, ada.user_id)
    own.display_name = "Ada"
    for mask in (None, FieldMask(), FieldMask(paths=["*"])):
        own.display_name += "!"
        request = users_pb2.UpdateUserRequest(user_id=ada.user_id, user=own, update_mask=mask)
        own = (await client.users.UpdateUser(request, metadata=ada.metadata)).user
    assert own.display_name == "Ada!!!"


async def test_a_user_is_themselves_however_their_id_is_spelled(client: Client) -> None:
    ada = await client.user()
    assert (await get(client, ada, ada.user_id.upper())).id == ada.user_id


async def test_a_repeated_deletion_of_nobody_deletes_nobody_later(client: Client, root: Login) -> None:
    ada = await client.user()
    await client.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=ada.user_id), metadata=root.metadata)
    nobody = users_pb2.DeleteUserRequest(user_id=ada.user_id, allow_missing=True, request_id=str(uuid.uuid4()))
    assert not (await client.users.DeleteUser(nobody, metadata=root.metadata)).HasField("user")
    await client.users.UndeleteUser(users_pb2.UndeleteUserRequest(user_id=ada.user_id), metadata=root.metadata)
    assert not (await client.users.DeleteUser(nobody, metadata=root.metadata)).HasField("user")
    assert not (await get(client, root, ada.user_id)).HasField("delete_time")


async def test_an_erasure_of_oneself_can_be_repeated(client: Client, root: Login) -> None:
    await client.administrator("other@example.com")
    request = users_pb2.EraseUserRequest(user_id=root.user_id, request_id=str(uuid.uuid4()))
    for _ in range(2):
        await client.users.EraseUser(request, metadata=root.metadata)
    assert await client.sql("SELECT count(*) FROM events WHERE type = 'user.erased'") == [(1,)]


async def test_an_address_whose_canonical_form_is_long_does_not_stop_a_list(client: Client, root: Login) -> None:
    for number in range(3):
        await client.register("\u1fb2" * 63 + f"{number}@" + "d" * 57 + ".co")
    assert len(await listed(client, root, page_size=1, order=List.ORDER_EMAIL_ASC)) == 4


async def test_an_unknown_path_in_the_mask_is_refused(client: Client, root: Login) -> None:
    ada = await client.user()
    failed = await refused(client, root, ada.user_id, "display_name", "shoe_size")
    assert (failed.code, set(failed.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"update_mask"})


async def test_a_user_may_not_change_their_own_address_nor_anything_of_others(client: Client) -> None:
    ada, bob = await client.user("ada@example.com"), await client.user("bob@example.com")
    own = await refused(client, ada, ada.user_id, "email", email="new@example.com")
    assert (own.code, own.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
    other = await refused(client, ada, bob.user_id, "display_name", display_name="Bobby")
    assert (other.code, other.reason) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")


async def test_a_new_address_is_not_verified_and_must_be_free_and_good(client: Client, root: Login) -> None:
    ada = await client.user()
    await client.sql("UPDATE users SET email_verified = true")
    respelled = await update(client, root, ada.user_id, "email", email="ADA@example.com")
    assert (respelled.email, respelled.email_verified) == ("ADA@example.com", True)
    moved = await update(client, root, ada.user_id, "email", email="new@example.com")
    assert not moved.email_verified
    taken = await refused(client, root, ada.user_id, "email", email="Root@example.com")
    assert (taken.code, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")
    bad = await refused(client, root, ada.user_id, "email", email="nowhere")
    assert set(bad.fields) == {"user.email"}
    await client.login("new@example.com")


async def test_of_fifty_updates_with_one_etag_one_wins_and_the_others_are_told(client: Client, root: Login) -> None:
    ada = await client.user()
    etag = (await get(client, root, ada.user_id)).etag

    async def attempt(number: int) -> str:
        try:
            await update(client, root, ada.user_id, "display_name", display_name=f"Ada {number}", etag=etag)
        except grpc.aio.AioRpcError as error:
            return taken_apart(error).reason
        return "OK"

    outcomes = await asyncio.gather(*(attempt(number) for number in range(50)))
    assert (outcomes.count("OK"), outcomes.count("ETAG_MISMATCH")) == (1, 49)


async def test_a_change_that_changes_nothing_keeps_the_etag(client: Client, root: Login) -> None:
    ada = await client.user()
    before = await get(client, root, ada.user_id)
    assert await update(client, root, ada.user_id, "display_name", display_name="") == before


# --- disable, delete, erase ------------------------------------------------------------------------------------------


async def test_a_disabled_user_cannot_log_in_until_enabled_and_operators_can_read_why(
    client: Client, root: Login
) -> None:
    ada = await client.user()
    request = users_pb2.DisableUserRequest(user_id=ada.user_id, reason="left the company")
    disabled = (await client.users.DisableUser(request, metadata=root.metadata)).user
    assert disabled.state == users_pb2.User.STATE_DISABLED
    failed = await failure(client.auth.Login(auth_pb2.LoginRequest(email="ada@example.com", password=PASSWORD)))
    assert failed.reason == "LOGIN_FAILED"
    why = await explain(client, root, "ada@example.com")
    assert (why.can_log_in, why.disable_reason) == (False, "left the company")
    assert list(why.obstacles) == [users_pb2.ExplainLoginResponse.OBSTACLE_DISABLED]
    await client.users.EnableUser(users_pb2.EnableUserRequest(user_id=ada.user_id), metadata=root.metadata)
    await client.login("ada@example.com")
    assert (await explain(client, root, "ada@example.com")).can_log_in


async def explain(client: Client, by: Login, email: str) -> users_pb2.ExplainLoginResponse:
    return await client.users.ExplainLogin(users_pb2.ExplainLoginRequest(email=email), metadata=by.metadata)


async def test_every_obstacle_is_told_at_once(client: Client, root: Login) -> None:
    ada = await client.user()
    await client.sql("DELETE FROM passwords USING users WHERE id = user_id AND email = 'ada@example.com'")
    await client.users.DisableUser(users_pb2.DisableUserRequest(user_id=ada.user_id), metadata=root.metadata)
    await client.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=ada.user_id), metadata=root.metadata)
    assert set((await explain(client, root, "ada@example.com")).obstacles) == {1, 2, 3}
    missing = await failure(
        client.users.ExplainLogin(users_pb2.ExplainLoginRequest(email="no@example.com"), metadata=root.metadata)
    )
    assert missing.reason == "USER_NOT_FOUND"


async def test_a_deleted_user_is_out_of_sight_but_not_gone_and_can_be_taken_back(client: Client, root: Login) -> None:
    ada = await client.user()
    request = users_pb2.DeleteUserRequest(user_id=ada.user_id)
    deleted = (await client.users.DeleteUser(request, metadata=root.metadata)).user
    assert deleted.purge_time.seconds - deleted.delete_time.seconds == 30 * 86400
    assert await get(client, root, ada.user_id) == deleted
    assert ada.user_id not in await listed(client, root)
    assert ada.user_id in await listed(client, root, show_deleted=True)
    taken = await failure(
        client.users.CreateUser(users_pb2.CreateUserRequest(email="ada@example.com"), metadata=root.metadata)
    )
    assert taken.reason == "EMAIL_TAKEN"
    again = await failure(client.users.DeleteUser(request, metadata=root.metadata))
    assert (again.code, again.reason) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
    allowed = users_pb2.DeleteUserRequest(user_id=ada.user_id, allow_missing=True)
    assert not (await client.users.DeleteUser(allowed, metadata=root.metadata)).HasField("user")
    back = users_pb2.UndeleteUserRequest(user_id=ada.user_id, etag=deleted.etag)
    undeleted = (await client.users.UndeleteUser(back, metadata=root.metadata)).user
    assert not undeleted.HasField("delete_time")
    assert not undeleted.HasField("purge_time")
    await client.login("ada@example.com")
    live = await failure(
        client.users.UndeleteUser(users_pb2.UndeleteUserRequest(user_id=ada.user_id), metadata=root.metadata)
    )
    assert (live.code, live.reason) == (grpc.StatusCode.ALREADY_EXISTS, "USER_NOT_DELETED")


async def test_a_deleted_user_cannot_be_changed(client: Client, root: Login) -> None:
    ada = await client.user()
    await client.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=ada.user_id), metadata=root.metadata)
    assert (await refused(client, root, ada.user_id, display_name="Ada")).reason == "USER_NOT_FOUND"


async def test_answers_kept_for_repeats_are_erased_with_the_user_they_tell_of(client: Client, root: Login) -> None:
    ada = await client.user()
    request = users_pb2.DisableUserRequest(user_id=ada.user_id, request_id=str(uuid.uuid4()))
    first = await client.users.DisableUser(request, metadata=root.metadata)
    assert await client.users.DisableUser(request, metadata=root.metadata) == first
    await client.users.EraseUser(users_pb2.EraseUserRequest(user_id=ada.user_id), metadata=root.metadata)
    assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]


async def test_answers_given_to_an_erased_user_about_others_go_with_them(client: Client, root: Login) -> None:
    other, ada = await client.administrator("other@example.com"), await client.user()
    request = users_pb2.DisableUserRequest(user_id=ada.user_id, request_id=str(uuid.uuid4()))
    await client.users.DisableUser(request, metadata=other.metadata)
    assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(1,)]
    await client.users.EraseUser(users_pb2.EraseUserRequest(user_id=other.user_id), metadata=root.metadata)
    assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]


@pytest.mark.usefixtures("eager_jobs")
async def test_whom_nobody_undeletes_in_time_is_purged(url: str, settings_for: SettingsFor) -> None:
    async with running(settings_for(url)) as app, Client(app.address, url) as client:
        root, ada, bob = await client.administrator(), await client.user(), await client.user("bob@example.com")
        for gone in (ada, bob):
            await client.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=gone.user_id), metadata=root.metadata)
        touch = users_pb2.UndeleteUserRequest(user_id=ada.user_id, request_id=str(uuid.uuid4()))
        await client.users.UndeleteUser(touch, metadata=root.metadata)
        await client.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=ada.user_id), metadata=root.metadata)
        await client.sql("UPDATE users SET purge_time = now() - interval '1 s' WHERE id = %s::uuid", ada.user_id)
        await client.sql("UPDATE jobs SET next_run_time = now() WHERE name = 'users.purge'")
        async with asyncio.timeout(15):
            while len(await client.sql("SELECT 1 FROM users")) == 3:
                await asyncio.sleep(0.1)
        assert await client.sql("SELECT email FROM users ORDER BY email") == [
            ("bob@example.com",),
            ("root@example.com",),
        ]
        assert await client.sql("SELECT count(*) FROM events WHERE type = 'user.erased'") == [(1,)]
        assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]


async def test_an_erased_user_leaves_nothing_behind(client: Client, root: Login) -> None:
    ada = await client.user()
    stale = await failure(
        client.users.EraseUser(users_pb2.EraseUserRequest(user_id=ada.user_id, etag='"0"'), metadata=root.metadata)
    )
    assert (stale.code, stale.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    await client.users.EraseUser(users_pb2.EraseUserRequest(user_id=ada.user_id), metadata=root.metadata)
    assert await client.sql("SELECT 1 FROM users WHERE email_canonical = 'ada@example.com'") == []
    assert await client.sql("SELECT count(*) FROM passwords") == [(1,)]
    gone = await failure(client.users.GetUser(users_pb2.GetUserRequest(user_id=ada.user_id), metadata=root.metadata))
    assert gone.reason == "USER_NOT_FOUND"
    await client.register("ada@example.com")


@pytest.mark.parametrize(
    ("call", "request_type", "permission"),
    [
        ("DisableUser", users_pb2.DisableUserRequest, "users.disable"),
        ("EnableUser", users_pb2.EnableUserRequest, "users.disable"),
        ("DeleteUser", users_pb2.DeleteUserRequest, "users.delete"),
        ("UndeleteUser", users_pb2.UndeleteUserRequest, "users.delete"),
        ("EraseUser", users_pb2.EraseUserRequest, "users.erase"),
        ("ListUsers", users_pb2.ListUsersRequest, "users.read"),
        ("ExplainLogin", users_pb2.ExplainLoginRequest, "users.read"),
    ],
)
async def test_only_those_with_the_permission_may(
    client: Client, call: str, request_type: Any, permission: str
) -> None:
    ada = await client.user()
    denied = await failure(getattr(client.users, call)(request_type(), metadata=ada.metadata))
    assert (denied.code, denied.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
    assert denied.info.metadata["permission"] == permission


@pytest.mark.parametrize("call", ["DisableUser", "EnableUser", "DeleteUser", "UndeleteUser", "EraseUser"])
async def test_a_stale_etag_changes_nothing(client: Client, root: Login, call: str) -> None:
    ada = await client.user()
    request = getattr(users_pb2, f"{call}Request")(user_id=ada.user_id, etag='"999"')
    stale = await failure(getattr(client.users, call)(request, metadata=root.metadata))
    assert (stale.code, stale.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (await get(client, root, ada.user_id)).etag == '"1"'
    missing = getattr(users_pb2, f"{call}Request")(user_id=str(uuid.uuid4()))
    assert (await failure(getattr(client.users, call)(missing, metadata=root.metadata))).reason == "USER_NOT_FOUND"


# --- lists -----------------------------------------------------------------------------------------------------------


async def listed(client: Client, by: Login, **request: Any) -> list[str]:
    """Return the ids on all pages."""
    ids: list[str] = []
    token = ""
    while True:
        answer = await client.users.ListUsers(List(page_token=token, **request), metadata=by.metadata)
        ids += [user.id for user in answer.users]
        token = answer.next_page_token
        if not token:
            return ids


async def crowd(client: Client) -> None:
    """Make some users that differ in everything a filter looks at."""
    await client.sql(
        "INSERT INTO users (id, email, email_canonical, display_name, state, roles, create_time)"
        " SELECT gen_random_uuid(), 'u' || n || '@example.com', 'u' || lpad(n::text, 3, '0') || '@example.com',"
        " CASE n %% 3 WHEN 0 THEN 'Größe 100%%' ELSE 'Nobody_' || n END,"
        " CASE n %% 4 WHEN 0 THEN 'disabled' ELSE 'active' END,"
        " CASE n %% 5 WHEN 0 THEN ARRAY['auditor'] ELSE ARRAY[]::text[] END,"
        " '2030-01-01'::timestamptz + (n / 2) * interval '1 day' FROM generate_series(1, 60) AS n"
    )


ORDERS: dict[Any, str] = {
    List.ORDER_UNSPECIFIED: "create_time, id",
    List.ORDER_CREATE_TIME_DESC: "create_time DESC, id DESC",
    List.ORDER_EMAIL_ASC: 'email_canonical COLLATE "C"',
    List.ORDER_EMAIL_DESC: 'email_canonical COLLATE "C" DESC',
}


@pytest.mark.parametrize("order", ORDERS)
async def test_pages_put_together_are_the_whole_list_in_order(client: Client, root: Login, order: Any) -> None:
    await crowd(client)
    rows = await client.sql(f"SELECT id::text FROM users ORDER BY {ORDERS[order]}")
    assert await listed(client, root, page_size=7, order=order) == [user_id for (user_id,) in rows]


@pytest.mark.parametrize(
    ("matching", "where"),
    [
        ({"state": users_pb2.User.STATE_DISABLED}, "state = 'disabled'"),
        ({"email_prefix": "U01"}, "email_canonical LIKE 'u01%%'"),
        ({"email_prefix": "u_1"}, "false"),
        ({"role": "auditor"}, "'auditor' = ANY(roles)"),
        ({"text": "GRÖßE"}, "display_name LIKE 'Größe%%'"),
        ({"text": "00%"}, "display_name LIKE '%%00\\%%'"),
        ({"text": "Nobody_1"}, "display_name LIKE 'Nobody\\_1%%'"),
        ({"text": "33@exam"}, "email_canonical LIKE '%%33@exam%%'"),
        (
            {"created_from": Timestamp(seconds=1893888000), "created_until": Timestamp(seconds=1894492800)},
            "create_time >= to_timestamp(1893888000) AND create_time < to_timestamp(1894492800)",
        ),
        ({"state": users_pb2.User.STATE_DISABLED, "role": "auditor"}, "state = 'disabled' AND 'auditor' = ANY(roles)"),
    ],
)
async def test_a_filter_lets_through_what_matches(
    client: Client, root: Login, matching: dict[str, Any], where: str
) -> None:
    await crowd(client)
    rows = await client.sql(f"SELECT id::text FROM users WHERE {where} ORDER BY create_time, id")
    found = await listed(client, root, page_size=5, filter=List.Filter(**matching))
    assert found == [user_id for (user_id,) in rows]
    assert found or where == "false"


async def test_a_page_token_is_of_one_filter_and_order_and_cannot_be_made(client: Client, root: Login) -> None:
    await crowd(client)
    first = await client.users.ListUsers(List(page_size=5), metadata=root.metadata)
    for other in (
        List(page_token=first.next_page_token, order=List.ORDER_EMAIL_ASC),
        List(page_token=first.next_page_token, show_deleted=True),
        List(page_token=first.next_page_token, filter=List.Filter(role="auditor")),
        List(page_token=first.next_page_token[:-2]),
        List(page_token="AAAA" + first.next_page_token),
        List(page_token="not a token"),
    ):
        failed = await failure(client.users.ListUsers(other, metadata=root.metadata))
        assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
    larger = await client.users.ListUsers(List(page_size=9, page_token=first.next_page_token), metadata=root.metadata)
    assert len(larger.users) == 9
    assert "@" not in first.next_page_token


async def test_a_page_is_never_larger_than_a_thousand_and_a_negative_size_is_refused(
    client: Client, root: Login
) -> None:
    await client.sql(
        "INSERT INTO users (id, email, email_canonical)"
        " SELECT gen_random_uuid(), n || '@example.com', n || '@example.com' FROM generate_series(1, 1100) AS n"
    )
    assert len((await client.users.ListUsers(List(page_size=5000), metadata=root.metadata)).users) == 1000
    assert len((await client.users.ListUsers(List(), metadata=root.metadata)).users) == 50
    failed = await failure(client.users.ListUsers(List(page_size=-1), metadata=root.metadata))
    assert set(failed.fields) == {"page_size"}


@pytest.mark.parametrize(
    ("matching", "field"),
    [
        ({"text": "ab"}, "filter.text"),
        ({"created_from": Timestamp(seconds=10**15)}, "filter.created_from"),
        ({"state": 99}, "filter.state"),
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused(
    client: Client, root: Login, matching: dict[str, Any], field: str
) -> None:
    failed = await failure(client.users.ListUsers(List(filter=List.Filter(**matching)), metadata=root.metadata))
    assert set(failed.fields) == {field}


# --- export ----------------------------------------------------------------------------------------------------------


async def exported(client: Client, by: Login, *, messages: int = 10**6, **request: Any) -> tuple[list[str], str]:
    """Return the ids that come in so many messages, and the last cursor."""
    ids: list[str] = []
    cursor = ""
    stream = client.users.ExportUsers(users_pb2.ExportUsersRequest(**request), metadata=by.metadata)
    async for answer in stream:
        ids += [user.id for user in answer.users]
        cursor = answer.cursor
        messages -= 1
        if not messages:
            stream.cancel()
            break
    return ids, cursor


async def test_an_export_that_broke_off_goes_on_after_its_cursor(client: Client, root: Login) -> None:
    await client.sql(
        "INSERT INTO users (id, email, email_canonical, delete_time)"
        " SELECT gen_random_uuid(), n || '@example.com', n || '@example.com', CASE WHEN n > 1700 THEN now() END"
        " FROM generate_series(1, 1800) AS n"
    )
    everyone = [user_id for (user_id,) in await client.sql("SELECT id::text FROM users ORDER BY create_time, id")]
    first, cursor = await exported(client, root, messages=2, show_deleted=True)
    rest, _ = await exported(client, root, cursor=cursor, show_deleted=True)
    assert first + rest == everyone
    present, _ = await exported(client, root)
    assert len(present) == 1701


async def test_an_export_given_up_leaves_no_transaction_behind_and_too_many_at_once_are_refused(
    client: Client, root: Login
) -> None:
    await client.sql(
        "INSERT INTO users (id, email, email_canonical, display_name)"
        " SELECT gen_random_uuid(), n || '@example.com', n || '@example.com', repeat('x', 200)"
        " FROM generate_series(1, 20000) AS n"
    )
    streams = [client.users.ExportUsers(users_pb2.ExportUsersRequest(), metadata=root.metadata) for _ in range(2)]
    for stream in streams:
        await stream.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await exported(client, root)
    refused = taken_apart(caught.value)
    assert (refused.reason, refused.info.metadata["resource"]) == ("OVERLOADED", "exports")
    for stream in streams:
        stream.cancel()
    mine = "datname = current_database() AND state LIKE 'idle in transaction%%'"
    open_ones = f"SELECT count(*) FROM pg_stat_activity WHERE {mine}"
    async with asyncio.timeout(10):
        while await client.sql(open_ones) != [(0,)]:
            await asyncio.sleep(0.05)
    assert len((await exported(client, root))[0]) == 20_001


async def test_a_cursor_that_is_not_ours_is_refused(client: Client, root: Login) -> None:
    page = await client.users.ListUsers(List(page_size=1), metadata=root.metadata)
    for cursor in ("nonsense", page.next_page_token or "AAAA"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await exported(client, root, cursor=cursor)
        assert taken_apart(caught.value).reason == "INVALID_PAGE_TOKEN"
