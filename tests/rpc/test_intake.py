"""How calls come in."""

from __future__ import annotations

import asyncio
import weakref

import pytest
from tests.rpc import dummy

from service.rpc.intake import _MOST_PLACES, _Intake


class Source:
    """Hands out calls, and counts who waits for one."""

    def __init__(self) -> None:
        self.waiting = 0
        self.calls: asyncio.Queue[int | Exception] = asyncio.Queue()

    async def take(self) -> int:
        self.waiting += 1
        try:
            call = await self.calls.get()
        finally:
            self.waiting -= 1
        if isinstance(call, Exception):
            raise call
        return call


async def test_a_method_gets_one_more_place_with_each_call_up_to_the_most() -> None:
    source, served = Source(), list[int]()
    running = asyncio.ensure_future(_Intake(source.take, served.append).run())
    places = []
    for number in range(3 * _MOST_PLACES):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        places.append(source.waiting)
        source.calls.put_nowait(number)
    await asyncio.sleep(0.01)
    assert places[:3] == [1, 2, 3]
    assert max(places) == source.waiting == _MOST_PLACES
    assert served == list(range(3 * _MOST_PLACES))
    source.calls.put_nowait(RuntimeError("over"))
    with pytest.raises(RuntimeError, match="over"):
        await running


async def test_calls_that_come_together_are_served_together() -> None:
    source, served = Source(), list[int]()
    running = asyncio.ensure_future(_Intake(source.take, served.append).run())
    for number in range(_MOST_PLACES):
        source.calls.put_nowait(number)
        await asyncio.sleep(0.001)
    for number in range(_MOST_PLACES):
        source.calls.put_nowait(-number)
    for _ in range(3):  # turns of the loop, far fewer than calls
        await asyncio.sleep(0)
    assert len(served) == 2 * _MOST_PLACES
    source.calls.put_nowait(RuntimeError("over"))
    with pytest.raises(RuntimeError, match="over"):
        await running


async def test_a_place_that_waits_holds_nothing_of_its_last_call() -> None:
    class Call:
        """What a call and its errors hold on to: the request, a password."""

    calls: asyncio.Queue[Call | Exception] = asyncio.Queue()

    async def take() -> Call:
        got = await calls.get()
        if isinstance(got, Exception):
            raise got
        return got

    running = asyncio.ensure_future(_Intake(take, lambda _: None).run())
    call = Call()
    known = weakref.ref(call)
    calls.put_nowait(call)
    del call
    await asyncio.sleep(0.01)
    assert known() is None
    calls.put_nowait(RuntimeError("over"))
    with pytest.raises(RuntimeError, match="over"):
        await running


async def test_a_server_takes_in_more_calls_than_it_has_places(house: dummy.House) -> None:
    calls = [asyncio.ensure_future(house.call("Unary", "wait")) for _ in range(4 * _MOST_PLACES)]
    async with asyncio.timeout(10):
        while len(house.inflight) < len(calls):
            await asyncio.sleep(0.01)
    house.servicer.release.set()
    assert len(await asyncio.gather(*calls)) == len(calls)


async def test_a_server_stops_while_places_wait() -> None:
    others = asyncio.all_tasks()  # the loop is the session's: other servers may have places of their own
    house = await dummy.start()
    for _ in range(2 * _MOST_PLACES):
        await house.call("Unary", "hello")
    places = {task for task in asyncio.all_tasks() - others if "_Intake" in repr(task)}
    assert len(places) > _MOST_PLACES
    await house.channel.close()
    async with asyncio.timeout(20):
        await house.server.stop(0)
        await asyncio.wait(places)
    assert not {task for task in asyncio.all_tasks() - others if "_Intake" in repr(task)}
