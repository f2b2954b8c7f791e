"""How often passwords may be guessed, over every path and every replica."""

from __future__ import annotations

import asyncio
import unicodedata
import urllib.request
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from gatelodge.auth.v1 import auth_pb2
from gatelodge.users.v1 import users_pb2
from tests.app.client import PASSWORD, Client, failure, taken_apart
from tests.app.conftest import environment
from tests.app.process import serving

from service.app import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.app.conftest import SettingsFor

    from service.app import App

ADA = "ada@example.com"
WRONG = "not the right password"
SLOW = {"AUTH__ARGON2__MEMORY_KIB": "32768", "AUTH__ARGON2__TIME_COST": "14"}
"""A third of a second a hash on an idle machine."""


@pytest.fixture
async def app(url: str, settings_for: SettingsFor) -> AsyncIterator[App]:
    """A service whose first wait is long, so that a slow machine's tests do not outlast it."""
    async with running(settings_for(url, AUTH__THROTTLE__BASE_DELAY_SECONDS="300")) as started:
        yield started


def wrong(email: str = ADA, password: str = WRONG, device_token: str = "") -> auth_pb2.LoginRequest:
    return auth_pb2.LoginRequest(email=email, password=password, device_token=device_token)


async def outcome(client: Client, request: auth_pb2.LoginRequest, **how: object) -> str:
    """Return the reason of a login's failure; "" if it succeeded."""
    try:
        await client.auth.Login(request, **how)  # type: ignore[arg-type]  # metadata and timeout
    except grpc.aio.AioRpcError as error:
        return taken_apart(error).reason
    return ""


async def exhaust(client: Client, email: str = ADA) -> None:
    for _ in range(10):
        assert await outcome(client, wrong(email)) == "LOGIN_FAILED"


def hashes(ops_address: str) -> float:
    """Return how many password hashes a process has computed."""
    page = urllib.request.urlopen(f"http://{ops_address}/metrics").read().decode()
    name = "gatelodge_password_hash_duration_seconds_count"
    return sum(float(line.split()[1]) for line in page.splitlines() if line.startswith(name))


@pytest.mark.parametrize(("free", "evaluated"), [(10, 10), (1000, 200)], ids=["limited", "negative control"])
async def test_200_guesses_at_once_over_two_processes_evaluate_no_more_than_the_limit(
    url: str, tmp_path: Path, free: int, evaluated: int
) -> None:
    environ = environment(
        url,
        tmp_path,
        AUTH__THROTTLE__ACCOUNT_FREE_ATTEMPTS=str(free),
        AUTH__THROTTLE__SOURCE_FREE_ATTEMPTS="10000",
        AUTH__THROTTLE__BASE_DELAY_SECONDS="300",
        AUTH__ARGON2__HASH_QUEUE="1000",
    )
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(environ)) for _ in range(2)]
        clients = [await stack.enter_async_context(Client(server.address, url)) for server in servers]
        await clients[0].register(ADA)
        before = [await asyncio.to_thread(hashes, server.ops_address) for server in servers]
        reasons = await asyncio.gather(*(outcome(clients[number % 2], wrong()) for number in range(200)))
        after = [await asyncio.to_thread(hashes, server.ops_address) for server in servers]
    assert reasons.count("LOGIN_FAILED") == evaluated
    assert reasons.count("TOO_MANY_ATTEMPTS") == 200 - evaluated
    assert sum(after) - sum(before) == evaluated


