"""Starting: as ``make run`` does, on what comes along; with a database that is late; and with registration closed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from gatelodge.auth.v1 import auth_pb2
from tests.app.client import PASSWORD, Client, failure
from tests.app.collector import collecting
from tests.app.conftest import environment
from tests.app.held import held_registrations
from tests.app.process import gatelodge, serving

from service.app import running
from service.db.embedded_home import find_home

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.app.conftest import SettingsFor
    from tests.conftest import Fragile


@pytest.fixture
def development(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """The environment of ``make run``, but for ports and places; what is kept outside of the folder goes, too."""
    embedded_dir = tmp_path / "var" / "postgres"
    yield {
        "APP_SERVER__PORT": "0",
        "APP_OPS__PORT": "0",
        "APP_LOG__FORMAT": "json",
        "APP_DATABASE__EMBEDDED_DIR": str(embedded_dir),
    }
    shutil.rmtree(find_home(embedded_dir, None).folder)


def postmaster(environ: Mapping[str, str]) -> int | None:
    file = find_home(Path(environ["APP_DATABASE__EMBEDDED_DIR"]), None).data / "postmaster.pid"
    pid = int(file.read_text().split()[0]) if file.exists() else 0
    return pid if pid and Path(f"/proc/{pid}").exists() else None


@pytest.mark.faults
async def test_what_make_run_starts_keeps_its_users_over_restarts_and_its_database_alive(
    development: Mapping[str, str],
) -> None:
    async with serving(development) as server:
        assert server.event("starting")["loop"] == "uvloop"
        async with Client(server.address, "") as client:
            await client.register("ada@example.com")
            before = await client.login("ada@example.com")

            pid = postmaster(development)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(10):
                while postmaster(development) in {None, pid}:
                    await asyncio.sleep(0.05)
            await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=before.metadata, timeout=5)
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.process.wait(), 10) == 0
    assert postmaster(development) is None

    async with serving(development) as server, Client(server.address, "") as client:
        await client.login("ada@example.com")
        await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=before.metadata)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(server.process.wait(), 10)


async def test_a_database_that_is_late_is_waited_for(fragile: Fragile, settings_for: SettingsFor) -> None:
    await fragile.server.stop()

    async def later() -> None:
        await asyncio.sleep(0.5)
        await fragile.server.start()

    starting = asyncio.ensure_future(later())
    async with running(settings_for(fragile.url)) as app, Client(app.address, fragile.url) as client:
        await client.user()
    await starting


async def test_registration_is_offered_only_where_it_is_open(url: str, settings_for: SettingsFor) -> None:
    async with running(settings_for(url, AUTH__REGISTRATION="closed")) as app, Client(app.address, url) as client:
        request = auth_pb2.RegisterRequest(email="ada@example.com", password=PASSWORD)
        refused = await failure(client.auth.Register(request))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REGISTRATION_CLOSED")
        assert refused.details["PreconditionFailure"].violations[0].subject == "auth.registration"
        assert await client.sql("SELECT 1 FROM users") == []


async def test_more_calls_at_once_than_are_allowed_are_shed(url: str, settings_for: SettingsFor) -> None:
    settings = settings_for(url, SERVER__MAX_CONCURRENT_CALLS="1")
    async with running(settings) as app, Client(app.address, url) as client, held_registrations(url) as held:
        first = asyncio.ensure_future(client.register("ada@example.com"))
        await held.until(1)
        refused = await failure(client.auth.GetMe(auth_pb2.GetMeRequest()))
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert refused.info.metadata["resource"] == "calls"
        await held.release()
        await first


async def test_the_last_numbers_are_pushed_at_the_end(url: str, settings_for: SettingsFor) -> None:
    async with collecting() as collector:
        settings = settings_for(url, METRICS__OTLP_ENDPOINT=collector.endpoint, METRICS__INTERVAL_SECONDS="3600")
        async with running(settings) as app, Client(app.address, url) as client:
            await client.register("ada@example.com")
        assert "gatelodge_registrations" in str(collector.metrics)


async def test_an_unforeseen_fault_while_starting_is_logged_and_told_in_one_line(url: str, tmp_path: Path) -> None:
    environ = environment(url, tmp_path)
    async with serving(environ) as server, Client(server.address, url) as client:
        await client.sql("DROP TABLE signing_keys")
    status, _, err = await gatelodge("serve", environ=environ)
    assert status == 1
    assert '"event":"crashed"' in err
    assert err.splitlines()[-1].startswith("gatelodge: crashed on UndefinedTable")


async def test_a_second_signal_ends_the_process_at_once(url: str, tmp_path: Path) -> None:
    async with serving(environment(url, tmp_path, SERVER__DRAIN_LINGER_SECONDS="30")) as server:
        server.process.send_signal(signal.SIGTERM)
        await server.until("draining")
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.process.wait(), 15) == -signal.SIGTERM
        assert time.monotonic() - start < 2


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has these scheduling policies")
@pytest.mark.parametrize(("workers", "priority"), [("1", "idle"), ("2", "idle"), ("1", "normal")])
async def test_threads_of_a_serving_process_take_turns_and_those_that_hash_stand_back(
    url: str, tmp_path: Path, workers: str, priority: str
) -> None:
    settings = environment(url, tmp_path, SERVER__WORKERS=workers, AUTH__ARGON2__HASH_PRIORITY=priority)
    async with serving(settings) as server:
        pid = server.event("starting" if workers == "1" else "worker starting")["pid"]
        policies = [os.sched_getscheduler(int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir()]
        assert os.sched_getscheduler(int(pid)) == os.SCHED_BATCH
        # The hash of nobody's password is computed at the start.
        assert set(policies) == {os.SCHED_BATCH} | ({os.SCHED_IDLE} if priority == "idle" else set())
