"""Nothing of a call waits for the next garbage collection: there may be a password in it."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from tests.rpc import dummy
from tests.rpc.test_deadline import until

from service.call import Call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import TracerProvider


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    """Turn the collector off, and remember what is there already, say what pytest keeps of a test that failed."""
    gc.collect()
    gc.disable()
    _before.clear()
    _before.update(map(id, held()))
    yield
    gc.enable()


_before = set[int]()


def held() -> list[Any]:
    return [found for found in gc.get_objects() if type(found) in (Call, dummy.Request) and id(found) not in _before]


async def gone(house: dummy.House) -> bool:
    """Tell whether nothing is left of the calls, a moment after the last."""
    await house.settle()
    house.servicer.seen.clear()
    for _ in range(100):
        if not held():
            return True
        await asyncio.sleep(0.005)
    return False


async def ends(call: Any) -> None:
    with suppress(grpc.aio.AioRpcError):
        await call


async def test_a_call_that_is_held_is_found(house: dummy.House) -> None:
    waiting = asyncio.ensure_future(house.call("Unary", "wait"))
    await house.servicer.begun.wait()
    assert {type(found) for found in held()} == {Call, dummy.Request}
    house.servicer.release.set()
    await waiting
    assert await gone(house)


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_nothing_is_left_of_a_call_however_it_ended(house: dummy.House, name: str) -> None:
    for wish in ("hello", "domain", "abort", "hold", *dummy.BUGS):
        await ends(house.call(name, wish))
        assert await gone(house), wish


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_nothing_is_left_of_a_call_that_was_refused(house: dummy.House, name: str) -> None:
    await ends(house.call(name, "hello", metadata=()))
    await ends(house.send(f"/{dummy.SERVICE}/{name}", b"\xff"))
    await ends(house.send(f"/{dummy.SERVICE}/Unknown", b""))
    assert await gone(house)


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_nothing_is_left_of_a_call_whose_time_was_up(name: str, lines: list[Any]) -> None:
    del lines
    house = await dummy.start(default_deadline=0.1)
    try:
        await ends(house.call(name, "wait", seconds=0.2))
        assert await gone(house)
    finally:
        await house.close()


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_nothing_is_left_of_a_call_that_its_client_broke_off(house: dummy.House, name: str) -> None:
    waiting = asyncio.ensure_future(house.call(name, "wait"))
    await house.servicer.begun.wait()
    waiting.cancel()
    await asyncio.wait({waiting})
    assert await gone(house)


async def test_nothing_is_left_of_a_call_that_was_ended_for_others(house: dummy.House) -> None:
    waiting = [asyncio.ensure_future(ends(house.call(name, "wait"))) for name in ("Unary", "ServerStream")]
    await until(lambda: len(house.inflight) == len(waiting))
    house.inflight.close()
    await house.inflight.finish(0)
    await asyncio.wait(waiting)
    assert await gone(house)


@pytest.mark.parametrize("wish", ["hello", "domain", "bug"])
async def test_nothing_is_left_of_a_traced_call(provider: TracerProvider, lines: list[Any], wish: str) -> None:
    del lines
    house = await dummy.start(tracer_provider=provider)
    try:
        await ends(house.call("Unary", wish))
        assert await gone(house)
    finally:
        await house.close()


async def test_nothing_is_left_of_a_traced_call_that_its_client_broke_off(
    provider: TracerProvider, lines: list[Any]
) -> None:
    del lines
    house = await dummy.start(tracer_provider=provider)
    try:
        waiting = asyncio.ensure_future(house.call("Unary", "wait"))
        await house.servicer.begun.wait()
        waiting.cancel()
        await asyncio.wait({waiting})
        assert await gone(house)
    finally:
        await house.close()