async def test_too_many_attempts_are_told_when_the_next_is_taken_alike_for_known_and_unknown(client: Client) -> None:
    await client.register(ADA)
    refusals = []
    for email in (ADA, "nobody@example.com"):
        await exhaust(client, email)
        refusals.append(await failure(client.auth.Login(wrong(email))))
    known, unknown = refusals
    assert (known.code, known.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ATTEMPTS")
    assert 0 < known.details["RetryInfo"].retry_delay.ToTimedelta().total_seconds() <= 300
    assert (known.code, known.message, known.info) == (unknown.code, unknown.message, unknown.info)
    assert known.details.keys() == unknown.details.keys()


async def test_a_refused_attempt_reaches_neither_the_users_nor_the_hasher(client: Client, app: App) -> None:
    await client.register(ADA)
    await exhaust(client)
    await client.sql("UPDATE password_attempts SET attempts = 30")
    await client.sql("ALTER TABLE users RENAME TO hidden")
    before = await asyncio.to_thread(hashes, str(app.ops_address))
    assert await outcome(client, wrong(password=PASSWORD)) == "TOO_MANY_ATTEMPTS"
    assert await asyncio.to_thread(hashes, str(app.ops_address)) == before


async def test_login_and_change_password_share_one_counter(client: Client) -> None:
    ada = await client.user(ADA)
    bob = await client.user("bob@example.com")
    change = auth_pb2.ChangePasswordRequest(current_password=WRONG, new_password="an utterly different phrase")
    await exhaust(client)
    refused = await failure(client.auth.ChangePassword(change, metadata=ada.metadata))
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ATTEMPTS")
    assert refused.details["RetryInfo"].retry_delay.ToTimedelta().total_seconds() > 0
    for _ in range(10):
        assert (await failure(client.auth.ChangePassword(change, metadata=bob.metadata))).reason == "PASSWORD_WRONG"
    assert await outcome(client, wrong("bob@example.com", PASSWORD)) == "TOO_MANY_ATTEMPTS"


async def test_all_spellings_of_an_address_share_one_counter(client: Client) -> None:
    spellings = (
        "jürgen@bücher.example",
        "JÜRGEN@bücher.example",
        unicodedata.normalize("NFD", "jürgen@bücher.example"),
        "Jürgen@xn--bcher-kva.example",
        "jürgen@BÜCHER.EXAMPLE",
    )
    for spelling in spellings * 2:
        assert await outcome(client, wrong(spelling)) == "LOGIN_FAILED"
    for spelling in spellings:
        assert await outcome(client, wrong(spelling)) == "TOO_MANY_ATTEMPTS"


async def test_a_known_device_gets_in_while_strangers_have_locked_the_account(client: Client) -> None:
    await client.register(ADA)
    await client.register("bob@example.com")
    known = await client.auth.Login(wrong(password=PASSWORD))
    bobs = await client.auth.Login(wrong("bob@example.com", PASSWORD))
    await exhaust(client)
    assert await outcome(client, wrong(password=PASSWORD)) == "TOO_MANY_ATTEMPTS"
    token = known.device_token
    tampered = token[:20] + ("A" if token[20] != "A" else "B") + token[21:]
    for worthless in (bobs.device_token, tampered, token[4:], "gld_", known.refresh_token, "x" * 512):
        assert await outcome(client, wrong(password=PASSWORD, device_token=worthless)) == "TOO_MANY_ATTEMPTS"
    again = await client.auth.Login(wrong(password=PASSWORD, device_token=token))
    assert await outcome(client, wrong(password=PASSWORD, device_token=again.device_token)) == ""
    for _ in range(10):
        assert await outcome(client, wrong(device_token=token)) == "LOGIN_FAILED"
    assert await outcome(client, wrong(password=PASSWORD, device_token=again.device_token)) == "TOO_MANY_ATTEMPTS"


async def test_right_passwords_are_never_too_many(client: Client) -> None:
    await client.register(ADA)
    for _ in range(25):
        await client.login(ADA)
    assert await client.sql("SELECT DISTINCT attempts FROM password_attempts") == [(0,)]


async def test_guesses_that_are_cancelled_or_too_late_stay_counted(url: str, settings_for: SettingsFor) -> None:
    async with running(settings_for(url, **SLOW)) as app, Client(app.address, url) as client:
        for number in (1, 2):
            call = client.auth.Login(wrong())
            await attempts_are(client, number)
            call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.auth.Login(wrong(), timeout=0.15)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.sleep(1)
        await attempts_are(client, 3)


async def attempts_are(client: Client, number: int) -> None:
    async with asyncio.timeout(40):
        while [round(attempts) for (attempts,) in await open_attempts(client)] != [number, number]:
            await asyncio.sleep(0.01)


async def open_attempts(client: Client) -> Sequence[tuple[float]]:
    return await client.sql("SELECT attempts FROM password_attempts ORDER BY attempts")


async def test_an_attempt_that_the_server_is_too_busy_for_is_not_counted(url: str, settings_for: SettingsFor) -> None:
    settings = settings_for(url, AUTH__ARGON2__HASH_THREADS="1", AUTH__ARGON2__HASH_QUEUE="0", **SLOW)
    async with running(settings) as app, Client(app.address, url) as client:
        busy = asyncio.ensure_future(outcome(client, wrong()))
        await attempts_are(client, 1)
        for _ in range(15):
            assert await outcome(client, wrong("bob@example.com")) == "OVERLOADED"
        assert await busy == "LOGIN_FAILED"
        # Ada's, and the source's with hers alone. Bob's, if one was counted before hers was hashed, was given back.
        assert [round(attempts) for (attempts,) in await open_attempts(client) if attempts] == [1, 1]


async def test_a_process_that_dies_in_the_middle_of_a_guess_leaves_it_counted(url: str, tmp_path: Path) -> None:
    async with serving(environment(url, tmp_path, **SLOW)) as server, Client(server.address, url) as client:
        call = asyncio.ensure_future(client.auth.Login(wrong()).wait_for_connection())
        await attempts_are(client, 1)
        server.process.kill()
        await server.process.wait()
        await asyncio.wait([call])
        await attempts_are(client, 1)


async def test_what_cannot_be_counted_is_refused(client: Client) -> None:
    await client.register(ADA)
    await client.sql("ALTER TABLE password_attempts RENAME TO gone")
    assert await outcome(client, wrong(password=PASSWORD)) not in {"", "LOGIN_FAILED"}


async def test_one_source_is_limited_whatever_it_says_it_is(url: str, settings_for: SettingsFor) -> None:
    settings = settings_for(url, AUTH__THROTTLE__SOURCE_FREE_ATTEMPTS="5", AUTH__THROTTLE__BASE_DELAY_SECONDS="300")
    async with running(settings) as app, Client(app.address, url) as client:
        reasons = [
            await outcome(client, wrong(f"user{n}@example.com"), metadata=(("x-forwarded-for", f"203.0.113.{n}"),))
            for n in range(8)
        ]
    assert reasons == ["LOGIN_FAILED"] * 5 + ["TOO_MANY_ATTEMPTS"] * 3


async def test_behind_a_trusted_proxy_each_source_is_limited_alone(url: str, settings_for: SettingsFor) -> None:
    settings = settings_for(
        url,
        SERVER__TRUSTED_PROXIES='["127.0.0.0/8"]',
        AUTH__THROTTLE__SOURCE_FREE_ATTEMPTS="2",
        AUTH__THROTTLE__BASE_DELAY_SECONDS="300",
    )

    async def guess(n: int, source: str) -> str:
        return await outcome(client, wrong(f"user{n}@example.com"), metadata=(("x-forwarded-for", source),))

    async with running(settings) as app, Client(app.address, url) as client:
        for number in range(6):
            assert await guess(number, f"203.0.113.{number}") == "LOGIN_FAILED"
        spoofed = [await guess(10 + n, f"203.0.113.{100 + n}, 198.51.100.7") for n in range(4)]
        assert spoofed == ["LOGIN_FAILED"] * 2 + ["TOO_MANY_ATTEMPTS"] * 2
        await client.auth.Register(
            auth_pb2.RegisterRequest(email=ADA, password=PASSWORD), metadata=(("x-forwarded-for", "2001:db8::1"),)
        )
        assert await client.sql("SELECT source FROM events WHERE type = 'user.registered'") == [("2001:db8::1",)]


async def test_operators_are_told_until_when_an_account_is_throttled(client: Client, app: App) -> None:
    root = await client.administrator()
    await client.register(ADA)
    explain = users_pb2.ExplainLoginRequest(email=ADA)
    await exhaust(client)
    await client.sql("UPDATE password_attempts SET attempts = attempts + 5")
    told = await client.users.ExplainLogin(explain, metadata=root.metadata)
    assert list(told.obstacles) == [users_pb2.ExplainLoginResponse.OBSTACLE_THROTTLED]
    assert not told.can_log_in
    assert told.throttled_until.seconds > 0
    await outcome(client, wrong())
    page = (await asyncio.to_thread(urllib.request.urlopen, f"http://{app.ops_address}/metrics")).read().decode()
    assert 'gatelodge_password_attempts_refused_total{scope="account"} 1.0' in page
    assert 'gatelodge_logins_total{outcome="throttled"} 1.0' in page
    await client.sql("DELETE FROM password_attempts")
    told = await client.users.ExplainLogin(explain, metadata=root.metadata)
    assert told.can_log_in
    assert not told.HasField("throttled_until")
