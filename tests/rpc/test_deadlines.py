"""Deadlines that share their timers."""

from __future__ import annotations

import asyncio
import time

from service.rpc.deadlines import _TICK, Deadlines


class Entry:
    def __init__(self) -> None:
        self.expired = asyncio.Event()
        self.at = 0.0

    def expire(self) -> None:
        assert not self.expired.is_set()
        self.at = time.monotonic()
        self.expired.set()


async def test_each_ends_at_its_deadline_and_not_before() -> None:
    deadlines, began = Deadlines(), time.monotonic()
    wanted = [0.01 * number for number in range(20)]
    entries = [Entry() for _ in wanted]
    for entry, seconds in zip(entries, wanted, strict=True):
        deadlines.add(entry, seconds)
    async with asyncio.timeout(10):
        for entry in entries:
            await entry.expired.wait()
    early = [seconds - (entry.at - began) for entry, seconds in zip(entries, wanted, strict=True)]
    assert max(early) < 0.002  # the loop's own clock counts whole milliseconds
    assert len(deadlines) == 0


async def test_what_comes_close_together_shares_a_timer() -> None:
    now = 1000.001
    deadlines = Deadlines(lambda: now)
    ticks = {deadlines.add(Entry(), 5 + number * _TICK / 1000) for number in range(100)}
    assert len(ticks) == len(deadlines) == 1


async def test_what_is_done_in_time_does_not_expire() -> None:
    deadlines, done, late = Deadlines(), Entry(), Entry()
    tick = deadlines.add(done, 0.01)
    deadlines.add(late, 0.01)
    deadlines.remove(done, tick)
    async with asyncio.timeout(10):
        await late.expired.wait()
    assert not done.expired.is_set()
    deadlines.remove(late, tick)  # what has expired leaves later


async def test_far_deadlines_of_calls_that_are_done_pile_up_nothing() -> None:
    deadlines = Deadlines()
    for number in range(1000):
        entry = Entry()
        deadlines.remove(entry, deadlines.add(entry, 3600.0 + number))
    assert len(deadlines) == 0
