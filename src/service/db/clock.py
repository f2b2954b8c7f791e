"""A clock that all replicas share: the database's, advanced by the monotonic clock between looks at it."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from service.clock import system_clock
from service.db.statements import READ_CLOCK
from service.errors import DomainError

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.clock import Clock
    from service.db.pool import Database
    from service.db.statement import Connection

_LOG = logging.getLogger(__name__)

_EVERY = 5.0
_FIRST_LOOKS = 3
_DRIFT = 0.001
"""Seconds that two clocks may drift apart in one second: far more than real ones do."""
_HOLD = 10.0
"""Seconds that the clock stands still for, rather than go back. By more than that it goes back at once."""
_WORTH_A_WARNING = 1.0


class DatabaseClock:
    """Returns the database's time, UTC. Usable once `look` has returned. From any thread.

    Each look tells bounds: the database read its clock after it was asked and before it answered. The bounds of all
    looks are intersected, so a slow answer says little and does no harm; bounds that exclude what was known before show
    that the database's clock was set. Without a database the clock goes on.

    Args:
        database: whose time it is.
        tell: hears how many seconds the database's clock is before this machine's.
        monotonic: seconds; never set.
        system: this machine's clock, which may be wrong.

    """

    def __init__(
        self,
        database: Database,
        *,
        tell: Callable[[float], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
        system: Clock = system_clock,
    ) -> None:
        self._database = database
        self._tell = tell
        self._monotonic = monotonic
        self._system = system
        self._least = self._most = self._seen = 0.0
        self._offset: float | None = None
        self._latest = 0.0
        self._warned = False

    def __call__(self) -> datetime:
        """Return the present moment. Stands still where it would have to go back a little."""
        assert self._offset is not None, "the database's clock has not been looked at yet"
        now = self._monotonic() + self._offset
        if not 0 < self._latest - now <= _HOLD:
            self._latest = now
        return datetime.fromtimestamp(self._latest, UTC)

    async def start(self) -> None:
        """Look often enough to begin with. Raises as `Database.read`."""
        for _ in range(_FIRST_LOOKS):
            await self.look()

    async def follow(self) -> None:
        """Look every few seconds, for ever. A background task."""
        while True:
            await asyncio.sleep(_EVERY)
            try:
                await self.look()
            except DomainError as error:
                _LOG.debug("the database's clock cannot be read for now: %s", type(error).__name__)

    async def look(self) -> None:
        """Ask the database once. Raises as `Database.read`."""
        self._learn(*await self._database.read(self._ask))

    async def _ask(self, conn: Connection) -> tuple[float, float, float]:
        asked = self._monotonic()
        row = await READ_CLOCK.one(conn)
        return asked, row.now.timestamp(), self._monotonic()

    def _learn(self, asked: float, told: float, answered: float) -> None:
        least, most = told - answered, told - asked
        drift = (answered - self._seen) * _DRIFT
        low, high = max(least, self._least - drift), min(most, self._most + drift)
        if self._offset is None or low > high:
            low, high = least, most
        self._least, self._most, self._seen = low, high, answered
        self._offset = (low + high) / 2
        self._compare(answered + self._offset - self._system().timestamp())

    def _compare(self, ahead: float) -> None:
        """Tell how far the machine's clock is off, and warn once each time it goes wrong."""
        self._tell(ahead)
        wrong = abs(ahead) > _WORTH_A_WARNING
        if wrong and not self._warned:
            _LOG.warning("the system clock is off by %.1f s from the database's, which is used", -ahead)
        self._warned = wrong
