"""How long events are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

    from service.clock import Clock
    from service.events.record import Record


class Retention:
    """Removes events that are older than `keep`."""

    def __init__(self, *, record: Record, clock: Clock, keep: timedelta) -> None:
        self._record = record
        self._clock = clock
        self._keep = keep

    async def prune(self) -> int:
        """Remove what is too old, some thousand events to a transaction; return how many."""
        before, pruned = self._clock() - self._keep, 0
        while some := await self._record.prune(before):
            pruned += some
        return pruned
