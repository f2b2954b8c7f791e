"""A server that goes away costs nobody a call."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2
from tests.rpc import dummy
from tests.rpc.test_deadline import refused, until
from tests.rpc.test_health import ask, stub

from service.rpc.drain import drain


async def start_draining(house: dummy.House, *, linger: float = 0.2, grace: float = 2) -> asyncio.Task[None]:
    house.board.set_ready(True)
    return asyncio.create_task(
        drain(house.server, board=house.board, inflight=house.inflight, linger=linger, grace=grace)
    )


async def test_calls_go_on_while_balancers_look_away(house: dummy.House) -> None:
    watch = stub(house).Watch(ask(""))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    house.board.set_ready(True)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    draining = await start_draining(house)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await house.call("Unary", "fine") == ["fine"]
    error = await refused(watch.read())
    assert (error.code(), dummy.reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    await draining


async def test_calls_in_progress_finish_and_new_ones_are_refused(house: dummy.House, lines: list[Any]) -> None:
    held = asyncio.ensure_future(house.call("Unary", "wait"))
    stream = asyncio.ensure_future(house.call("ServerStream", "wait"))
    await until(lambda: len(house.inflight) == 2)
    draining = await start_draining(house, linger=0)
    error = await refused(stream)
    assert (error.code(), dummy.reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    error = await refused(house.call("Unary"))
    assert (error.code(), dummy.reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert dummy.details_of(error)["RetryInfo"].retry_delay.nanos == 100_000_000
    assert await house.check_health() == b"\x08\x02"
    house.servicer.release.set()
    assert await held == ["wait"]
    await asyncio.wait_for(draining, 3)
    assert [line["calls_cut"] for line in lines if line["event"] == "drained"] == [0]


async def test_what_outlasts_the_grace_is_told_unavailable_and_not_cancelled(
    house: dummy.House, lines: list[Any]
) -> None:
    held = asyncio.ensure_future(house.call("Unary", "wait"))
    await until(lambda: len(house.inflight) == 1)
    draining = await start_draining(house, linger=0, grace=0.1)
    error = await refused(held)
    assert (error.code(), dummy.reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    await asyncio.wait_for(draining, 3)
    assert [line["calls_cut"] for line in lines if line["event"] == "drained"] == [1]


async def test_an_idle_server_drains_at_once(house: dummy.House) -> None:
    draining = await start_draining(house, linger=0, grace=30)
    await asyncio.wait_for(draining, 3)
