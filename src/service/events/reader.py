"""One reader of the stream: a bounded queue, a place in the order, and an end when it does not keep up."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from service.errors import DomainError, ReaderTooSlow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from service.events.model import Filter, Recorded

_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Batch:
    """Some events, or none, and the position up to which everything has been told."""

    events: Sequence[Recorded]
    position: int
    as_of: float | None
    """Everything committed before this moment (``time.monotonic``) has been told; None: more is waiting."""


class Reader:
    """Made by the task that serves the call.

    Args:
        position: up to where it has read.
        wanted: the events it is told of.
        room: how many may wait for it.

    """

    def __init__(self, position: int, wanted: Filter, room: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self.position = position
        self.wanted = wanted
        self.as_of: float | None = None
        self._room = room
        self._queue: deque[Recorded] = deque()
        self._told = asyncio.Event()
        self._sending_since: float | None = None
        self._verdict: DomainError | None = None
        self._cancelled = False

    def feed(self, events: Sequence[Recorded]) -> None:
        """Queue what it wants of the events that come next in order; too many end it."""
        fresh = [event for event in events if event.position > self.position and self.wanted.wants(event)]
        if len(self._queue) + len(fresh) > self._room:
            self.end(ReaderTooSlow())
            return
        self._queue.extend(fresh)
        self.position = max(self.position, events[-1].position)
        if fresh:
            self._told.set()

    async def take(self, within: float) -> Batch:
        """Return what is queued as soon as something is; a mere checkpoint after `within` seconds.

        Raises:
            DomainError: why the reader was ended.

        """
        if not self._queue:
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._told.wait()
        if self._verdict is not None:
            raise self._verdict
        events = list(islice(self._queue, _AT_ONCE))
        for _ in events:
            self._queue.popleft()
        if self._queue:
            return Batch(events, events[-1].position, None)
        self._told.clear()
        return Batch(events, self.position, self.as_of)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Yield a message to the caller within this: a call that hangs in sending can be ended only by cancelling it.

        Raises:
            DomainError: why the reader was ended meanwhile, in place of the cancellation.

        """
        self._sending_since = time.monotonic()
        try:
            yield
        except GeneratorExit:
            # Whoever else cancelled the call, say its client by leaving, goes first.
            if self._cancelled and self._task.uncancel() == 0 and self._verdict is not None:
                raise self._verdict from None
            raise
        finally:
            self._sending_since = None

    def stuck(self, patience: float) -> bool:
        """Tell whether one message has been on its way for longer than `patience` seconds."""
        return self._sending_since is not None and time.monotonic() - self._sending_since > patience

    def end(self, verdict: DomainError) -> None:
        """End the stream, which is told `verdict`. The first verdict stands."""
        if self._verdict is None:
            self._verdict = verdict
            self._told.set()
            if self._sending_since is not None:
                self._cancelled = True
                self._task.cancel()
