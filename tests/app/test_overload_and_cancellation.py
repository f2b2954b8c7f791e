"""The hash queue is bounded, and whoever goes away leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from gatelodge.auth.v1 import auth_pb2
from grpc_health.v1 import health_pb2
from tests.app.client import PASSWORD, Client, Failure, taken_apart
from tests.app.test_health import get

from service.app import running

if TYPE_CHECKING:
    from tests.app.conftest import SettingsFor

    from service.app import App

SLOW_HASHES = {"AUTH__ARGON2__MEMORY_KIB": "65536", "AUTH__ARGON2__TIME_COST": "4", "AUTH__ARGON2__HASH_THREADS": "1"}

_RUNNING = (
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%FROM users%%' AND state = 'active'"
    " AND pid <> pg_backend_pid() AND datname = current_database()"
)


async def attempt(client: Client) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.auth.Login(auth_pb2.LoginRequest(email="nobody@example.com", password=PASSWORD), timeout=20)
    return taken_apart(caught.value)


async def hashes(app: App) -> int:
    """Return how many hashes were computed."""
    page = (await get(app, "/metrics")).decode()
    name = "gatelodge_password_hash_duration_seconds_count"
    return int(sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name)))


async def test_when_the_hash_queue_is_full_logins_are_refused_at_once_and_other_calls_go_on(
    url: str, settings_for: SettingsFor
) -> None:
    settings = settings_for(
        url, **SLOW_HASHES, AUTH__ARGON2__HASH_QUEUE="2", AUTH__THROTTLE__ACCOUNT_FREE_ATTEMPTS="100"
    )
    async with running(settings) as app, Client(app.address, url) as client:
        ada = await client.user()
        storm = [asyncio.ensure_future(attempt(client)) for _ in range(20)]
        start = time.perf_counter()
        await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata, timeout=5)
        assert time.perf_counter() - start < 1
        failures = await asyncio.gather(*storm)
        refused = [failed for failed in failures if failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert len(failures) - len(refused) == 3  # one in the thread, two waiting
        for failed in refused:
            assert (failed.reason, failed.info.metadata["resource"]) == ("OVERLOADED", "password_hashing")
            assert failed.details["RetryInfo"].retry_delay.ToMilliseconds() > 0
        page = (await get(app, "/metrics")).decode()
        assert f"gatelodge_password_hash_refused_total {len(refused)}.0" in page
        assert "gatelodge_password_hash_queued 0.0" in page


async def test_a_caller_who_goes_away_gives_the_waiting_hash_slot_back(url: str, settings_for: SettingsFor) -> None:
    settings = settings_for(url, **SLOW_HASHES, AUTH__ARGON2__HASH_QUEUE="2")
    async with running(settings) as app, Client(app.address, url) as client:
        before = await hashes(app)
        calls = [
            client.auth.Login(auth_pb2.LoginRequest(email="nobody@example.com", password=PASSWORD)) for _ in range(3)
        ]
        await asyncio.sleep(0.1)
        for call in calls:
            call.cancel()
        async with asyncio.timeout(20):
            while (await attempt(client)).reason != "LOGIN_FAILED":
                await asyncio.sleep(0.01)
        assert await hashes(app) - before <= 2  # the one that was on its way when its caller went, and the last


async def test_a_cancelled_or_late_call_ends_its_sql_and_returns_its_connection(
    url: str, settings_for: SettingsFor
) -> None:
    settings = settings_for(url, DATABASE__POOL_MAX_SIZE="2")
    async with running(settings) as app, Client(app.address, url) as client:
        ada = await client.user()
        await client.sql("ALTER TABLE users RENAME TO people")
        await client.sql("CREATE VIEW users AS SELECT people.* FROM people, (SELECT pg_sleep(30)) AS slow")
        calls = [client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata, timeout=0.5) for _ in range(4)]
        await asyncio.sleep(0.2)
        calls[0].cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, (grpc.aio.AioRpcError, asyncio.CancelledError)) for outcome in outcomes)
        async with asyncio.timeout(10):  # the statements by themselves would take 30 s
            while await client.sql(_RUNNING) != [(0,)]:
                await asyncio.sleep(0.02)
        await client.sql("DROP VIEW users")
        await client.sql("ALTER TABLE people RENAME TO users")
        await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata, timeout=15)


async def test_a_pool_that_is_merely_busy_does_not_make_the_process_unready(
    url: str, settings_for: SettingsFor
) -> None:
    settings = settings_for(url, DATABASE__POOL_MIN_SIZE="2", DATABASE__POOL_MAX_SIZE="2")
    async with running(settings) as app, Client(app.address, url) as client:
        ada = await client.user()
        await client.sql("ALTER TABLE users RENAME TO people")
        await client.sql("CREATE VIEW users AS SELECT people.* FROM people, (SELECT pg_sleep(3)) AS slow")
        calls = [client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata, timeout=3) for _ in range(6)]
        await asyncio.sleep(2.5)
        answer = await client.health.Check(health_pb2.HealthCheckRequest(service="readiness"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for call in calls:
            call.cancel()


async def test_a_call_without_a_deadline_gets_the_servers(url: str, settings_for: SettingsFor) -> None:
    settings = settings_for(url, SERVER__DEFAULT_DEADLINE_SECONDS="0.3")
    async with running(settings) as app, Client(app.address, url) as client:
        ada = await client.user()
        await client.sql("ALTER TABLE users RENAME TO people")
        await client.sql("CREATE VIEW users AS SELECT people.* FROM people, (SELECT pg_sleep(30)) AS slow")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata)
        late = taken_apart(caught.value)
        assert (late.code, late.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
