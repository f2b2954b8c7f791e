"""Calls end in time and are shed in number."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc.aio
import pytest
from tests.rpc import dummy

from service import call
from service.errors import DeadlineExceeded
from service.rpc.inflight import InFlight
from service.rpc.interceptors import Deadline
from service.rpc.methods import UNKNOWN


async def refused(awaitable: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    error: grpc.aio.AioRpcError = caught.value
    return error


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["Unary", "ClientStream"])
async def test_a_call_without_a_deadline_gets_the_servers(lines: list[Any], name: str) -> None:
    house = await dummy.start(default_deadline=0.2)
    try:
        start = time.monotonic()
        error = await refused(house.call(name, "wait", seconds=60))
        assert 0.15 < time.monotonic() - start < 1
        await house.settle()
    finally:
        await house.close()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert dummy.reason_of(error) == "DEADLINE_EXCEEDED"
    assert house.servicer.ended == ["cancelled"]
    assert [(line["code"], line["log_level"]) for line in lines if line["event"] == "call"] == [
        ("DEADLINE_EXCEEDED", "warning")
    ]


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_the_clients_deadline_ends_the_work_in_all_kinds(house: dummy.House, lines: list[Any], name: str) -> None:
    error = await refused(house.call(name, "wait", seconds=0.2))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: house.meters[f"{dummy.SERVICE}/{name}"].codes)
    assert house.servicer.ended == ["cancelled"]
    assert house.meters[f"{dummy.SERVICE}/{name}"].codes == ["DEADLINE_EXCEEDED"]
    assert [line["code"] for line in lines if line["event"] == "call"] == ["DEADLINE_EXCEEDED"]


async def test_streams_outlast_the_servers_default(lines: list[Any]) -> None:
    del lines
    house = await dummy.start(default_deadline=0.05)
    try:
        stream = house.open(f"/{dummy.SERVICE}/ServerStream", dummy.Request(wish="wait").SerializeToString())
        await asyncio.wait_for(house.servicer.begun.wait(), 20)
        await asyncio.sleep(0.2)
        house.servicer.release.set()
        assert [message.text async for message in stream] == ["first", "wait"]
    finally:
        await house.close()


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_a_cancelled_call_stops_is_logged_and_leaves_nothing_behind(
    house: dummy.House, lines: list[Any], name: str
) -> None:
    stream = house.open(f"/{dummy.SERVICE}/{name}", dummy.Request(wish="wait").SerializeToString(), seconds=60)
    await asyncio.wait_for(house.servicer.begun.wait(), 20)
    assert len(house.inflight) == 1
    stream.cancel()
    meter = house.meters[f"{dummy.SERVICE}/{name}"]
    await until(lambda: meter.codes)
    assert (meter.codes, meter.in_flight, len(house.inflight)) == (["CANCELLED"], 0, 0)
    assert house.servicer.ended == ["cancelled"]
    assert [(line["code"], line["log_level"]) for line in lines if line["event"] == "call"] == [("CANCELLED", "info")]


async def test_a_stream_whose_reader_stalls_is_cleaned_up_when_it_goes(house: dummy.House) -> None:
    stream: Any = house.channel.stream_stream(f"/{dummy.SERVICE}/Bidi", dummy.Request.SerializeToString, None)(
        metadata=dummy.ALICE
    )
    await stream.write(dummy.Request(wish="x"))
    await stream.read()
    stream.cancel()
    await until(lambda: not len(house.inflight))


async def test_too_many_calls_are_shed_and_health_still_answers(lines: list[Any]) -> None:
    del lines
    house = await dummy.start(max_calls=2, max_streams=1)
    try:
        held = [asyncio.ensure_future(house.call("Unary", "wait")) for _ in range(2)]
        held.append(asyncio.ensure_future(house.call("ServerStream", "wait")))
        await until(lambda: len(house.inflight) == 3)
        for name, resource in (("Unary", "calls"), ("ClientStream", "calls"), ("Bidi", "streams")):
            details = dummy.details_of(await refused(house.call(name)))
            assert details["ErrorInfo"].reason == "OVERLOADED"
            assert details["ErrorInfo"].metadata["resource"] == resource
            assert details["RetryInfo"].retry_delay.seconds == 1
        assert await house.check_health()
        house.servicer.release.set()
        await asyncio.gather(*held)
        for _ in range(5):
            assert await house.call("Unary", "fine") == ["fine"]
            await refused(house.call("Unary", "bug"))
    finally:
        await house.close()
    assert len(house.inflight) == 0


async def test_a_call_that_comes_too_late_is_refused_before_any_work() -> None:
    class Late:
        @staticmethod
        def time_remaining() -> float:
            return 0.0

    worked: list[Any] = []

    async def proceed(request: Any, context: Any) -> None:
        worked.append((request, context))

    layer = Deadline(inflight=InFlight(max_calls=1, max_streams=1), default_seconds=1)
    late: Any = Late()
    with pytest.raises(DeadlineExceeded):
        await layer.around(UNKNOWN, proceed, b"", late)
    assert not worked


async def test_the_work_can_see_its_deadline(house: dummy.House, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float | None] = []
    fulfil = house.servicer.fulfil

    async def watching(request: Any, context: Any) -> Any:
        current = call.current()
        seen.append(current.remaining() if current else -1)
        return await fulfil(request, context)

    monkeypatch.setattr(house.servicer, "fulfil", watching)
    await house.call("Unary", seconds=2)
    await house.call("Unary", seconds=100)
    await house.call("ServerStream", seconds=100)
    client, default, stream = seen
    assert client is not None
    assert 1 < client < 2.1  # clients round up what they send
    assert default is not None
    assert 4 < default < 5.1
    assert stream is not None
    assert stream > 90
