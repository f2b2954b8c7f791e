"""Refresh: one successor however often it is asked for, and the end of the session for whoever comes too late (E8)."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import jwt
import psycopg
import pytest
from argon2 import PasswordHasher
from gatelodge.auth.v1 import auth_pb2
from gatelodge.users.v1 import users_pb2
from tests.app.client import PASSWORD, Client, Failure, Login, failure
from tests.app.conftest import environment
from tests.app.process import serving

from service.app import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from tests.app.conftest import SettingsFor


@dataclass
class Clock:
    """A clock that the test moves. It starts now: other parts of the service look at the database's."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def pass_(self, **time: float) -> None:
        self.ahead += timedelta(**time)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(url: str, settings_for: SettingsFor, clock: Clock) -> AsyncIterator[Client]:
    async with running(settings_for(url), clock=clock) as app, Client(app.address, url) as connected:
        yield connected


async def refused(client: Client, token: str) -> Failure:
    return await failure(client.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=token)))


async def rows(client: Client) -> list[tuple[Any, ...]]:
    return await client.sql("SELECT generation, revoke_reason FROM sessions ORDER BY create_time")


async def events(client: Client, kind: str) -> list[dict[str, Any]]:
    found = await client.sql("SELECT payload FROM events WHERE type = %s ORDER BY id", kind)
    return [payload for (payload,) in found]


def claims(token: str) -> dict[str, Any]:
    decoded: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return decoded


# --- the good cases --------------------------------------------------------------------------------------------------


async def test_a_refresh_gives_a_successor_and_an_access_token_of_the_same_session(client: Client) -> None:
    ada = await client.user()
    answer = await client.refresh(ada.refresh_token)
    assert answer.refresh_token not in {"", ada.refresh_token}
    old, new = claims(ada.token), claims(answer.access_token)
    assert (new["sub"], new["sid"], new["ver"]) == (ada.user_id, ada.session_id, old["ver"])
    assert new["jti"] != old["jti"]
    metadata = (("authorization", f"Bearer {answer.access_token}"),)
    assert (await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=metadata)).user.id == ada.user_id
    third = await client.refresh(answer.refresh_token)
    assert len({ada.refresh_token, answer.refresh_token, third.refresh_token}) == 3
    assert await rows(client) == [(3, "")]


async def test_roles_are_those_of_now(client: Client) -> None:
    ada = await client.user()
    await client.sql("UPDATE users SET roles = '{admin}'")
    assert claims((await client.refresh(ada.refresh_token)).access_token)["roles"] == ["admin"]


async def test_within_the_grace_a_repeat_gets_the_same_successor_and_rotates_nothing(
    client: Client, clock: Clock
) -> None:
    ada = await client.user()
    first = await client.refresh(ada.refresh_token)
    clock.pass_(seconds=8)
    again = await client.refresh(ada.refresh_token)
    assert again.refresh_token == first.refresh_token
    assert claims(again.access_token)["jti"] != claims(first.access_token)["jti"]
    assert await rows(client) == [(2, "")]
    await client.refresh(again.refresh_token)


async def test_a_repeat_does_not_prolong_the_grace(client: Client, clock: Clock) -> None:
    ada = await client.user()
    await client.refresh(ada.refresh_token)
    clock.pass_(seconds=8)
    await client.refresh(ada.refresh_token)
    clock.pass_(seconds=8)
    assert (await refused(client, ada.refresh_token)).reason == "REFRESH_TOKEN_INVALID"


async def test_fifty_at_once_on_two_replicas_get_one_successor(url: str, settings_for: SettingsFor) -> None:
    settings = settings_for(url)
    async with (
        running(settings) as one,
        running(settings) as two,
        Client(one.address, url) as here,
        Client(two.address, url) as there,
    ):
        ada = await here.user()
        answers = await asyncio.gather(*((here, there)[turn % 2].refresh(ada.refresh_token) for turn in range(50)))
        assert len({answer.refresh_token for answer in answers}) == 1
        assert await rows(here) == [(2, "")]
        await there.refresh(answers[0].refresh_token)


