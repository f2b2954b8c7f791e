"""The feed: one poller a process reads what is committed and hands it to every reader.

Polling is the truth. A notification only wakes the poller sooner, so a database behind PgBouncer, where none arrive,
costs a little latency and nothing else. While nobody reads, nothing is polled; in the service somebody always does, to
know which tokens are revoked.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, contextmanager, suppress
from typing import TYPE_CHECKING

import structlog

from service.errors import CursorPruned, DomainError, ReaderTooSlow
from service.events.reader import Batch, Reader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from service.db import Listener
    from service.events.model import Filter, Recorded
    from service.events.record import Record

_log = structlog.get_logger("gatelodge.events")

CHANNEL = "gatelodge_events"
"""Where each commit with events sends a notification."""

_AT_ONCE = 500
_BREATH = 0.01
"""Seconds between polls however many notifications come, so that a busy database is read in batches."""
_LISTEN_AGAIN = 2.0


class Feed:
    """Streams events to many readers.

    Args:
        record: where events are read.
        room: how many events may wait for one reader.
        checkpoint: seconds after which a reader hears something, events or not.
        interval: seconds between polls.
        patience: seconds that sending one message may take.

    """

    def __init__(
        self,
        *,
        record: Record,
        room: int = 10_000,
        checkpoint: float = 0.5,
        interval: float = 0.25,
        patience: float = 30.0,
    ) -> None:
        self._record = record
        self._room = room
        self._checkpoint = checkpoint
        self._interval = interval
        self._patience = patience
        self._position = 0
        self._readers: set[Reader] = set()
        self._live: set[Reader] = set()
        self._wanted = asyncio.Event()
        self._woken = asyncio.Event()
        self._failing = False

    async def watch(self, position: int, wanted: Filter) -> AsyncGenerator[Batch, None]:
        """Yield what comes after `position`, first from the table, then as it is committed. Close it when leaving.

        Raises:
            CursorPruned: events after the position are gone.
            CursorInvalid: the position lies in the future.
            ReaderTooSlow: more events wait, or one message waits longer, than is allowed.

        """
        await self._record.check(position)
        with self._reader(position, wanted) as reader:
            async with aclosing(self._batches(reader)) as batches:
                async for batch in batches:
                    with reader.sending():
                        yield batch

    async def run(self) -> None:
        """Poll for ever. A background task."""
        while True:
            await self._wanted.wait()
            self._woken.clear()
            more = await self._poll() if self._live else False
            for reader in [reader for reader in self._readers if reader.stuck(self._patience)]:
                reader.end(ReaderTooSlow())
            if not more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._woken.wait()
                        await asyncio.sleep(_BREATH)

    def wake(self) -> None:
        """Have the poller look now: something was committed."""
        self._woken.set()

    async def listen(self, listener: Listener) -> None:
        """Have notifications wake the poller, while there are readers. A background task."""
        while True:
            await self._wanted.wait()
            await listener.listen(self.wake, while_=self._wanted.is_set)
            await asyncio.sleep(_LISTEN_AGAIN)

    @contextmanager
    def _reader(self, position: int, wanted: Filter) -> Iterator[Reader]:
        reader = Reader(position, wanted, self._room)
        self._readers.add(reader)
        self._wanted.set()
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            self._live.discard(reader)
            if not self._readers:
                self._wanted.clear()

    async def _batches(self, reader: Reader) -> AsyncGenerator[Batch, None]:
        while True:
            began = time.monotonic()
            events = await self._record.after(reader.position, _AT_ONCE)
            if events:
                reader.position = events[-1].position
            reader.as_of = began if len(events) < _AT_ONCE else None
            yield Batch([event for event in events if reader.wanted.wants(event)], reader.position, reader.as_of)
            if len(events) < _AT_ONCE and self._join(reader):
                break
        while True:
            yield await reader.take(self._checkpoint)

    def _join(self, reader: Reader) -> bool:
        """Let a reader who has come as far as the poller go on with it."""
        if self._live and reader.position < self._position:
            return False
        if not self._live:
            self._position = reader.position
        self._live.add(reader)
        return True

    async def _poll(self) -> bool:
        """Read on once; tell whether there may be more."""
        position, began = self._position, time.monotonic()
        try:
            events = await self._record.after(position, _AT_ONCE)
        except DomainError as error:
            self._note(error)
            return False
        self._note(None)
        # Meanwhile all readers may have left, and others come at another position.
        more = len(events) == _AT_ONCE
        if position == self._position:
            self._hand_out(events, None if more else began)
        return more

    def _hand_out(self, events: list[Recorded], as_of: float | None) -> None:
        if events:
            self._position = events[-1].position
        for reader in self._live:
            reader.as_of = as_of
            if events:
                reader.feed(events)

    def _note(self, error: DomainError | None) -> None:
        """Log the first of failures that follow each other; readers wait meanwhile, unless it cannot get better."""
        if isinstance(error, CursorPruned):
            for reader in self._live:
                reader.end(error)
        if error is not None and not self._failing:
            _log.warning("events cannot be read for now", reason=error.reason)
        self._failing = error is not None
