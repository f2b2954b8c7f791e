"""What has been revoked and could still matter: a set in memory, read from the events and kept up with them.

So a token is checked without asking the database, and dies in every process as soon as its feed hears of it.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

import structlog

from service.errors import DomainError
from service.events.model import Filter, Recorded, SessionRevoked, UserTokensRevoked

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from service.access import Principal
    from service.clock import Clock
    from service.events.feed import Feed
    from service.events.reader import Batch
    from service.events.record import Record

_log = structlog.get_logger("gatelodge.revocations")

TYPES: Final = frozenset({SessionRevoked.type, UserTokensRevoked.type})
"""The events that kill tokens."""
_AGAIN = 0.2
"""Seconds until the events are read again after they could not be."""
_LOOK = 0.2
"""Seconds between two looks at how fresh the set is."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """Tokens that died before their time: those of a session, or those of a user below a version."""

    user_id: UUID | None
    session_id: UUID | None
    """None: the user's, of all sessions."""
    min_version: int
    revoke_time: datetime

    @classmethod
    def of(cls, event: Recorded) -> Revocation:
        """Return what an event of `TYPES` revokes."""
        if event.type == SessionRevoked.type:
            return cls(event.subject, UUID(event.payload["session_id"]), 0, event.create_time)
        return cls(event.subject, None, int(event.payload["version"]), event.create_time)


class RevokedTokens:
    """The revocations that could still matter to a token that lives.

    Args:
        window: how long one matters: no token lives longer after it.

    """

    def __init__(self, window: timedelta) -> None:
        self._window = window.total_seconds()
        # In the order in which they were added, which is nearly the one in which they are forgotten.
        self._sessions: dict[UUID, float] = {}
        self._users: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._sessions) + len(self._users)

    def add(self, revocation: Revocation) -> None:
        """Add one. Adding it again changes nothing, in whatever order they come."""
        forget = revocation.revoke_time.timestamp() + self._window
        if revocation.session_id is not None:
            self._sessions[revocation.session_id] = max(forget, self._sessions.pop(revocation.session_id, forget))
        else:
            user = str(revocation.user_id)
            version, until = self._users.pop(user, (0, forget))
            self._users[user] = (max(version, revocation.min_version), max(until, forget))

    def kills(self, principal: Principal) -> bool:
        """Tell whether the token that speaks for `principal` is revoked."""
        if principal.session_id in self._sessions:
            return True
        revoked = self._users.get(principal.subject)
        return revoked is not None and principal.token_version < revoked[0]

    def forget(self, now: datetime) -> None:
        """Drop what no longer matters. Costs nothing while there is nothing to drop."""
        moment = now.timestamp()
        while self._sessions and next(iter(self._sessions.values())) < moment:
            del self._sessions[next(iter(self._sessions))]
        while self._users and next(iter(self._users.values()))[1] < moment:
            del self._users[next(iter(self._users))]


class Revocations:
    """The set this process checks tokens against, and how far it can be trusted.

    Args:
        record: where the events are read from at first.
        feed: brings what is committed after that.
        clock: of the events, the database's.
        window: how long a revocation matters.
        staleness: seconds after which a set that heard nothing of the database is not trusted alone.
        lag: is told the seconds from each revocation to its being known here.
        monotonic: of `Batch.as_of`.

    """

    def __init__(
        self,
        *,
        record: Record,
        feed: Feed,
        clock: Clock,
        window: timedelta,
        staleness: float,
        lag: Callable[[float], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record = record
        self._feed = feed
        self._clock = clock
        self._window = window
        self._staleness = staleness
        self._lag = lag
        self._monotonic = monotonic
        self._revoked = RevokedTokens(window)
        self._as_of = -math.inf
        self._complete = asyncio.Event()
        self._failing = False

    def kills(self, principal: Principal) -> bool:
        """Tell whether the token that speaks for `principal` is known to be revoked. Asks nobody."""
        return self._revoked.kills(principal)

    def fresh(self) -> bool:
        """Tell whether everything revoked until a few seconds ago is known. Never before the set is complete."""
        return self._monotonic() - self._as_of <= self._staleness

    async def complete(self) -> None:
        """Wait until the set was complete for the first time."""
        await self._complete.wait()

    async def run(self) -> None:
        """Follow the events for ever, from the beginning again when they cannot be followed. A background task."""
        while True:
            try:
                await self._follow()
            except DomainError as error:
                self._note(error)
                await asyncio.sleep(_AGAIN)

    async def report(self, tell: Callable[[bool], None]) -> None:
        """Tell whether the set is fresh, as soon as it is whole and whenever that changes. A background task."""
        told: bool | None = None
        await self._complete.wait()
        while True:
            fresh = self.fresh()
            if fresh is not told:
                if told is not None:
                    _log.warning("revocations are up to date again" if fresh else "revocations are stale")
                told = fresh
                tell(fresh)
            await asyncio.sleep(_LOOK)

    async def _follow(self) -> None:
        # Until the new set is whole, the old one serves on: it grows stale, it does not get wrong.
        events, position = await self._record.recent(TYPES, since=self._clock() - self._window)
        revoked = RevokedTokens(self._window)
        for event in events:
            revoked.add(Revocation.of(event))
        self._revoked = revoked
        self._note(None)
        async with aclosing(self._feed.watch(position, Filter(types=TYPES))) as batches:
            async for batch in batches:
                self._apply(batch)

    def _apply(self, batch: Batch) -> None:
        now = self._clock()
        for event in batch.events:
            self._revoked.add(Revocation.of(event))
            self._lag(max(0.0, (now - event.create_time).total_seconds()))
        self._revoked.forget(now)
        if batch.as_of is not None:
            self._as_of = batch.as_of
            self._complete.set()

    def _note(self, error: DomainError | None) -> None:
        """Log the first of failures that follow each other."""
        if error is not None and not self._failing:
            _log.warning("revocations are read anew", reason=error.reason)
        self._failing = error is not None
