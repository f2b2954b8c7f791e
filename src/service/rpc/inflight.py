"""The calls in progress: how many may be, and how they are ended early, at a deadline or when the process drains."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from service.errors import DeadlineExceeded, DomainError, Overloaded, ShuttingDown
from service.rpc.deadlines import Deadlines

if TYPE_CHECKING:
    from service.rpc.methods import Method

_MOST_WAITING = 32
_PATIENCE = 1.0
"""Seconds. A client sends its request right behind the headers; one this late may be cut for others' sake."""


class Entry:
    """One call in progress, held by the task that serves it."""

    __slots__ = ("_task", "counted", "streaming", "tick", "verdict")

    def __init__(self, *, streaming: bool, counted: bool) -> None:
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self.tick: int | None = None
        """When its deadline is, to `Deadlines`; None without one."""
        self.streaming = streaming
        self.counted = counted
        self.verdict: DomainError | None = None
        """Why the call was ended early; None while it was not."""

    def end(self, verdict: DomainError) -> None:
        """Cancel the call's work; its caller is told `verdict`. The first verdict stands."""
        if self.verdict is None and self._task is not None:
            self.verdict = verdict
            self._task.cancel()

    def expire(self) -> None:
        """End the call with `DeadlineExceeded`."""
        self.end(DeadlineExceeded())

    def settle(self) -> DomainError | None:
        """Take our own cancellation back; return the verdict, or None if someone else cancelled the task as well."""
        verdict, task = self.verdict, self._task
        return verdict if verdict is not None and task is not None and task.uncancel() == 0 else None

    def release(self) -> None:
        """Let go of task and verdict.

        The task's context holds the entry: as a circle, each call and its request, with the password that may be in it,
        would stay in memory until the garbage collector comes by.
        """
        self._task = self.verdict = None


_entry: ContextVar[Entry | None] = ContextVar("gatelodge_entry", default=None)


class InFlight:
    """Counts calls and streams, refuses those over their limits, and ends what must end.

    A call whose request does not come holds a place, and the memory of what came of it, for as little as its headers.
    So when places are short, or more than a few calls wait like that, the one that has waited longest makes room.

    Health and reflection are let in always: they must answer when nothing else does.

    Args:
        max_calls: unary-response calls at once.
        max_streams: streamed responses at once; they are counted apart, since they last.

    """

    def __init__(self, *, max_calls: int, max_streams: int) -> None:
        self._limits = {False: max_calls, True: max_streams}
        self._counts = {False: 0, True: 0}
        self._entries: set[Entry] = set()
        self._waiting: dict[Entry, float] = {}
        self._deadlines = Deadlines()
        self._closed = False
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def enter(self, method: Method) -> Entry:
        """Let a call in.

        Raises:
            ShuttingDown: the process drains. Standing health checks are still answered, with NOT_SERVING.
            Overloaded: as many calls as may be are in progress.

        """
        streaming, counted = method.server_streaming, not method.infrastructure
        if self._closed and (streaming or counted):
            raise ShuttingDown
        full = counted and self._counts[streaming] >= self._limits[streaming]
        if (full or len(self._waiting) >= _MOST_WAITING) and not self._make_room() and full:
            raise Overloaded("streams" if streaming else "calls")
        if counted:
            self._counts[streaming] += 1
        entry = Entry(streaming=streaming, counted=counted)
        self._entries.add(entry)
        if not method.client_streaming:
            self._waiting[entry] = time.monotonic()
            _entry.set(entry)
        return entry

    def arrived(self) -> None:
        """Note that the request of the call served by this task is there."""
        entry = _entry.get()
        if entry is not None:
            self._waiting.pop(entry, None)

    def end_after(self, entry: Entry, seconds: float) -> None:
        """End the call with `DeadlineExceeded` unless it finishes within `seconds`."""
        # asyncio.timeout does the same at five times the cost, and cannot say why it ended.
        entry.tick = self._deadlines.add(entry, seconds)

    def leave(self, entry: Entry) -> None:
        """Give the call's place back."""
        if entry.tick is not None:
            self._deadlines.remove(entry, entry.tick)
        self._entries.discard(entry)
        self._waiting.pop(entry, None)
        entry.release()
        if entry.counted:
            self._counts[entry.streaming] -= 1
        if self._closed and not self._entries:
            self._idle.set()

    def close(self) -> None:
        """Refuse new calls from now on and tell every stream to connect elsewhere."""
        self._closed = True
        self._end(streams_only=True)
        if not self._entries:
            self._idle.set()

    async def finish(self, grace: float) -> int:
        """After `close`: wait at most `grace` seconds for all calls; end those that are left, return their number."""
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            return self._end(streams_only=False)
        return 0

    def _make_room(self) -> bool:
        """End the call that has waited longest for its request, if it has waited long; tell whether there was one."""
        oldest = next(iter(self._waiting), None)
        if oldest is None or time.monotonic() - self._waiting[oldest] < _PATIENCE:
            return False
        del self._waiting[oldest]
        oldest.end(Overloaded("calls"))
        return True

    def _end(self, *, streams_only: bool) -> int:
        ended = [entry for entry in self._entries if entry.streaming or not streams_only]
        for entry in ended:
            entry.end(ShuttingDown())
        return len(ended)
