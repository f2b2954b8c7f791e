"""No connection lasts for nothing, and none has more than its share."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.rpc import dummy, raw
from tests.rpc.test_deadline import refused, until
from tests.rpc.test_health import ask, stub
from tests.telemetry.desk import Desk

from service.rpc.health import NOT_SERVING
from service.rpc.server import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WATCH = b"/grpc.health.v1.Health/Watch"


@asynccontextmanager
async def serving(**transport: Any) -> AsyncIterator[dummy.House]:
    house = await dummy.start(transport=Transport(max_message_bytes=dummy.LIMIT, **transport))
    try:
        yield house
    finally:
        await house.close()


@pytest.mark.usefixtures("lines")
async def test_an_idle_connection_is_closed_and_one_that_watches_health_is_not_idle() -> None:
    async with (
        serving(max_connection_idle=0.4) as house,
        raw.Connection(house) as watching,
        raw.Connection(house) as idle,
    ):
        watching.send(raw.headers(WATCH) + raw.EMPTY)
        await watching.until(b"x-request-id")
        start = time.monotonic()
        assert b"connection idle" in await idle.until_closed()
        assert time.monotonic() - start < 2
        house.board.set_ready(True)
        await watching.until(raw.message(b"\x08\x01"))


@pytest.mark.usefixtures("lines")
async def test_a_peer_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.rpc.server._HANDSHAKE", 0.3)
    async with serving() as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        async with asyncio.timeout(10):
            while await reader.read(100):
                pass
        writer.close()


@pytest.mark.usefixtures("lines")
async def test_connections_over_the_limit_are_closed_and_the_others_served() -> None:
    async with serving(max_connections=3) as house:
        assert await house.call("Unary", "fine") == ["fine"]
        async with raw.Connection(house) as one, raw.Connection(house) as two:
            for connection in (one, two):
                await connection.until(raw.frame(raw.SETTINGS, raw.END, 0))
            async with raw.Connection(house) as too_many:
                assert not await too_many.until_closed()
            assert await house.call("Unary", "fine") == ["fine"]


@pytest.mark.usefixtures("lines")
async def test_a_connection_that_is_old_goes_away_without_losing_calls() -> None:
    async with serving(max_connection_age=0.3, max_connection_age_grace=5) as house:
        async with raw.Connection(house) as connection:
            held = asyncio.ensure_future(house.call("Unary", "wait"))
            assert b"max_age" in await connection.until_closed()
        house.servicer.release.set()
        assert await held == ["wait"]
        assert await house.call("Unary", "fine") == ["fine"]


@pytest.mark.usefixtures("lines")
async def test_a_peer_that_never_takes_its_answers_is_closed_with_its_connection() -> None:
    async with serving(max_connection_age=0.3, max_connection_age_grace=0.5) as house:
        async with raw.Connection(house, raw.NO_WINDOW) as hoarder:
            await hoarder.until(raw.frame(raw.SETTINGS, raw.END, 0))
            for number in range(20):
                body = raw.frame(raw.DATA, raw.END, 2 * number + 1, raw.message(b"\x12\2hi"))
                hoarder.send(raw.headers(b"/dummy.v1.DummyService/Public", stream=2 * number + 1) + body)
            await until(lambda: len(house.servicer.seen) == 20)
            assert held_calls() >= 20
            await hoarder.until_closed()
        await until(lambda: held_calls() == 0)


def held_calls() -> int:
    """Count gRPC's tasks for the dummy's calls: they go on after ours until the answer is sent."""
    return sum(task.get_name().startswith("HandleExceptions[/dummy") for task in asyncio.all_tasks())


@pytest.mark.usefixtures("lines")
async def test_more_streams_than_one_connection_may_have_are_refused() -> None:
    async with serving(max_streams_per_connection=5) as house, raw.Connection(house) as connection:
        await connection.until(raw.frame(raw.SETTINGS, raw.END, 0))
        connection.send(raw.frame(raw.SETTINGS, 1, 0))
        connection.send(b"".join(raw.headers(b"/dummy.v1.DummyService/Public", stream=2 * n + 1) for n in range(8)))
        await connection.until(*(raw.frame(raw.RESET, 0, stream, b"\0\0\0\7") for stream in (11, 13, 15)))
        await until(lambda: len(house.inflight) == 5)


async def test_one_connection_cannot_take_all_the_health_watchers(house: dummy.House) -> None:
    watches = [stub(house).Watch(ask("")) for _ in range(16)]
    for watch in watches:
        assert (await watch.read()).status == NOT_SERVING
    error = await refused(stub(house).Watch(ask("")).read())
    assert dummy.reason_of(error) == "OVERLOADED"
    assert dummy.details_of(error)["ErrorInfo"].metadata["resource"] == "health_watchers"
    async with raw.Connection(house) as other:
        other.send(raw.headers(WATCH) + raw.EMPTY)
        await other.until(raw.message(b"\x08\2"))
    watches[0].cancel()
    await until(lambda: len(house.board._watchers) == 15)
    assert (await stub(house).Watch(ask("")).read()).status == NOT_SERVING
    await house.channel.close()
    await until(lambda: not house.board._watchers and not house.board._by_peer)


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
async def test_metadata_that_is_not_text_reaches_no_line(level: str) -> None:
    desk = Desk()
    desk.set_up(level=level)
    house = await dummy.start()
    try:
        values = ((b"x-api-key", b"hunter2\xff"), (b"authorization", b"Bearer hunter2\xfe"))
        for odd, status in ((values, b"16"), (((b"hunter2\xfd", b"a"),), b"13")):
            async with raw.Connection(house) as connection:
                connection.send(raw.call(b"/dummy.v1.DummyService/Unary", *odd))
                await connection.until(b"grpc-status\x02" + status)
        await house.settle()
        assert [line["code"] for line in desk.lines if line["event"] == "call"] == ["UNAUTHENTICATED", "CANCELLED"]
        assert ("a peer sent metadata that is not text" in desk.text) is (level == "DEBUG")
        assert "hunter2" not in desk.text
        assert '"error"' not in desk.text.lower()
    finally:
        await house.close()
        desk.close()