@pytest.mark.parametrize(("grace", "lives"), [("10", True), ("0", False)])
async def test_a_server_killed_between_commit_and_answer_logs_nobody_out(
    url: str,
    tmp_path: Path,
    grace: str,
    lives: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """And without a grace, which is the control, it does: that is a token used twice."""
    environ = environment(url, tmp_path, SERVER__PORT="0", OPS__ENABLED="false", AUTH__REFRESH_GRACE_SECONDS=grace)
    async with serving(environ) as second, Client(second.address, url) as there:
        async with serving(environ) as first, swallowing(first.address) as proxy, Client(proxy.address, url) as here:
            ada = await here.user()
            proxy.swallow = True
            lost = asyncio.ensure_future(here.refresh(ada.refresh_token))
            async with asyncio.timeout(10):
                while await rows(here) != [(2, "")]:
                    await asyncio.sleep(0.01)
            assert not lost.done()
            first.process.kill()
            await first.process.wait()
            proxy.break_off()
            with pytest.raises((AssertionError, grpc.aio.AioRpcError)):
                await lost
        if lives:
            answer = await there.refresh(ada.refresh_token)
            assert await rows(there) == [(2, "")]
            await there.refresh(answer.refresh_token)
        else:
            assert (await refused(there, ada.refresh_token)).reason == "REFRESH_TOKEN_INVALID"
            assert await rows(there) == [(2, "refresh_token_reused")]


@dataclass
class Proxy:
    """Stands between a client and a server; loses the answers when told to."""

    address: str = ""
    swallow: bool = False
    writers: tuple[asyncio.StreamWriter, ...] = ()

    def break_off(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


@asynccontextmanager
async def swallowing(address: str) -> AsyncIterator[Proxy]:
    proxy = Proxy()
    host, port = address.rsplit(":", 1)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await reader.read(65_536):
            if not (answers and proxy.swallow):
                writer.write(data)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection(host, int(port))
        proxy.writers += (writer, to_there)
        await asyncio.gather(
            pass_on(reader, to_there, answers=False), pass_on(there, writer, answers=True), return_exceptions=True
        )

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        proxy.break_off()


# --- reuse -----------------------------------------------------------------------------------------------------------


async def test_a_token_used_again_after_the_grace_ends_its_session_on_the_record(client: Client, clock: Clock) -> None:
    ada = await client.user()
    other = await client.login("ada@example.com")
    thief = await client.refresh(ada.refresh_token)
    clock.pass_(seconds=11)
    assert (await refused(client, ada.refresh_token)).reason == "REFRESH_TOKEN_INVALID"
    assert await rows(client) == [(2, "refresh_token_reused"), (1, "")]
    assert await events(client, "session.revoked") == [{"session_id": ada.session_id, "reason": "refresh_token_reused"}]
    assert (await refused(client, thief.refresh_token)).reason == "REFRESH_TOKEN_INVALID"
    await client.refresh(other.refresh_token)
    await refused(client, ada.refresh_token)
    assert len(await events(client, "session.revoked")) == 1


async def test_a_token_two_generations_old_ends_its_session_even_within_the_grace(client: Client) -> None:
    ada = await client.user()
    second = await client.refresh(ada.refresh_token)
    third = await client.refresh(second.refresh_token)
    assert (await client.refresh(second.refresh_token)).refresh_token == third.refresh_token
    await refused(client, ada.refresh_token)
    assert await rows(client) == [(3, "refresh_token_reused")]


async def test_a_token_of_a_time_that_the_database_lost_is_refused_and_ends_nothing(client: Client) -> None:
    ada = await client.user()
    before = await client.sql("SELECT generation, refresh_hash, refresh_salt, last_use_time FROM sessions")
    second = await client.refresh(ada.refresh_token)
    await client.sql(
        "UPDATE sessions SET generation = %s, refresh_hash = %s, refresh_salt = %s, last_use_time = %s", *before[0]
    )
    await refused(client, second.refresh_token)
    await client.refresh(ada.refresh_token)


# --- refusals --------------------------------------------------------------------------------------------------------


async def test_garbage_is_refused_without_asking_the_database(client: Client) -> None:
    ada = await client.user()
    await client.sql("ALTER TABLE sessions RENAME TO elsewhere")
    for token in ("x", "glr_" + "A" * 112, ada.refresh_token[:-4] + "AAAA", ada.refresh_token + "="):
        assert (await refused(client, token)).reason == "REFRESH_TOKEN_INVALID"
    assert (await refused(client, ada.refresh_token)).reason == "INTERNAL", "the control: a token of ours is looked up"


async def test_every_refusal_looks_alike(client: Client, clock: Clock) -> None:
    root = await client.administrator()
    people = {name: await client.user(f"{name}@example.com") for name in ("off", "gone", "erased", "out", "reused")}
    await client.users.DisableUser(users_pb2.DisableUserRequest(user_id=people["off"].user_id), metadata=root.metadata)
    await client.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=people["gone"].user_id), metadata=root.metadata)
    await client.users.EraseUser(users_pb2.EraseUserRequest(user_id=people["erased"].user_id), metadata=root.metadata)
    await client.auth.Logout(auth_pb2.LogoutRequest(), metadata=people["out"].metadata)
    await client.refresh(people["reused"].refresh_token)
    clock.pass_(minutes=1)
    tokens = ["garbage", *(person.refresh_token for person in people.values())]
    failures = [await refused(client, token) for token in tokens]
    clock.pass_(days=8)
    failures.append(await refused(client, root.refresh_token))
    assert {(f.code, f.reason, f.message, tuple(f.info.metadata)) for f in failures} == {
        (grpc.StatusCode.UNAUTHENTICATED, "REFRESH_TOKEN_INVALID", failures[0].message, ())
    }
    assert len({len(bytes(f.metadata["grpc-status-details-bin"])) for f in failures}) == 1  # type: ignore[arg-type]
    # what the metadata of a failure holds is bytes under this key


