"""Sessions: shown and ended, by their users and by operators; and what the life of an account does to them (E9, D4)."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import jwt
import pytest
from gatelodge.auth.v1 import auth_pb2, sessions_pb2
from gatelodge.users.v1 import users_pb2
from tests.app.client import PASSWORD, Client, Login, failure
from tests.app.test_health import get

from service.app import running

if TYPE_CHECKING:
    from tests.app.conftest import SettingsFor

    from service.app import App


async def listed(client: Client, who: Login, of: Login | None = None, **request: Any) -> list[sessions_pb2.Session]:
    request.setdefault("user_id", (of or who).user_id)
    answer = await client.sessions.ListSessions(sessions_pb2.ListSessionsRequest(**request), metadata=who.metadata)
    return list(answer.sessions)


async def shown(client: Client, who: Login, of: Login) -> sessions_pb2.Session:
    request = sessions_pb2.GetSessionRequest(user_id=of.user_id, session_id=of.session_id)
    return (await client.sessions.GetSession(request, metadata=who.metadata)).session


def revoke(client: Client, who: Login, of: Login, **request: Any) -> Any:
    named = {"user_id": of.user_id, "session_id": of.session_id} | request
    return client.sessions.RevokeSession(sessions_pb2.RevokeSessionRequest(**named), metadata=who.metadata)


async def alive(client: Client, login: Login) -> bool:
    """Tell whether the session can still be refreshed."""
    call = client.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=login.refresh_token))
    code = await call.code()
    assert code in {grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED}
    return code is grpc.StatusCode.OK


async def told(client: Client, login: Login) -> list[tuple[str, dict[str, Any]]]:
    """Return what is on the record about the ends of a user's sessions."""
    rows = await client.sql(
        "SELECT type, payload FROM events WHERE subject = %s::uuid AND type LIKE '%%revoked' ORDER BY id", login.user_id
    )
    return [(kind, payload) for kind, payload in rows]


def version(token: str) -> int:
    return int(jwt.decode(token, options={"verify_signature": False})["ver"])


# --- shown -----------------------------------------------------------------------------------------------------------


async def test_a_user_sees_where_they_are_logged_in(app: App, client: Client, url: str) -> None:
    ada = await client.user()
    request = auth_pb2.LoginRequest(email="ada@example.com", password=PASSWORD, device_label=" Ada's laptop ")
    async with (
        grpc.aio.insecure_channel(app.address, options=[("grpc.primary_user_agent", "u" * 300)]) as channel,
        Client(app.address, url) as other,
    ):
        other.auth = type(other.auth)(channel)
        answer = await other.auth.Login(request)
    laptop, first = await listed(client, ada)
    assert (laptop.id, first.id) == (answer.session_id, ada.session_id)
    assert (laptop.device_label, laptop.user_agent) == ("Ada's laptop", "u" * 256)
    assert first.device_label == ""
    assert "grpc" in first.user_agent
    assert {session.source for session in (laptop, first)} == {"127.0.0.1"}
    assert (laptop.current, first.current) == (False, True)
    assert laptop.user_id == ada.user_id
    assert uuid.UUID(laptop.id).version == 7
    assert laptop.expire_time == answer.session_expire_time
    lifetime = laptop.expire_time.ToDatetime(UTC) - laptop.create_time.ToDatetime(UTC)
    idle = laptop.idle_expire_time.ToDatetime(UTC) - laptop.last_use_time.ToDatetime(UTC)
    assert (lifetime, idle) == (timedelta(days=30), timedelta(days=7))
    assert not laptop.HasField("revoke_time")
    assert await shown(client, ada, ada) == first


async def test_a_refresh_is_the_last_use(client: Client) -> None:
    ada = await client.user()
    await client.sql("UPDATE sessions SET last_source = 'elsewhere', last_use_time = last_use_time - interval '1 hour'")
    before = await shown(client, ada, ada)
    await client.refresh(ada.refresh_token)
    after = await shown(client, ada, ada)
    assert (before.last_source, after.last_source, after.source) == ("elsewhere", "127.0.0.1", "127.0.0.1")
    assert after.last_use_time.ToDatetime() - before.last_use_time.ToDatetime() >= timedelta(hours=1)
    assert after.create_time == before.create_time


