"""Background tasks that never die silently: each crash is logged with its stack and the task is started again."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

from service.telemetry.logging import logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

_log = logger("gatelodge.supervisor")


class Supervisor:
    """Runs background tasks while its ``async with`` block lasts; cancels and awaits them at its end.

    A task that raises is started again after `first_delay` seconds, doubling up to `longest_delay`; one that ran for
    `stable_after` seconds before begins anew at `first_delay`. A task that returns is done. `on_crash` is told the
    name of each task that crashed.
    """

    def __init__(
        self,
        *,
        first_delay: float = 0.1,
        longest_delay: float = 30.0,
        stable_after: float = 60.0,
        patience: float = 5.0,
        on_crash: Callable[[str], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._stable_after = stable_after
        self._patience = patience
        self._on_crash = on_crash
        self._sleep = sleep
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        await self.close()

    def spawn(self, name: str, factory: Callable[[], Awaitable[None]]) -> None:
        """Start a task. `factory` is called for the first run and for each one after a crash.

        Raises:
            RuntimeError: the supervisor is closing or closed.

        """
        if self._closing:
            raise RuntimeError(f"no background task starts while closing: {name}")
        task = asyncio.create_task(self._keep(name, factory), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel every task and wait until the last one has ended.

        One that has not ended after `patience` seconds is cancelled again: ``asyncio.wait_for`` of Python 3.11, in
        which libraries wait, loses a cancellation that comes together with the result.
        """
        self._closing = True
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=self._patience)

    async def _keep(self, name: str, factory: Callable[[], Awaitable[None]]) -> None:
        delay = self._first_delay
        while True:
            started = self._clock()
            if await self._ends(name, factory):
                return
            if self._clock() - started >= self._stable_after:
                delay = self._first_delay
            _log.warning("background task restarts", task=name, delay_seconds=delay)
            await self._sleep(delay)
            delay = min(delay * 2, self._longest_delay)

    async def _ends(self, name: str, factory: Callable[[], Awaitable[None]]) -> bool:
        """Run the task once; False when it crashed."""
        try:
            await factory()
        except asyncio.CancelledError as error:
            if self._closing or _cancelled_from_outside():
                raise
            # Something inside was cancelled, not this task: asyncio would end it without a word.
            self._crashed(name, error)
            return False
        except Exception as error:  # noqa: BLE001 - whatever it was, it is logged and the task goes on
            self._crashed(name, error)
            return False
        _log.debug("background task done", task=name)
        return True

    def _crashed(self, name: str, error: BaseException) -> None:
        _log.error("background task crashed", task=name, exc_info=error)
        if self._on_crash is not None:
            self._on_crash(name)


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
