"""Ending sessions on demand: one's own, or another's by who may."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from service.auth.sessions.model import Session
from service.auth.sessions.statements import FIND

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.access import Principal
    from service.auth.sessions.ending import Ending
    from service.auth.sessions.model import SessionTerms
    from service.db import Connection, Database
    from service.users.model import UserId


class Logout:
    """Ends sessions. What has ended already stays as it is, so every one of these can be repeated.

    `may_act_on` raises `PermissionMissing` if a user may do what the caller may not.
    """

    def __init__(
        self,
        *,
        database: Database,
        ending: Ending,
        terms: SessionTerms,
        may_act_on: Callable[[Connection, Principal, UserId], Awaitable[None]],
    ) -> None:
        self._database = database
        self._ending = ending
        self._terms = terms
        self._may_act_on = may_act_on

    async def current(self, principal: Principal) -> None:
        """End the session that the call comes from."""
        user_id, session_id = UUID(principal.subject), principal.session_id
        if session_id is not None:
            await self._database.transact(lambda conn: self._ending.end_one(conn, user_id, session_id, "logout"))

    async def everywhere(self, principal: Principal, *, keep_current: bool) -> int:
        """End all sessions of the caller, or all but the one the call comes from; return how many."""
        user_id, keep = UUID(principal.subject), principal.session_id

        async def work(conn: Connection) -> int:
            if keep_current:
                return await self._ending.end_others(conn, user_id, keep=keep, reason="logout")
            return await self._ending.end_all(conn, user_id, "logout_all")

        return await self._database.transact(work)

    async def revoke(self, user_id: UserId, session_id: UUID, *, by: Principal) -> Session:
        """End one session of a user and return it.

        Raises:
            SessionNotFound: the user has none such.
            PermissionMissing: the user may do what `by` may not.

        """

        async def work(conn: Connection) -> Session:
            await self._may_act_on(conn, by, user_id)
            await self._ending.end_one(conn, user_id.value, session_id, "revoked")
            return Session.from_row(await FIND.one(conn, user_id=user_id.value, session_id=session_id), self._terms)

        return await self._database.transact(work)