@pytest.mark.parametrize("change", ["UPDATE users SET state = 'disabled'", "UPDATE users SET delete_time = now()"])
async def test_a_user_who_may_not_log_in_gets_no_tokens_although_the_session_lives(client: Client, change: str) -> None:
    ada = await client.user()
    await client.sql(change)
    await refused(client, ada.refresh_token)
    assert await rows(client) == [(1, "")]


async def test_a_session_ends_when_it_is_not_used_for_a_week(client: Client, clock: Clock) -> None:
    ada, bob = await client.user(), await client.user("bob@example.com")
    clock.pass_(days=6.9)
    kept = await client.refresh(bob.refresh_token)
    clock.pass_(days=0.2)
    await refused(client, ada.refresh_token)
    await client.refresh(kept.refresh_token)


async def test_an_access_token_does_not_outlive_a_session_that_lies_idle(
    url: str, settings_for: SettingsFor, clock: Clock
) -> None:
    settings = settings_for(url, AUTH__SESSION_IDLE_DAYS=str(5 / 1440), AUTH__ACCESS_TOKEN_TTL_SECONDS="900")
    async with running(settings, clock=clock) as app, Client(app.address, url) as client:
        ada = await client.user()
        clock.pass_(minutes=4)
        refreshed = await client.refresh(ada.refresh_token)
        for token in (ada.token, refreshed.access_token):
            claims = jwt.decode(token, options={"verify_signature": False})
            assert 290 <= claims["exp"] - claims["iat"] <= 300
        clock.pass_(minutes=5.1)
        # What ends sessions passes over those that have ended by themselves, so their tokens must have, too.
        late = Login(ada.user_id, refreshed.access_token)
        assert (await failure(client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=late.metadata))).reason == (
            "CREDENTIALS_INVALID"
        )


async def test_a_session_ends_after_thirty_days_however_much_it_is_used(client: Client, clock: Clock) -> None:
    ada = await client.user()
    token = ada.refresh_token
    for _ in range(5):
        clock.pass_(days=5.99)
        answer = await client.refresh(token)
        token = answer.refresh_token
    left = answer.session_expire_time.ToDatetime(UTC) - clock()
    assert timedelta() < left < timedelta(hours=2)
    clock.pass_(seconds=left.total_seconds() - 300)
    answer = await client.refresh(token)
    assert claims(answer.access_token)["exp"] == answer.session_expire_time.seconds, "no access token outlives it"
    assert answer.expire_time.seconds == answer.session_expire_time.seconds
    clock.pass_(seconds=301)
    await refused(client, answer.refresh_token)


# --- races -----------------------------------------------------------------------------------------------------------

WAIT = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$
"""
WAIT_BEFORE_INSERT = "CREATE TRIGGER wait BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION wait()"
WAIT_BEFORE_ROTATION = """
    CREATE TRIGGER wait BEFORE UPDATE ON sessions FOR EACH ROW WHEN (NEW.generation > OLD.generation)
    EXECUTE FUNCTION wait()
