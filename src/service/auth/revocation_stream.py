"""What has been revoked, streamed to services that verify tokens offline: a snapshot, then each change."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.auth.revocations import TYPES, Revocation
from service.events.model import Filter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import timedelta

    from service.clock import Clock
    from service.events.feed import Feed
    from service.events.record import Record

_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Part:
    """Some revocations, or none."""

    revocations: Sequence[Revocation]
    position: int | None
    """Everything up to here has been told. None while the snapshot is not complete: one cannot go on from within it."""


class RevocationStream:
    """Streams revocations.

    Args:
        record: where the snapshot is read from.
        feed: brings what comes after it.
        clock: of the events.
        window: how long a revocation matters: the snapshot has those not older.

    """

    def __init__(self, *, record: Record, feed: Feed, clock: Clock, window: timedelta) -> None:
        self._record = record
        self._feed = feed
        self._clock = clock
        self._window = window

    async def watch(self, after: int | None) -> AsyncGenerator[Part, None]:
        """Yield what comes after a position; None: first all that matters now. Close it when leaving.

        Raises:
            CursorPruned: events after the position are gone.
            CursorInvalid: the position lies in the future.
            ReaderTooSlow: more revocations wait, or one message waits longer, than is allowed.

        """
        position = after
        if position is None:
            events, position = await self._record.recent(TYPES, since=self._clock() - self._window)
            for start in range(0, len(events), _AT_ONCE):
                last = start + _AT_ONCE >= len(events)
                part = [Revocation.of(event) for event in events[start : start + _AT_ONCE]]
                yield Part(part, position if last else None)
            if not events:
                yield Part([], position)
        async with aclosing(self._feed.watch(position, Filter(types=TYPES))) as batches:
            async for batch in batches:
                yield Part([Revocation.of(event) for event in batch.events], batch.position)
