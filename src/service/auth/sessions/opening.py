"""Opening a session: what a login does once the password is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from service.auth.sessions.model import Grant
from service.auth.sessions.statements import HOLD_USER, OPEN
from service.auth.statements import CHANGE_PASSWORD
from service.errors import DomainError
from service.events.model import SessionStarted, UserPasswordSet
from service.users.model import UserId, UserState

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from service.auth.sessions.ending import Ending
    from service.auth.sessions.model import Device, SessionTerms
    from service.auth.sessions.refresh_tokens import RefreshTokens
    from service.auth.sessions.statements import HeldUserRow, OpenedRow
    from service.auth.tokens import TokenIssuer
    from service.clock import Clock
    from service.db import Connection, Database
    from service.events.journal import Journal

_log = structlog.get_logger("gatelodge.auth")


class Opening:
    """Opens sessions. The tokens are made when the session is there to stay."""

    def __init__(
        self,
        *,
        database: Database,
        journal: Journal,
        ending: Ending,
        issuer: TokenIssuer,
        refresh_tokens: RefreshTokens,
        clock: Clock,
        new_id: Callable[[], UUID],
        terms: SessionTerms,
    ) -> None:
        self._database = database
        self._journal = journal
        self._ending = ending
        self._issuer = issuer
        self._refresh_tokens = refresh_tokens
        self._clock = clock
        self._new_id = new_id
        self._terms = terms

    async def __call__(
        self, user_id: UUID, device: Device, *, verified: str, replacement: str | None = None
    ) -> Grant | None:
        """Open a session for whoever gave the password that `verified` is the hash of.

        A `replacement` takes the place of that hash, in the same transaction.

        None: meanwhile the user went, may not log in any more, or has another hash. Nothing is changed then.
        """
        now = self._clock()
        session_id = self._new_id()
        first = self._refresh_tokens.first(user_id, session_id)
        expire_time = now + self._terms.lifetime
        values = {
            "user_id": user_id,
            "session_id": session_id,
            "device_label": device.label,
            "user_agent": device.user_agent,
            "device_source": device.source,
            "now": now,
            "idle_since": now - self._terms.idle,
            "expire_time": expire_time,
            "refresh_hash": first.hash,
            **self._journal.entry(SessionStarted(user_id, session_id=str(session_id))),
        }
        if replacement is None:
            user = await self._database.apart(
                lambda conn: OPEN.optional(conn, hash=verified, **values), repeatable=True
            )
        else:
            user = await self._database.transact(lambda conn: self._replace(conn, verified, replacement, values))
        if user is None:
            return None
        if user.others >= self._terms.most:
            await self._end_surplus(user_id, session_id)
        access = self._issuer.issue(
            UserId(user_id),
            session_id=session_id,
            roles=user.roles,
            version=user.token_version,
            until=self._terms.tokens_until(now, expire_time),
        )
        return Grant(session_id, expire_time, access, first)

    async def _end_surplus(self, user_id: UUID, newest: UUID) -> None:
        """End what is too many. A transaction of its own: the session is open, and the login does not fail any more.

        It begins with the user's row, like all that changes several of their sessions.
        """

        async def work(conn: Connection) -> None:
            await HOLD_USER.optional(conn, user_id=user_id)
            await self._ending.end_surplus(conn, user_id, newest=newest)

        try:
            await self._database.transact(work)
        except DomainError as error:
            _log.warning("surplus sessions stay until the next login", user_id=str(user_id), reason=error.reason)

    async def _replace(
        self, conn: Connection, verified: str, replacement: str, values: dict[str, Any]
    ) -> OpenedRow | None:
        """Replace the hash, unless another login has done so meanwhile, and open the session."""
        user_id = values["user_id"]
        user = await HOLD_USER.optional(conn, user_id=user_id)
        if user is None or not may_log_in(user):
            return None
        if not await CHANGE_PASSWORD.execute(conn, user_id=user_id, old_hash=verified, new_hash=replacement):
            return None
        await self._journal.record(conn, UserPasswordSet(user_id, must_change=False))
        return await OPEN.one(conn, hash=replacement, **values)


def may_log_in(user: HeldUserRow) -> bool:
    """Tell whether the user is active and not deleted."""
    return user.state == UserState.ACTIVE and user.delete_time is None
