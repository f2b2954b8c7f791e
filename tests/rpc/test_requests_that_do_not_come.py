"""A call is bounded, counted, logged and refused before its request is there."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc.aio
import pytest
from tests.rpc import dummy, raw
from tests.rpc.test_deadline import refused, until
from tests.rpc.test_drain import start_draining

from service.rpc import inflight

PUBLIC = b"/dummy.v1.DummyService/Public"
SINGLE = ("Unary", "ServerStream")


def begin(house: dummy.House, name: str, seconds: float | None = 60, metadata: Any = dummy.ALICE) -> Any:
    """Start a call and send no message, nor that none comes."""
    return house.channel.stream_stream(f"/{dummy.SERVICE}/{name}", None, dummy.Response.FromString)(
        metadata=metadata, timeout=seconds
    )


def ends(lines: list[Any]) -> list[tuple[str, str | None]]:
    """Return code and reason of the dummy's calls that have ended."""
    calls = [line for line in lines if line["event"] == "call" and dummy.SERVICE in line["rpc_method"]]
    return [(line["code"], line.get("reason")) for line in calls]


async def test_a_call_whose_request_does_not_come_ends_at_the_servers_deadline(lines: list[Any]) -> None:
    house = await dummy.start(default_deadline=0.3)
    try:
        async with raw.Connection(house) as connection:
            start = time.monotonic()
            # One sends nothing, the other a part of a message.
            part = raw.frame(raw.DATA, 0, 3, raw.message(b"x" * 100)[:50])
            connection.send(raw.headers(PUBLIC) + raw.headers(PUBLIC, stream=3) + part)
            await until(lambda: len(ends(lines)) == 2)
            assert 0.25 < time.monotonic() - start < 1
            assert not len(house.inflight)
    finally:
        await house.close()
    assert ends(lines) == [("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")] * 2
    assert not house.servicer.seen


async def test_calls_whose_request_has_not_come_count_as_calls(lines: list[Any]) -> None:
    house = await dummy.start(max_calls=20)
    try:
        async with raw.Connection(house) as connection:
            for number in range(50):
                connection.send(raw.headers(PUBLIC, stream=2 * number + 1))
            await until(lambda: len(ends(lines)) == 30)
            assert len(house.inflight) == 20
            assert await house.check_health()
        await until(lambda: len(ends(lines)) == 50)
        assert await house.call("Public", "fine") == ["fine"]
    finally:
        await house.close()
    assert ends(lines)[:50] == [("RESOURCE_EXHAUSTED", "OVERLOADED")] * 30 + [("CANCELLED", None)] * 20


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_a_stranger_is_refused_before_the_request_is_asked_for(house: dummy.House, name: str) -> None:
    assert dummy.reason_of(await refused(begin(house, name, metadata=()).read())) == "CREDENTIALS_MISSING"


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_a_stranger_is_not_told_whether_the_request_can_be_read(house: dummy.House, name: str) -> None:
    for sent in (b"\xff", b"x" * (dummy.LIMIT + 1)):
        error = await refused(house.send(f"/{dummy.SERVICE}/{name}", sent, metadata=()))
        assert dummy.reason_of(error) == "CREDENTIALS_MISSING"


@pytest.mark.parametrize("name", SINGLE)
async def test_no_message_where_one_is_due_is_a_malformed_request(house: dummy.House, name: str) -> None:
    stream = begin(house, name)
    await stream.done_writing()
    assert dummy.reason_of(await refused(stream.read())) == "MALFORMED_REQUEST"


@pytest.mark.parametrize("name", SINGLE)
async def test_of_more_messages_than_are_due_the_first_counts(house: dummy.House, name: str) -> None:
    # In one piece: a client library may hear of the answer to the first before it has sent the second.
    first, second = (raw.message(dummy.Request(wish=wish).SerializeToString()) for wish in ("one", "two"))
    start = raw.headers(f"/{dummy.SERVICE}/{name}".encode(), (b"authorization", b"Bearer alice"))
    async with raw.Connection(house) as connection:
        connection.send(start + raw.frame(raw.DATA, 0, 1, first) + raw.frame(raw.DATA, raw.END, 1, second))
        await connection.until(raw.message(dummy.Response(text="one").SerializeToString()))
        await house.settle()
    assert [request.wish for request in house.servicer.seen] == ["one"]


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_a_client_that_cancels_before_its_request_came_is_logged_as_that(
    house: dummy.House, lines: list[Any], name: str
) -> None:
    stream = begin(house, name)
    await until(lambda: len(house.inflight) == 1)
    stream.cancel()
    await until(lambda: ends(lines))
    assert (ends(lines), len(house.inflight)) == ([("CANCELLED", None)], 0)


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_a_clients_deadline_ends_the_wait_for_its_request(
    house: dummy.House, lines: list[Any], name: str
) -> None:
    await house.check_health()  # connected, so that the call is there before its deadline
    error = await refused(begin(house, name, 0.5).read())
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: ends(lines))
    assert [code for code, _ in ends(lines)] == ["DEADLINE_EXCEEDED"]


async def test_a_drain_ends_the_wait_for_a_request(house: dummy.House) -> None:
    waiting = begin(house, "Unary")
    await until(lambda: len(house.inflight) == 1)
    draining = await start_draining(house, linger=0, grace=0.1)
    error = await refused(waiting.read())
    assert (error.code(), dummy.reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    await asyncio.wait_for(draining, 10)


async def test_who_waits_longest_for_a_request_makes_room_when_places_are_short(
    lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflight, "_PATIENCE", 0.2)
    house = await dummy.start(max_calls=4)
    try:
        working = asyncio.ensure_future(house.call("Public", "wait"))
        await until(lambda: house.servicer.seen)
        async with raw.Connection(house) as connection:
            connection.send(b"".join(raw.headers(PUBLIC, stream=2 * number + 1) for number in range(3)))
            await until(lambda: len(house.inflight) == 4)
            assert dummy.reason_of(await refused(house.call("Public"))) == "OVERLOADED"
            await asyncio.sleep(0.25)
            for _ in range(3):
                assert await house.call("Public", "fine") == ["fine"]
            house.servicer.release.set()
            assert await working == ["wait"]
    finally:
        await house.close()
    # Each made room for itself but once there was room.
    assert ends(lines).count(("RESOURCE_EXHAUSTED", "OVERLOADED")) == 2


async def begun(house: dummy.House, count: int) -> None:
    """Wait until so many calls have been let in, whatever became of them."""
    await until(lambda: sum(meter.in_flight + len(meter.codes) for meter in house.meters.values()) >= count)


@pytest.mark.parametrize("path", [PUBLIC, b"/grpc.health.v1.Health/Check", b"/grpc.health.v1.Health/Watch"])
async def test_only_a_few_calls_may_wait_long_for_their_requests(
    lines: list[Any], monkeypatch: pytest.MonkeyPatch, path: bytes
) -> None:
    del lines
    monkeypatch.setattr(inflight, "_PATIENCE", 0.1)
    monkeypatch.setattr(inflight, "_MOST_WAITING", 5)
    house = await dummy.start()
    try:
        async with raw.Connection(house) as connection:
            for burst in range(2):
                connection.send(
                    b"".join(raw.headers(path, stream=2 * n + 1) for n in range(20 * burst, 20 * burst + 20))
                )
                await begun(house, 20 * burst + 20)
                await asyncio.sleep(0.15)
            await until(lambda: len(house.inflight) <= 20)
            assert await house.call("Public", "fine") == ["fine"]
    finally:
        await house.close()
