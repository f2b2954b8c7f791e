"""The service's own jobs, in real processes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.app import eager
from tests.app.client import Client
from tests.app.conftest import environment
from tests.app.process import serving
from tests.app.test_health import get

if TYPE_CHECKING:
    from pathlib import Path

    from service.app import App

EXPIRED = (
    "INSERT INTO idempotency_keys (caller, request_id, method, fingerprint, create_time)"
    " VALUES ('ada', gen_random_uuid(), 'm', decode(repeat('00', 32), 'hex'), now() - interval '25 hours')"
)
DUE = "UPDATE jobs SET next_run_time = now() WHERE name = 'idempotency.prune'"


async def until(client: Client, condition: str) -> None:
    async with asyncio.timeout(20):
        while await client.sql(f"SELECT {condition} FROM jobs WHERE name = 'idempotency.prune'") != [(True,)]:
            await asyncio.sleep(0.05)


@pytest.mark.usefixtures("eager_jobs")
async def test_expired_answers_are_pruned_and_the_metrics_tell(app: App, client: Client) -> None:
    await client.sql(EXPIRED)
    await until(client, "true")
    await client.sql(DUE)
    await until(client, "runs = 1 AND failures = 0")
    assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]
    page = (await get(app, "/metrics")).decode()
    assert 'gatelodge_job_runs_total{job="idempotency.prune",outcome="success"} 1.0' in page
    assert 'gatelodge_job_duration_seconds_count{job="idempotency.prune"} 1.0' in page
    assert 'gatelodge_job_last_success_timestamp_seconds{job="idempotency.prune"} 1' in page


async def test_a_process_killed_in_the_middle_of_a_job_is_succeeded_by_another(url: str, tmp_path: Path) -> None:
    environ = {**environment(url, tmp_path, SERVER__PORT="0", OPS__ENABLED="false"), **eager.ENVIRONMENT}
    async with (
        await psycopg.AsyncConnection.connect(url) as conn,
        serving(environ, eager.COMMAND) as first,
        Client("", url) as client,
    ):
        await client.sql(EXPIRED)
        await until(client, "true")
        await conn.execute("LOCK TABLE idempotency_keys")
        await client.sql(DUE)
        await until(client, "holder IS NOT NULL")
        async with serving(environ, eager.COMMAND):
            first.process.kill()
            await conn.rollback()
            await asyncio.sleep(0.5)
            assert await client.sql("SELECT runs, holder IS NOT NULL FROM jobs WHERE name = 'idempotency.prune'") == [
                (0, True)
            ]
            await client.sql("UPDATE jobs SET lease_expire_time = now() WHERE name = 'idempotency.prune'")
            await until(client, "runs = 1 AND failures = 0 AND holder IS NULL")
            assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]
