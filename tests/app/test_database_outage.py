"""PostgreSQL killed under a stream of calls: only UNAVAILABLE, in time, and all is well soon after it is back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import grpc
from gatelodge.auth.v1 import auth_pb2
from grpc_health.v1 import health_pb2
from tests.app.client import Client, Failure, taken_apart

from service.app import running
from service.db import clone, migrations

if TYPE_CHECKING:
    from tests.app.conftest import SettingsFor
    from tests.conftest import Fragile

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DEADLINE = 2.0


async def test_a_killed_database_costs_unavailable_only_and_recovers_within_three_seconds(
    fragile: Fragile, settings_for: SettingsFor
) -> None:
    await clone.template(fragile.url, migrations.load(migrations.folder()))
    async with running(settings_for(fragile.url)) as app, Client(app.address, fragile.url) as client:
        ada = await client.user()
        stream = Stream(client, ada.metadata)
        callers = [asyncio.ensure_future(stream.run()) for _ in range(8)]
        seen: list[tuple[float, int]] = []
        watch = asyncio.ensure_future(statuses(client, seen))
        await asyncio.sleep(0.5)

        assert fragile.server.pid is not None
        os.kill(fragile.server.pid, signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.sleep(4)
        health = (await client.health.Check(health_pb2.HealthCheckRequest(service="readiness"))).status
        alive = (await client.health.Check(health_pb2.HealthCheckRequest(service="liveness"))).status
        assert (health, alive) == (NOT_SERVING, SERVING)

        await fragile.server.start()
        back = time.monotonic()
        await asyncio.sleep(4)
        stream.stop()
        await asyncio.gather(*callers)
        watch.cancel()

        assert stream.failures, "the kill was not noticed"
        assert {(failed.code, failed.reason) for failed in stream.failures} == {
            (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
        }
        assert all("RetryInfo" in failed.details for failed in stream.failures)
        recovered = min(at for at in stream.successes if at > back)
        print(f"first success {recovered - back:.2f} s after the database was back")
        assert recovered - back < 3
        assert not [at for at in stream.successes if killed + 1 < at < back]
        assert max(at for at in stream.failed_at) < back + 3
        assert [status for _, status in seen][:3] == [SERVING, NOT_SERVING, SERVING]
        assert seen[1][0] - killed < 2
        assert seen[2][0] - back < 3
        await client.login("ada@example.com")


class Stream:
    """Calls GetMe again and again, and keeps what came of it."""

    def __init__(self, client: Client, metadata: object) -> None:
        self._client, self._metadata = client, metadata
        self._stopped = False
        self.successes: list[float] = []
        self.failures: list[Failure] = []
        self.failed_at: list[float] = []

    def stop(self) -> None:
        self._stopped = True

    async def run(self) -> None:
        while not self._stopped:
            try:
                await self._client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=self._metadata, timeout=DEADLINE)  # type: ignore[arg-type]
                self.successes.append(time.monotonic())
            except grpc.aio.AioRpcError as error:
                self.failures.append(taken_apart(error))
                self.failed_at.append(time.monotonic())
            await asyncio.sleep(0.02)


async def statuses(client: Client, seen: list[tuple[float, int]]) -> None:
    watch = client.health.Watch(health_pb2.HealthCheckRequest(service="readiness"))
    while True:
        status = (await watch.read()).status
        seen.append((time.monotonic(), status))


async def test_killed_backends_fail_no_call(client: Client) -> None:
    ada = await client.user()
    for _ in range(5):
        await client.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'gatelodge' AND datname = current_database()"
        )
        for _ in range(5):
            await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata, timeout=DEADLINE)
        await client.login("ada@example.com")