async def test_pages_are_newest_first_complete_and_of_one_user_only(client: Client) -> None:
    ada, bob = await client.user(), await client.user("bob@example.com")
    logins = [ada, *[await client.login("ada@example.com") for _ in range(6)]]
    # Two of the same moment are told apart by their ids.
    await client.sql(
        "UPDATE sessions SET create_time = (SELECT min(create_time) FROM sessions) WHERE id = %s", logins[1].session_id
    )
    ids, token, tokens = [], "", []
    while True:
        request = sessions_pb2.ListSessionsRequest(user_id=ada.user_id, page_size=3, page_token=token)
        page = await client.sessions.ListSessions(request, metadata=ada.metadata)
        ids += [session.id for session in page.sessions]
        if not (token := page.next_page_token):
            break
        tokens.append(token)
    assert ids == [login.session_id for login in reversed(logins)]
    assert len(tokens) == 2
    for user, bad in ((bob, tokens[0]), (ada, "garbage")):
        request = sessions_pb2.ListSessionsRequest(user_id=user.user_id, page_token=bad)
        refused = await failure(client.sessions.ListSessions(request, metadata=user.metadata))
        assert refused.reason == "INVALID_PAGE_TOKEN"
    assert len(await listed(client, ada, page_size=100_000)) == 7
    request = sessions_pb2.ListSessionsRequest(user_id=ada.user_id, page_size=-1)
    assert "page_size" in (await failure(client.sessions.ListSessions(request, metadata=ada.metadata))).fields


async def test_only_living_sessions_are_listed_but_ended_ones_can_be_looked_at(client: Client) -> None:
    ada = await client.user()
    ended, expired, idle = [await client.login("ada@example.com") for _ in range(3)]
    await revoke(client, ada, ended)
    await client.sql("UPDATE sessions SET expire_time = now() WHERE id = %s::uuid", expired.session_id)
    await client.sql(
        "UPDATE sessions SET last_use_time = now() - interval '7 days' WHERE id = %s::uuid", idle.session_id
    )
    assert [session.id for session in await listed(client, ada)] == [ada.session_id]
    assert (await shown(client, ada, ended)).HasField("revoke_time")
    assert not (await shown(client, ada, expired)).HasField("revoke_time")
    assert not await alive(client, expired)
    assert not await alive(client, idle)


