"""How long sessions are kept after their end."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from service.auth.sessions.statements import PRUNE

if TYPE_CHECKING:
    from service.clock import Clock
    from service.db import Database

KEPT = timedelta(days=7)
"""After a session was revoked or expired, for GetSession. One that lay idle for too long is kept until it expires."""
_BATCH = 1000


class SessionRetention:
    """Removes sessions whose end is long ago. Their tokens were no good before and are none afterwards."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def prune(self, batch: int = _BATCH) -> int:
        """Remove them, `batch` to a transaction; return how many."""
        before, pruned = self._clock() - KEPT, 0
        while True:
            gone = await self._database.transact(lambda conn: PRUNE.execute(conn, before=before, batch=batch))
            pruned += gone
            if gone < batch:
                return pruned
