"""Ending sessions, in the transaction of whoever has a reason to, on the record, from which every replica learns of it.

What stays shut: a session that has ended is never revived, and tokens of an earlier version never count again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.auth.sessions.statements import (
    HOLD_USER_ALONE,
    RAISE_VERSION,
    REVOKE_ALL,
    REVOKE_ONE,
    REVOKE_SURPLUS,
)
from service.events.model import SessionRevoked, UserTokensRevoked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from service.auth.sessions.model import SessionTerms
    from service.auth.sessions.statements import EndedRow
    from service.clock import Clock
    from service.db import Connection
    from service.events.journal import Journal

TOO_MANY = "too_many_sessions"


class Ending:
    """Ends sessions. Every `reason` is one of those in ``events.proto``."""

    def __init__(self, *, journal: Journal, clock: Clock, terms: SessionTerms) -> None:
        self._journal = journal
        self._clock = clock
        self._terms = terms

    async def end_one(self, conn: Connection, user_id: UUID, session_id: UUID, reason: str) -> int:
        """End one session; return 1, or 0 where it is not there or has ended already."""
        now = self._clock()
        ended = await REVOKE_ONE.all(
            conn,
            user_id=user_id,
            session_id=session_id,
            reason=reason,
            now=now,
            idle_since=now - self._terms.idle,
        )
        return await self._tell(conn, user_id, ended, reason)

    async def end_others(self, conn: Connection, user_id: UUID, *, keep: UUID | None, reason: str) -> int:
        """End all sessions of a user but `keep`, with one event each; return how many."""
        await HOLD_USER_ALONE.optional(conn, user_id=user_id)
        return await self._tell(conn, user_id, await self._revoke(conn, user_id, keep, reason), reason)

    async def end_all(self, conn: Connection, user_id: UUID, reason: str) -> int:
        """End all sessions of a user and all their access tokens, with one event; return how many sessions."""
        await self.expire_access_tokens(conn, user_id, reason)
        return len(await self._revoke(conn, user_id, None, reason))

    async def end_surplus(self, conn: Connection, user_id: UUID, *, newest: UUID) -> int:
        """End the oldest sessions of a user beyond the most there may be; return how many. `newest` is not ended.

        Logins at the very same moment do not see each other, so there may be as many more until the next login.
        """
        now = self._clock()
        ended = await REVOKE_SURPLUS.all(
            conn,
            user_id=user_id,
            keep=newest,
            others=self._terms.most - 1,
            reason=TOO_MANY,
            now=now,
            idle_since=now - self._terms.idle,
        )
        return await self._tell(conn, user_id, ended, TOO_MANY)

    async def expire_access_tokens(self, conn: Connection, user_id: UUID, reason: str) -> None:
        """End all access tokens of a user, not the sessions: these go on with a refresh. No user: nothing to end."""
        raised = await RAISE_VERSION.optional(conn, user_id=user_id)
        if raised is not None:
            await self._journal.record(conn, UserTokensRevoked(user_id, version=raised.token_version, reason=reason))

    async def _revoke(self, conn: Connection, user_id: UUID, keep: UUID | None, reason: str) -> list[EndedRow]:
        now = self._clock()
        return await REVOKE_ALL.all(
            conn, user_id=user_id, keep=keep, reason=reason, now=now, idle_since=now - self._terms.idle
        )

    async def _tell(self, conn: Connection, user_id: UUID, ended: Sequence[EndedRow], reason: str) -> int:
        for row in ended:
            await self._journal.record(conn, SessionRevoked(user_id, session_id=str(row.id), reason=reason))
        return len(ended)
