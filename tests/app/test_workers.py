"""Several workers on one port: started, replaced, ended, and seen as one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from gatelodge.auth.v1 import auth_pb2, tokens_pb2, tokens_pb2_grpc
from grpc_health.v1 import health_pb2
from tests.app.client import Client
from tests.app.conftest import environment
from tests.app.held import held_registrations
from tests.app.process import gatelodge, serving
from tests.app.scrape import fetch, scrape
from tests.app.test_shutdown import WATCHING_HEALTH, call_until

from service.db.embedded_home import find_home
from service.workers import worker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.app.process import Serving

CONNECTION_AGE = 0.5
METHOD = "gatelodge.auth.v1.TokenService/GetJwks"


def workers(url: str, folder: Path, **more: str) -> Mapping[str, str]:
    age = {"SERVER__WORKER_CONNECTION_AGE_SECONDS": str(CONNECTION_AGE)}
    return environment(url, folder, SERVER__WORKERS="2", **age | more)


def pids(server: Serving) -> list[int]:
    """Return the workers' process ids in the order in which they came to serve."""
    return [line["pid"] for line in server.lines if line["event"] == "worker serves"]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pids: list[int], *, within: float = 5) -> None:
    async with asyncio.timeout(within):
        while any(lives(pid) for pid in pids):
            await asyncio.sleep(0.02)


async def until(server: Serving, event: str, count: int) -> None:
    async with asyncio.timeout(30):
        while sum(line["event"] == event for line in server.lines) < count:
            await asyncio.sleep(0.02)


async def end(server: Serving) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(server.process.wait(), 15) == 0
    await gone(pids(server))


async def in_progress(server: Serving) -> float:
    """Return how many registrations all workers together are busy with."""
    page = await scrape(server.ops_address)
    return sum(
        value
        for name, value in page.items()
        if name.startswith("rpc_server_active_calls") and "AuthService/Register" in name
    )


async def call_on_new_connections(server: Serving, count: int) -> None:
    for _ in range(count):
        async with opened(server, watching=False) as channel:
            tokens: tokens_pb2_grpc.TokenServiceAsyncStub = tokens_pb2_grpc.TokenServiceStub(channel)
            await tokens.GetJwks(tokens_pb2.GetJwksRequest(), timeout=5)


async def test_workers_share_the_port_and_are_seen_as_one_by_a_parent_without_grpc(url: str, tmp_path: Path) -> None:
    async with serving(workers(url, tmp_path)) as server:
        assert "cygrpc" not in Path(f"/proc/{server.process.pid}/maps").read_text()
        assert len(set(pids(server))) == 2
        await call_on_new_connections(server, 20)
        await until(server, "call", 20)
        calls = [line["worker"] for line in server.lines if line["event"] == "call"]
        assert set(calls) == {1, 2}
        assert len(calls) == 20

        page = await scrape(server.ops_address)
        labels = f'rpc_method="{METHOD}",rpc_response_status_code="OK"'
        assert page[f"rpc_server_call_duration_seconds_count{{{labels}}}"] == 20
        assert page['gatelodge_health{service="readiness",worker="1"}'] == 1
        assert page['gatelodge_health{service="readiness",worker="2"}'] == 1
        assert page['gatelodge_workers{state="serving",worker="parent"}'] == 2
        assert (await fetch(server.ops_address, "/readyz"))[0] == 200
        assert (await fetch(server.ops_address, "/healthz"))[0] == 200
        assert '"kid"' in (await fetch(server.ops_address, "/.well-known/jwks.json"))[1]
        await end(server)


