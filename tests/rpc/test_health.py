"""Health is told truly and at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.rpc import dummy
from tests.rpc.test_deadline import until

from service.rpc.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, HealthBoard
from service.rpc.readiness import Readiness


def stub(house: dummy.House) -> Any:
    return health_pb2_grpc.HealthStub(house.channel)


def ask(name: str) -> Any:
    return health_pb2.HealthCheckRequest(service=name)


async def test_all_names_are_checked_and_listed_without_a_credential(house: dummy.House) -> None:
    expected = {"": NOT_SERVING, dummy.SERVICE: NOT_SERVING, "readiness": NOT_SERVING, "liveness": SERVING}
    for _ in range(2):
        listed = await stub(house).List(health_pb2.HealthListRequest())
        assert {name: answer.status for name, answer in listed.statuses.items()} == expected
        for name, status in expected.items():
            assert (await stub(house).Check(ask(name))).status == status
        house.board.set_ready(True)
        expected = dict.fromkeys(expected, SERVING)


async def test_an_unknown_name_is_not_found_with_a_reason(house: dummy.House) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub(house).Check(ask("nope"))
    assert (caught.value.code(), dummy.reason_of(caught.value)) == (grpc.StatusCode.NOT_FOUND, "SERVICE_UNKNOWN")


async def test_watch_tells_the_present_and_every_change_at_once(house: dummy.House) -> None:
    known, unknown = stub(house).Watch(ask("")), stub(house).Watch(ask("later"))
    assert (await known.read()).status == NOT_SERVING
    assert (await unknown.read()).status == SERVICE_UNKNOWN
    start = time.monotonic()
    house.board.set_ready(True)
    house.board.set("later", SERVING)
    assert (await known.read()).status == SERVING
    assert (await unknown.read()).status == SERVING
    house.board.drain()
    assert (await known.read()).status == NOT_SERVING
    assert time.monotonic() - start < 0.5
    house.board.set_ready(True)
    assert (await stub(house).Check(ask(""))).status == NOT_SERVING
    known.cancel()
    unknown.cancel()
    await until(lambda: not house.board._watchers)


async def test_watchers_are_bounded_and_leave_nothing_behind() -> None:
    board = HealthBoard([], max_watchers=1)
    first = board.watch("")
    assert await anext(first) == NOT_SERVING
    with pytest.raises(Exception, match="limit"):
        await anext(board.watch(""))
    await first.aclose()
    assert not board._watchers


async def run_readiness(answers: list[Any], **settings: Any) -> list[bool]:
    """Probe through `answers`, each None for well, an exception, or ``hang``; return what was told."""
    told: list[bool] = []
    left = iter(answers)
    done = asyncio.Event()

    async def probe() -> None:
        answer = next(left, done)
        if answer is done:
            done.set()
        if answer is done or answer == "hang":
            await asyncio.sleep(60)
        if isinstance(answer, Exception):
            raise answer

    settings = {"interval": 0.001, "timeout": 0.05} | settings
    task = asyncio.ensure_future(Readiness(probe=probe, tell=told.append, **settings).run())
    await asyncio.wait_for(done.wait(), 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return told


async def test_one_failed_probe_changes_nothing_and_two_do() -> None:
    bad = OSError()
    assert await run_readiness([None, bad, None, bad, None]) == [True]
    assert await run_readiness([None, bad, bad]) == [True, False]
    assert await run_readiness([None, bad, bad, None]) == [True, False, True]


async def test_recovery_can_ask_for_more_than_one_success() -> None:
    assert await run_readiness([None, OSError(), None, None], successes=2) == [True]


async def test_a_hanging_probe_fails_in_time() -> None:
    assert await run_readiness([None, "hang", "hang"]) == [True, False]