"""


def ending(client: Client, how: str, root: Login, ada: Login) -> Awaitable[object]:
    if how == "LogoutAll":
        return client.auth.LogoutAll(auth_pb2.LogoutAllRequest(), metadata=ada.metadata)
    if how == "DisableUser":
        return client.users.DisableUser(users_pb2.DisableUserRequest(user_id=ada.user_id), metadata=root.metadata)
    return client.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=ada.user_id), metadata=root.metadata)


@pytest.mark.parametrize("how", ["LogoutAll", "DisableUser", "DeleteUser"])
@pytest.mark.parametrize("what", ["login", "refresh"])
async def test_what_ends_all_sessions_cannot_be_outrun(client: Client, how: str, what: str) -> None:
    """The login or refresh stands between having read the user and writing its session when the end of all comes."""
    root, ada = await client.administrator(), await client.user()
    await client.sql(WAIT)
    await client.sql(WAIT_BEFORE_INSERT if what == "login" else WAIT_BEFORE_ROTATION)
    async with held(client, "SELECT pg_advisory_xact_lock(1)"):
        late: asyncio.Task[Any] = asyncio.ensure_future(
            client.login("ada@example.com") if what == "login" else client.refresh(ada.refresh_token)
        )
        await until_waiting(client)
        end = asyncio.ensure_future(ending(client, how, root, ada))
        await asyncio.wait({end}, timeout=0.5)
    got = await late
    await end
    living = "SELECT count(*) FROM sessions WHERE user_id = %s::uuid AND revoke_time IS NULL"
    assert await client.sql(living, ada.user_id) == [(0,)]
    ((version,),) = await client.sql("SELECT token_version FROM users WHERE id = %s::uuid", ada.user_id)
    token = got.token if isinstance(got, Login) else got.access_token
    assert claims(token)["ver"] < version
    await refused(client, got.refresh_token)


@pytest.mark.parametrize("how", ["LogoutAll", "DisableUser", "DeleteUser"])
async def test_refreshes_and_the_end_of_all_at_once_leave_nothing_alive(client: Client, how: str) -> None:
    root = await client.administrator()
    for number in range(5):
        email = f"user{number}@example.com"
        ada = await client.user(email)
        chances = [client.refresh((await client.login(email)).refresh_token) for _ in range(6)]
        outcomes = await asyncio.gather(ending(client, how, root, ada), *chances, return_exceptions=True)
        ((version,),) = await client.sql("SELECT token_version FROM users WHERE id = %s::uuid", ada.user_id)
        for outcome in outcomes[1:]:
            if isinstance(outcome, auth_pb2.RefreshResponse):
                assert claims(outcome.access_token)["ver"] < version
                await refused(client, outcome.refresh_token)
    assert await client.sql("SELECT count(*) FROM sessions WHERE revoke_time IS NULL") == [(1,)], "root's own"


@pytest.mark.parametrize(("password", "let_in"), [("another password altogether", False), (PASSWORD, True)])
async def test_a_login_with_a_password_changed_meanwhile_opens_nothing(
    client: Client,
    password: str,
    let_in: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """But a hash brought up to date meanwhile, of the same password, does no harm."""
    await client.register("ada@example.com")
    change = "UPDATE passwords SET hash = %s"
    async with held(client, "SELECT 1 FROM users FOR UPDATE", change, PasswordHasher(1, 64, 1).hash(password)):
        login = asyncio.ensure_future(client.login("ada@example.com"))
        await until_waiting(client)
    if let_in:
        await login
    else:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await login
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert await client.sql("SELECT count(*) FROM sessions") == [(int(let_in),)]


@asynccontextmanager
async def held(client: Client, lock: str, change: str = "", *values: object) -> AsyncIterator[None]:
    """Hold a lock beside the service; change something before it is let go."""

    async with await psycopg.AsyncConnection.connect(client.database_url) as conn:
        await conn.execute(lock.encode())
        yield
        if change:
            await conn.execute(change.encode(), values)
        await conn.commit()


async def until_waiting(client: Client) -> None:
    async with asyncio.timeout(10):
        while not await client.sql(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)


# --- what is kept ----------------------------------------------------------------------------------------------------


async def everything(client: Client) -> str:
    """Return all rows of all tables as PostgreSQL prints them."""
    tables = await client.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return "\n".join([str(await client.sql(f"SELECT t::text FROM {table} t")) for (table,) in tables])


async def test_no_refresh_token_is_anywhere_in_the_database(client: Client) -> None:
    ada = await client.user()
    second = await client.refresh(ada.refresh_token)
    await refused(client, ada.refresh_token + "A")
    kept = await everything(client)
    assert ada.session_id in kept
    for text in (ada.refresh_token, second.refresh_token):
        assert not [trace for trace in traces(text) if trace in kept]
    await client.sql("UPDATE sessions SET user_agent = %s", second.refresh_token)
    found = await everything(client)
    assert traces(second.refresh_token)[0] in found, "the control: what is there is found"


def traces(text: str) -> list[str]:
    """Return what would give the token away: its text, and its secret in the writings that PostgreSQL prints."""

    secret = base64.urlsafe_b64decode(text.removeprefix("glr_"))[36:68]
    return [text[4:], text[60:90], text.encode().hex(), secret.hex(), base64.b64encode(secret).decode()[:40]]
