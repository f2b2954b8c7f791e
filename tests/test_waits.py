"""Waiting for whichever comes first."""

from __future__ import annotations

import asyncio

import pytest

from service.waits import until_any


async def test_the_first_ends_the_wait_and_the_others_with_it() -> None:
    ended = list[str]()

    async def waits(name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            ended.append(name)
            raise

    await until_any(waits("long", 60), waits("short", 0.01), waits("longer", 120))
    assert ended == ["long", "longer"]


async def test_what_the_first_raises_is_raised() -> None:
    async def breaks() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await until_any(asyncio.sleep(60), breaks())


async def test_who_is_cancelled_leaves_nobody_waiting() -> None:
    before = asyncio.all_tasks()
    waiting = asyncio.ensure_future(until_any(asyncio.sleep(60), asyncio.sleep(60)))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert asyncio.all_tasks() <= before


async def test_of_those_that_end_together_the_one_named_first_counts() -> None:
    async def ends() -> None:
        """At once."""

    async def breaks() -> None:
        raise ValueError("broken")

    for _ in range(20):
        await until_any(ends(), breaks())
        with pytest.raises(ValueError, match="broken"):
            await until_any(breaks(), ends())
