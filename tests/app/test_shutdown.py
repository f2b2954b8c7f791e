"""SIGTERM in the middle of traffic: nobody who watches health loses a call, and the process exits 0."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from gatelodge.auth.v1 import auth_pb2, auth_pb2_grpc
from gatelodge.info.v1 import info_pb2
from grpc_health.v1 import health_pb2
from tests.app import deaf, talkative
from tests.app.client import Client
from tests.app.conftest import environment
from tests.app.held import held_registrations
from tests.app.process import GATELODGE, serving

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WATCHING_HEALTH = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "gatelodge.auth.v1.AuthService"},
    }
)


async def test_sigterm_in_the_middle_of_sixteen_callers_that_watch_health_fails_no_call(
    url: str, tmp_path: Path
) -> None:
    environ = environment(url, tmp_path, SERVER__DRAIN_LINGER_SECONDS="1")
    async with serving(environ) as old, serving(environ) as new:
        async with Client(old.address, url) as client:
            ada = await client.user()
        target = f"ipv4:{old.address},{new.address}"
        channels = [
            grpc.aio.insecure_channel(target, options=[("grpc.service_config", WATCHING_HEALTH)]) for _ in range(16)
        ]
        stop = asyncio.Event()
        callers = [asyncio.ensure_future(call_until(stop, channel, ada.metadata)) for channel in channels]
        await asyncio.sleep(0.5)
        old.process.send_signal(signal.SIGTERM)
        status = await asyncio.wait_for(old.process.wait(), 15)
        await asyncio.sleep(0.5)
        stop.set()
        counts = await asyncio.gather(*callers)
        assert status == 0
        assert min(counts) > 10
        for channel in channels:
            await channel.close()


async def call_until(stop: asyncio.Event, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]]) -> int:
    """Call until told to stop; any failure fails the test."""
    stub: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(channel)
    calls = 0
    while not stop.is_set():
        await stub.GetMe(auth_pb2.GetMeRequest(), metadata=metadata, timeout=5)
        calls += 1
        await asyncio.sleep(0.005)
    return calls


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_call_in_progress_is_answered_before_the_process_ends(
    url: str, tmp_path: Path, number: signal.Signals
) -> None:
    async with (
        serving(environment(url, tmp_path)) as server,
        Client(server.address, url) as client,
        held_registrations(url) as held,
    ):
        call = asyncio.ensure_future(client.register("ada@example.com"))
        await held.until(1)
        server.process.send_signal(number)
        await server.until("draining")
        await held.release()
        await call
        assert await asyncio.wait_for(server.process.wait(), 10) == 0
    assert await client.sql("SELECT count(*) FROM users") == [(1,)]


async def test_what_is_said_when_the_loop_ends_is_logged_like_everything_else(url: str, tmp_path: Path) -> None:
    environ = {**environment(url, tmp_path), **talkative.ENVIRONMENT}
    async with serving(environ, talkative.COMMAND) as server:
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.process.wait(), 10) == 0
    assert server.event("last words")["level"] == "warning"
    assert server.event("drained")["level"] == "info"
    assert server.event("stopped")["level"] == "info"


async def test_a_process_whose_server_breaks_ends_and_says_of_what(url: str, tmp_path: Path) -> None:
    environ = {**environment(url, tmp_path), **deaf.ENVIRONMENT}
    async with serving(environ, deaf.COMMAND) as server, Client(server.address, url) as client:
        watch = client.health.Watch(health_pb2.HealthCheckRequest())  # a stream lasts: it must not be waited for
        await watch.read()
        with pytest.raises(grpc.aio.AioRpcError):
            await client.info.GetServerInfo(info_pb2.GetServerInfoRequest(), timeout=5)
        assert await asyncio.wait_for(server.process.wait(), 10) == 1
    assert "as gRPC says when it cannot ask for a call" in json.dumps(server.event("crashed"))
    assert server.said == "gatelodge: crashed on InternalError: the log has the cause\n"


async def test_a_process_that_still_waits_for_its_database_ends_at_once(tmp_path: Path) -> None:
    environ = environment("postgresql://nobody@127.0.0.1:1/nothing", tmp_path)
    process = await asyncio.create_subprocess_exec(
        GATELODGE, "serve", env={"PATH": "/usr/bin:/bin", **environ}, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    while b"waiting for the database" not in await process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 15) == 0


async def test_watchers_of_health_hear_of_the_shutdown_at_once_and_are_sent_elsewhere(url: str, tmp_path: Path) -> None:
    environ = environment(url, tmp_path, SERVER__DRAIN_LINGER_SECONDS="3")
    async with serving(environ) as server, Client(server.address, url) as client:
        watch = client.health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert time.monotonic() - start < 2.5  # the linger is 3 s
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.wait_for(server.process.wait(), 10) == 0