async def test_others_see_and_end_nothing_and_administrators_everything(client: Client) -> None:
    root, ada, eve = await client.administrator(), await client.user(), await client.user("eve@example.com")
    named = {"user_id": ada.user_id, "session_id": ada.session_id}
    for call in (
        client.sessions.ListSessions(sessions_pb2.ListSessionsRequest(user_id=ada.user_id), metadata=eve.metadata),
        client.sessions.GetSession(sessions_pb2.GetSessionRequest(**named), metadata=eve.metadata),
        client.sessions.RevokeSession(sessions_pb2.RevokeSessionRequest(**named), metadata=eve.metadata),
    ):
        refused = await failure(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
    assert [session.id for session in await listed(client, root, ada)] == [ada.session_id]
    assert not (await shown(client, root, ada)).current
    assert (await revoke(client, root, ada)).session.HasField("revoke_time")
    assert not await alive(client, ada)
    # Another user's session is none of one's own, whichever user is named.
    for session_id in (eve.session_id, str(uuid.uuid4())):
        assert (await failure(revoke(client, root, ada, session_id=session_id))).reason == "SESSION_NOT_FOUND"
    assert await alive(client, eve)


@pytest.mark.parametrize("label", ["a" * 101, "a\0b", "evil \u202e label"])
async def test_a_device_label_is_short_and_visible(client: Client, label: str) -> None:
    await client.register("ada@example.com")
    request = auth_pb2.LoginRequest(email="ada@example.com", password=PASSWORD, device_label=label)
    refused = await failure(client.auth.Login(request))
    assert list(refused.fields) == ["device_label"]
    assert await client.sql("SELECT count(*) FROM sessions") == [(0,)]


# --- ended -----------------------------------------------------------------------------------------------------------


async def test_a_revoked_session_stays_as_it_was_revoked_first(client: Client) -> None:
    root, ada = await client.administrator(), await client.user()
    first = (await revoke(client, root, ada)).session
    again = (await revoke(client, root, ada)).session
    assert first == again == await shown(client, root, ada)
    assert not await alive(client, ada)
    assert await told(client, ada) == [("session.revoked", {"session_id": ada.session_id, "reason": "revoked"})]
    assert await client.sql("SELECT revoke_reason FROM sessions WHERE id = %s::uuid", ada.session_id) == [("revoked",)]


async def test_logout_ends_the_session_of_the_call_and_no_other(client: Client) -> None:
    root, ada = await client.administrator(), await client.user()
    other = await client.login("ada@example.com")
    await client.auth.Logout(auth_pb2.LogoutRequest(), metadata=ada.metadata)
    assert not await alive(client, ada)
    assert await alive(client, other)
    assert await told(client, ada) == [("session.revoked", {"session_id": ada.session_id, "reason": "logout"})]
    assert [session.id for session in await listed(client, root, ada)] == [other.session_id]


async def test_logout_everywhere_ends_every_session_and_every_access_token(client: Client) -> None:
    root, ada = await client.administrator(), await client.user()
    other = await client.login("ada@example.com")
    answer = await client.auth.LogoutAll(auth_pb2.LogoutAllRequest(), metadata=ada.metadata)
    assert answer.revoked_count == 2
    assert [await alive(client, login) for login in (ada, other, root)] == [False, False, True]
    assert await told(client, ada) == [
        ("user.tokens_revoked", {"version": version(ada.token) + 1, "reason": "logout_all"})
    ]
    assert await client.sql("SELECT DISTINCT revoke_reason FROM sessions WHERE user_id = %s::uuid", ada.user_id) == [
        ("logout_all",)
    ]
    assert version((await client.login("ada@example.com")).token) == version(ada.token) + 1


async def test_logout_everywhere_else_keeps_the_session_of_the_call(client: Client) -> None:
    ada = await client.user()
    others = [await client.login("ada@example.com") for _ in range(3)]
    request = auth_pb2.LogoutAllRequest(keep_current=True, request_id=str(uuid.uuid4()))
    for _ in range(2):
        assert (await client.auth.LogoutAll(request, metadata=ada.metadata)).revoked_count == 3
    assert (
        await client.auth.LogoutAll(auth_pb2.LogoutAllRequest(keep_current=True), metadata=ada.metadata)
    ).revoked_count == 0
    assert [await alive(client, login) for login in (ada, *others)] == [True, False, False, False]
    ended = {payload["session_id"] for kind, payload in await told(client, ada) if payload["reason"] == "logout"}
    assert ended == {login.session_id for login in others}
    assert version((await client.login("ada@example.com")).token) == version(ada.token), "the current token is good yet"


# --- the life of an account ------------------------------------------------------------------------------------------


async def test_disabling_ends_all_sessions_and_enabling_revives_none(client: Client) -> None:
    root, ada = await client.administrator(), await client.user()
    await client.users.DisableUser(users_pb2.DisableUserRequest(user_id=ada.user_id), metadata=root.metadata)
    assert not await alive(client, ada)
    assert await listed(client, root, ada) == []
    await client.users.EnableUser(users_pb2.EnableUserRequest(user_id=ada.user_id), metadata=root.metadata)
    assert not await alive(client, ada)
    assert await told(client, ada) == [("user.tokens_revoked", {"version": 2, "reason": "disabled"})]
    assert version((await client.login("ada@example.com")).token) == 2


async def test_deleting_ends_all_sessions_and_undeleting_revives_none(client: Client) -> None:
    root, ada = await client.administrator(), await client.user()
    await client.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=ada.user_id), metadata=root.metadata)
    assert not await alive(client, ada)
    await client.users.UndeleteUser(users_pb2.UndeleteUserRequest(user_id=ada.user_id), metadata=root.metadata)
    assert not await alive(client, ada)
    assert await told(client, ada) == [("user.tokens_revoked", {"version": 2, "reason": "deleted"})]


async def test_erasing_leaves_no_session_and_tells_which_tokens_are_dead(client: Client) -> None:
    root, ada = await client.administrator(), await client.user()
    await client.users.EraseUser(users_pb2.EraseUserRequest(user_id=ada.user_id), metadata=root.metadata)
    assert not await alive(client, ada)
    assert await told(client, ada) == [("user.tokens_revoked", {"version": 2, "reason": "erased"})]
    assert await client.sql("SELECT count(*) FROM sessions WHERE user_id = %s::uuid", ada.user_id) == [(0,)]


