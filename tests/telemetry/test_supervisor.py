"""Background tasks crash loudly and come back."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from service.settings import Log
from service.supervisor import Supervisor
from service.telemetry.logging import configure


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


async def test_a_task_that_crashes_is_logged_with_its_stack_and_starts_again() -> None:
    stream = io.StringIO()
    logs = configure(Log(), service="s", version="v", stream=stream)
    runs, done = 0, asyncio.Event()
    crashed: list[str] = []

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError("bad day")
        done.set()

    time = Time()
    async with Supervisor(sleep=time.sleep, clock=lambda: time.now, on_crash=crashed.append) as supervisor:
        supervisor.spawn("worker", work)
        await asyncio.wait_for(done.wait(), 20)
    logs.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    errors = [line for line in lines if line["level"] == "error"]
    assert len(errors) == 2
    assert errors[0]["task"] == "worker"
    assert "ValueError: bad day" in errors[0]["exception"]
    assert "in work" in errors[0]["exception"]
    assert crashed == ["worker", "worker"]
    assert runs == 3


async def test_the_wait_doubles_up_to_a_limit_and_starts_anew_after_a_stable_run() -> None:
    time, runs, enough = Time(), 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 6:
            time.now += 100
        if runs == 8:
            enough.set()
            await asyncio.Event().wait()
        raise ValueError

    async with Supervisor(
        first_delay=1, longest_delay=8, stable_after=60, sleep=time.sleep, clock=lambda: time.now
    ) as supervisor:
        supervisor.spawn("worker", work)
        await asyncio.wait_for(enough.wait(), 20)
    assert time.slept == [1, 2, 4, 8, 8, 1, 2]


async def test_leaving_cancels_the_tasks_and_waits_for_their_end() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.02)
            ended.append("clean")

    async with Supervisor() as supervisor:
        supervisor.spawn("one", work)
        supervisor.spawn("two", work)
        await asyncio.sleep(0)
    assert ended == ["clean", "clean"]
    with pytest.raises(RuntimeError, match="closing"):
        supervisor.spawn("late", work)


async def test_leaving_does_not_wait_for_a_restart_that_is_due() -> None:
    async def work() -> None:
        raise ValueError

    async with asyncio.timeout(20), Supervisor(first_delay=60) as supervisor:
        supervisor.spawn("worker", work)
        await asyncio.sleep(0.01)


async def test_a_task_that_returns_is_done() -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1

    async with Supervisor(first_delay=0) as supervisor:
        supervisor.spawn("once", work)
        await asyncio.sleep(0.02)
    assert runs == 1


async def test_a_cancellation_from_within_is_a_crash_and_not_a_silent_end() -> None:
    runs, again = 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise asyncio.CancelledError
        again.set()

    async with Supervisor(first_delay=0) as supervisor:
        supervisor.spawn("worker", work)
        await asyncio.wait_for(again.wait(), 20)
    assert runs == 2


async def test_a_task_that_loses_its_cancellation_is_cancelled_again() -> None:
    lost: list[str] = []

    async def loses() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost:
                    raise
                lost.append("cancellation")

    supervisor = Supervisor(patience=0.05)
    supervisor.spawn("deaf", loses)
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await supervisor.close()
    assert lost == ["cancellation"]