async def test_a_crashed_worker_is_told_counted_and_replaced_while_the_others_keep_the_service_ready(
    url: str, tmp_path: Path
) -> None:
    async with serving(workers(url, tmp_path)) as server:
        await call_on_new_connections(server, 10)
        before = await scrape(server.ops_address)
        os.kill(pids(server)[0], signal.SIGKILL)
        await server.until("worker crashed")
        assert server.event("worker crashed")["how"] == "signal SIGKILL"
        assert (await fetch(server.ops_address, "/readyz"))[0] == 200
        assert (await fetch(server.ops_address, "/healthz"))[0] == 200
        await call_on_new_connections(server, 5)
        await until(server, "worker serves", 3)
        page = await scrape(server.ops_address)
        assert page['gatelodge_worker_crashes_total{how="signal SIGKILL"}'] == 1
        # What the dead one had counted is still there.
        count = f'rpc_server_call_duration_seconds_count{{rpc_method="{METHOD}",rpc_response_status_code="OK"}}'
        assert before[count] == 10
        assert page[count] == 15
        await end(server)


@pytest.mark.faults
async def test_a_worker_that_hangs_is_seen_on_the_ops_port(url: str, tmp_path: Path) -> None:
    async with serving(workers(url, tmp_path)) as server:
        assert (await fetch(server.ops_address, "/healthz"))[0] == 200
        os.kill(pids(server)[0], signal.SIGSTOP)
        try:
            assert (await fetch(server.ops_address, "/healthz"))[0] == 503
            assert (await fetch(server.ops_address, "/readyz"))[0] == 200
            assert await scrape(server.ops_address)
        finally:
            os.kill(pids(server)[0], signal.SIGCONT)
        await end(server)


@pytest.mark.parametrize("share", [False, True])
async def test_a_port_that_somebody_listens_on_is_told_clearly(url: str, tmp_path: Path, *, share: bool) -> None:
    with socket.socket() as other:
        if share:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        status, _, err = await gatelodge("serve", environ=workers(url, tmp_path, SERVER__PORT=port))
    assert status == 1
    assert err.splitlines()[-1].startswith(f"gatelodge: cannot listen on 127.0.0.1:{port}: is the port taken")


@pytest.mark.faults
async def test_workers_that_cannot_run_end_the_service_once_with_one_message(url: str, tmp_path: Path) -> None:
    bad = {"SERVER__TLS__CERT_FILE": str(tmp_path / "none.pem"), "SERVER__TLS__KEY_FILE": str(tmp_path / "none.key")}
    status, _, err = await gatelodge("serve", environ=workers(url, tmp_path, **bad))
    assert status == 1
    assert err.count("the TLS certificate cannot be used") == 1
    assert err.splitlines()[-1].startswith("gatelodge: the TLS certificate cannot be used")


async def test_sigterm_lets_calls_in_progress_finish_on_every_worker(url: str, tmp_path: Path) -> None:
    async with serving(workers(url, tmp_path)) as server, held_registrations(url) as held:
        clients = [Client(server.address, url) for _ in range(4)]
        calls = [asyncio.ensure_future(each.register(f"u{n}@example.com")) for n, each in enumerate(clients)]
        await held.until(4)
        assert await in_progress(server) == 4
        ending = asyncio.ensure_future(end(server))
        await until(server, "draining", 2)
        await held.release()
        await ending
        await asyncio.gather(*calls)
        for client in clients:
            await client.channel.close()


async def test_a_second_signal_ends_the_parent_and_its_workers_at_once(url: str, tmp_path: Path) -> None:
    async with serving(workers(url, tmp_path, SERVER__DRAIN_LINGER_SECONDS="30")) as server:
        server.process.send_signal(signal.SIGTERM)
        await until(server, "draining", 2)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.process.wait(), 15) == -signal.SIGTERM
        await gone(pids(server))
        assert time.monotonic() - start < 3


async def test_workers_whose_parent_is_killed_drain_and_end(url: str, tmp_path: Path) -> None:
    async with serving(workers(url, tmp_path, SERVER__DRAIN_LINGER_SECONDS="0.5")) as server:
        async with Client(server.address, url) as client:
            watch = client.health.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            server.process.kill()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await gone(pids(server))