async def test_other_changes_end_nothing(client: Client) -> None:
    root, ada = await client.administrator(), await client.user()
    change = users_pb2.UpdateUserRequest(user_id=ada.user_id, user=users_pb2.User(display_name="Ada"))
    await client.users.UpdateUser(change, metadata=root.metadata)
    assert await alive(client, ada)
    assert await told(client, ada) == []


# --- how many, and for how long --------------------------------------------------------------------------------------


async def test_a_login_beyond_the_most_sessions_ends_the_oldest(url: str, settings_for: SettingsFor) -> None:
    settings = settings_for(url, AUTH__MAX_SESSIONS_PER_USER="3", AUTH__THROTTLE__ACCOUNT_FREE_ATTEMPTS="50")
    async with running(settings) as app, Client(app.address, url) as client:
        bob = await client.user("bob@example.com")
        logins = [await client.user(), *[await client.login("ada@example.com") for _ in range(2)]]
        # Sessions that have ended do not count.
        await revoke(client, logins[2], logins[1])
        logins += [await client.login("ada@example.com")]
        assert [event for event in await told(client, logins[0]) if event[1]["reason"] != "revoked"] == []
        logins += [await client.login("ada@example.com")]
        assert [await alive(client, login) for login in logins] == [False, False, True, True, True]
        (event,) = [event for event in await told(client, logins[0]) if event[1]["reason"] != "revoked"]
        assert event == ("session.revoked", {"session_id": logins[0].session_id, "reason": "too_many_sessions"})
        assert await alive(client, bob)
        await asyncio.gather(*(client.login("ada@example.com") for _ in range(12)))
        newest = await client.login("ada@example.com")
        assert len(await listed(client, newest)) == 3
        assert await alive(client, newest)


@pytest.mark.usefixtures("eager_jobs")
async def test_sessions_are_removed_a_week_after_their_end(client: Client) -> None:
    ada = await client.user()
    old, recent, expired = [await client.login("ada@example.com") for _ in range(3)]
    for login in (old, recent):
        await revoke(client, ada, login)
    age = "UPDATE sessions SET revoke_time = now() - %s::interval WHERE id = %s::uuid"
    await client.sql(age, "7 days 1 minute", old.session_id)
    await client.sql(age, "6 days 23 hours", recent.session_id)
    await client.sql(
        "UPDATE sessions SET expire_time = now() - interval '8 days' WHERE id = %s::uuid", expired.session_id
    )
    await client.sql("UPDATE jobs SET next_run_time = now() WHERE name = 'sessions.prune'")
    async with asyncio.timeout(20):
        while await client.sql("SELECT 1 FROM jobs WHERE name = 'sessions.prune' AND runs = 1") != [(1,)]:
            await asyncio.sleep(0.05)
    kept = await client.sql("SELECT id::text FROM sessions")
    assert {session_id for (session_id,) in kept} == {ada.session_id, recent.session_id}
    named = sessions_pb2.GetSessionRequest(user_id=ada.user_id, session_id=old.session_id)
    assert (await failure(client.sessions.GetSession(named, metadata=ada.metadata))).reason == "SESSION_NOT_FOUND"
    assert not await alive(client, old)


async def test_the_outcomes_of_refreshes_are_counted(app: App, client: Client) -> None:
    ada = await client.user()
    second = await client.refresh(ada.refresh_token)
    await client.refresh(ada.refresh_token)
    await client.refresh(second.refresh_token)
    assert not await alive(client, ada)
    assert not await alive(client, ada)
    page = (await get(app, "/metrics")).decode()
    for outcome, count in (("success", 2), ("retried", 1), ("reused", 1), ("refused", 1)):
        assert f'gatelodge_refreshes_total{{outcome="{outcome}"}} {count}.0' in page


async def test_a_session_without_its_event_is_not_opened(client: Client) -> None:
    await client.register("ada@example.com")
    await client.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''full''; END'"
    )
    await client.sql("CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()")
    request = auth_pb2.LoginRequest(email="ada@example.com", password=PASSWORD)
    assert (await failure(client.auth.Login(request))).code is grpc.StatusCode.INTERNAL
    assert await client.sql("SELECT count(*) FROM sessions") == [(0,)]


async def test_times_are_those_of_the_login(client: Client) -> None:
    before = datetime.now(UTC)
    ada = await client.user()
    opened = (await shown(client, ada, ada)).create_time.ToDatetime(UTC)
    assert before <= opened <= datetime.now(UTC)
