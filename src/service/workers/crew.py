"""The workers together: as many as there should be, each replaced when it crashes and when that is asked for."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

from service.errors import CannotRun
from service.supervisor import Supervisor
from service.telemetry.logging import logger
from service.workers.channel import DRAIN, LEAVE
from service.workers.member import Member, NotServingError, described

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Self

    Launch = Callable[[int], Awaitable[Member]]

_log = logger("gatelodge.workers")

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 30.0
_STABLE_AFTER = 60.0


class Meter(Protocol):
    """What is counted."""

    def crashed(self, how: str) -> None:
        """Count a worker that ended unasked, by exit status or signal."""

    def ended(self, member: Member) -> None:
        """Keep the numbers of a worker that is gone. From any thread."""


class Crew:
    """Keeps workers 1 to `size`. An ``async with``: at its end all have drained and gone.

    Args:
        size: how many.
        launch: starts the process of worker n.
        meter: is told what happens.
        patience: seconds a worker may take to drain at the end; after them it is killed.

    """

    def __init__(self, size: int, *, launch: Launch, meter: Meter, patience: float) -> None:
        self._launch = launch
        self._meter = meter
        self._patience = patience
        self._members: dict[int, Member | None] = dict.fromkeys(range(1, size + 1))
        self._locks = {number: asyncio.Lock() for number in self._members}
        self._leaving: set[Member] = set()
        self._starting: set[Member] = set()
        self._delays = dict.fromkeys(self._members, 0.0)
        self._tasks = Supervisor()
        self._closing = False

    def serving(self) -> tuple[Member, ...]:
        """Return those that serve and are not about to go. From any thread."""
        return tuple(member for member in list(self._members.values()) if member is not None)

    def leaving(self) -> tuple[Member, ...]:
        """Return those that were replaced and still have callers. From any thread."""
        return tuple(self._leaving)

    async def __aenter__(self) -> Self:
        """Start all at once.

        Raises:
            CannotRun: one of them cannot serve: what that one said. The others are gone.

        """
        starts = [asyncio.ensure_future(self._fill(number)) for number in self._members]
        try:
            await asyncio.gather(*starts)
        except NotServingError as error:
            await self._close(starts)
            raise CannotRun(str(error)) from None
        except BaseException:
            await self._close(starts)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close([])

    async def replace(self) -> None:
        """Replace one after the other; each serves before its predecessor is told to leave.

        One that does not come to serve is logged and its predecessor stays, and so do those after it.
        """
        if self._leaving:
            await asyncio.wait([asyncio.ensure_future(member.exited()) for member in self._leaving])
        for number in self._members:
            old = self._members[number]
            if old is None:
                continue  # it crashed, and its successor is on the way
            try:
                await self._fill(number)
            except (NotServingError, OSError) as error:
                _log.error("worker not replaced, the one before stays", worker=number, cause=str(error))
                return
            await old.order(LEAVE)
            _log.info("worker replaced", worker=number, pid=old.pid)

    async def _fill(self, number: int) -> None:
        """Start worker `number` and wait until it serves."""
        async with self._locks[number]:
            member = await self._launch(number)
            self._starting.add(member)
            try:
                await member.until_serving()
            except asyncio.CancelledError:
                await member.order(DRAIN)
                await member.exited()
                raise
            finally:
                self._starting.discard(member)
            if (old := self._members[number]) is not None:
                self._leaving.add(old)  # first: whoever looks meanwhile, from another thread, must not miss it
            self._members[number] = member
        _log.info("worker serves", worker=number, pid=member.pid)
        self._tasks.spawn(f"worker {number}", partial(self._watch, member))

    async def _watch(self, member: Member) -> None:
        """Wait for its end; unless that was asked for, start another."""
        status = await member.exited()
        await asyncio.to_thread(self._meter.ended, member)
        self._leaving.discard(member)
        wanted = self._members[member.number] is member and not self._closing
        if self._members[member.number] is member:
            self._members[member.number] = None
        how = described(status)
        if status != 0 or wanted:
            self._meter.crashed(how)
            _log.error("worker crashed", worker=member.number, pid=member.pid, how=how)
        if wanted:
            if time.monotonic() - member.since >= _STABLE_AFTER:
                self._delays[member.number] = 0
            await self._refill(member.number)

    async def _refill(self, number: int) -> None:
        """Start worker `number` again, later each time in a row."""
        while not self._closing:
            delay = self._delays[number]
            self._delays[number] = min(max(delay * 2, _FIRST_DELAY), _LONGEST_DELAY)
            await asyncio.sleep(delay)
            try:
                await self._fill(number)
            except (NotServingError, OSError) as error:
                self._meter.crashed("start")
                _log.error("worker does not start", worker=number, cause=str(error))
            else:
                return

    async def _close(self, starts: Sequence[asyncio.Future[None]]) -> None:
        """Drain all, and wait until they are gone."""
        self._closing = True
        for start in starts:
            start.cancel()
        members = {*self.serving(), *self._leaving, *self._starting}
        await asyncio.gather(*(member.order(DRAIN) for member in members))
        ends = [asyncio.ensure_future(member.exited()) for member in members]
        if ends and (await asyncio.wait(ends, timeout=self._patience))[1]:
            _log.error("workers did not drain in time and are killed")
            for member in members:
                member.kill()
            await asyncio.wait(ends)
        await asyncio.gather(*starts, return_exceptions=True)
        await self._tasks.close()