@pytest.mark.faults
async def test_sighup_replaces_every_worker_and_no_call_fails(url: str, tmp_path: Path) -> None:
    # The linger counts: health that said NOT_SERVING for so long would fail whoever watches it.
    async with serving(workers(url, tmp_path, SERVER__DRAIN_LINGER_SECONDS="0.5")) as server:
        async with Client(server.address, url) as client:
            ada = await client.user()
        stop = asyncio.Event()
        callers = [
            asyncio.ensure_future(call_until(stop, channel, ada.metadata))
            for channel in [opened(server, watching=n % 2 == 0) for n in range(8)]
        ]
        old = pids(server)
        server.process.send_signal(signal.SIGHUP)
        await until(server, "worker replaced", 2)
        await gone(old, within=20)
        stop.set()
        assert min(await asyncio.gather(*callers)) > 10
        page = await scrape(server.ops_address)
        made = 'rpc_server_call_duration_seconds_count{rpc_method="gatelodge.auth.v1.AuthService/Login",'
        assert page[made + 'rpc_response_status_code="OK"}'] == 1
        await end(server)
        assert not any(line["event"] == "worker crashed" for line in server.lines)


def opened(server: Serving, *, watching: bool) -> grpc.aio.Channel:
    """Return a channel of its own connection, which watches health or does not."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if watching:
        return grpc.aio.insecure_channel(server.address, options=[*options, ("grpc.service_config", WATCHING_HEALTH)])
    return grpc.aio.insecure_channel(server.address, options=options)


@pytest.mark.faults
async def test_a_worker_that_cannot_take_over_leaves_the_one_before_in_place(url: str, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    environ = {**workers(url, tmp_path), "APP_SECRETS_DIR": str(secrets)}
    async with serving(environ) as server:
        (secrets / "server__prot").write_text("1")
        server.process.send_signal(signal.SIGHUP)
        await server.until("worker not replaced, the one before stays")
        assert "unknown setting server__prot" in server.event("worker not replaced, the one before stays")["cause"]
        async with Client(server.address, url) as client:
            await client.user()
        assert all(lives(pid) for pid in pids(server))
        await end(server)


@pytest.mark.faults
async def test_the_embedded_database_is_the_parents_and_outlives_workers(tmp_path: Path) -> None:
    place = tmp_path / "var" / "postgres"
    environ = {
        "APP_ENV": "test",
        "APP_SERVER__WORKERS": "2",
        "APP_DATABASE__EMBEDDED_DIR": str(place),
    }
    try:
        async with serving(environ) as server, Client(server.address, "") as client:
            await client.user()
            for pid in pids(server):
                os.kill(pid, signal.SIGKILL)
            await until(server, "worker serves", 4)
            login = await client.login("ada@example.com")
            await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=login.metadata)
            await end(server)
        assert not (find_home(place, None).data / "postmaster.pid").exists()
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(find_home(place, None).folder)


async def test_one_process_is_not_ended_by_sighup(url: str, tmp_path: Path) -> None:
    async with serving(environment(url, tmp_path)) as server, Client(server.address, url) as client:
        server.process.send_signal(signal.SIGHUP)
        await server.until("SIGHUP: nothing to read again without TLS")
        await client.user()


@pytest.mark.parametrize("leaving", [False, True])
async def test_a_worker_whose_server_breaks_does_not_wait_for_orders(*, leaving: bool) -> None:
    class Orders:
        any, ending = asyncio.Event(), asyncio.Event()

        def started(self) -> None:
            if leaving:
                self.any.set()

    class App:
        async def leave(self) -> None:
            await asyncio.sleep(60)

        async def broken(self) -> None:
            await asyncio.sleep(0.01)
            raise ValueError("broken")

    orders: Any = Orders()
    app: Any = App()
    async with asyncio.timeout(20):
        with pytest.raises(ValueError, match="broken"):
            await worker._until_told(orders, app)
