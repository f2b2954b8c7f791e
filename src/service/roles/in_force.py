"""The permissions in force: what each role allows, in this process's memory, as fresh as the events.

An access token names roles; what they allow is looked up here, so that a role's change needs no new token.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog

from service.errors import DomainError
from service.events.model import Filter, RoleCreated, RoleDeleted, RoleUpdated
from service.roles.statements import LIST_DEFINITIONS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.db import Database
    from service.events.feed import Feed
    from service.events.record import Record

_log = structlog.get_logger("gatelodge.roles")

_CHANGES = frozenset({RoleCreated.type, RoleUpdated.type, RoleDeleted.type})
_MOST_REMEMBERED = 10_000


class RolesInForce:
    """What roles allow now. `load` before use; `keep` in the background.

    Args:
        database: where roles are defined.
        record: tells how far the events go.
        feed: tells of changes.
        interval: seconds after which everything is read anew although no change was told.
        pause: seconds before another try when the database is away.
        sleep: waits.
        clock: monotonic, seconds.

    """

    def __init__(
        self,
        *,
        database: Database,
        record: Record,
        feed: Feed,
        interval: float = 60.0,
        pause: float = 1.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._record = record
        self._feed = feed
        self._interval = interval
        self._pause = pause
        self._sleep = sleep
        self._clock = clock
        self._defined: dict[str, frozenset[str]] = {}
        self._remembered: dict[frozenset[str], frozenset[str]] = {}
        self._due = 0.0
        self._failing = False

    def permissions_of(self, roles: frozenset[str]) -> frozenset[str]:
        """Return what the roles allow together; those that are not defined allow nothing. Does not block."""
        permissions = self._remembered.get(roles)
        if permissions is None:
            permissions = frozenset().union(*(self._defined.get(role, ()) for role in roles))
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[roles] = permissions
        return permissions

    async def load(self) -> None:
        """Read every role. Raises as `Database.read`."""
        rows = await self._database.read(LIST_DEFINITIONS.all)
        self._defined = {row.name: frozenset(row.permissions) for row in rows}
        self._remembered = {}
        self._due = self._clock() + self._interval

    async def keep(self) -> None:
        """Follow the changes for ever. A background task. While the database is away, what was read last holds."""
        while True:
            try:
                await self._follow()
            except DomainError as error:
                if not self._failing:
                    _log.warning("changes of roles cannot be followed for now", reason=error.reason)
                self._failing = True
            await self._sleep(self._pause)

    async def _follow(self) -> None:
        """Read everything, and again with every change after the place in the events that was there before."""
        position = (await self._record.ends()).latest
        await self.load()
        self._failing = False
        async with aclosing(self._feed.watch(position, Filter(types=_CHANGES))) as batches:
            async for batch in batches:
                if batch.events or self._clock() >= self._due:
                    await self.load()
