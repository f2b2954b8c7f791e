"""Tokens looked at (RFC 7662) and revoked (RFC 7009) for others: access tokens and refresh tokens alike."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from service.auth.sessions.refresh_tokens import PREFIX
from service.auth.statements import FIND_REFRESHABLE
from service.auth.tokens import CLIENT_ID
from service.errors import CredentialsInvalid, RefreshTokenInvalid

if TYPE_CHECKING:
    from datetime import timedelta

    from service.auth.authentication import Authentication
    from service.auth.sessions.ending import Ending
    from service.auth.sessions.refresh_tokens import RefreshTokens
    from service.auth.tokens import TokenTerms
    from service.clock import Clock
    from service.db import Database

REASON = "revoked"


@dataclass(frozen=True, slots=True)
class Introspected:
    """What is to be said of a token that is good now. Times are Unix seconds."""

    token_type: str
    issuer: str
    audience: str
    subject: str
    client_id: str
    session_id: str
    issue_time: int
    expire_time: int
    token_id: str = ""
    begin_time: int | None = None
    roles: tuple[str, ...] = ()
    version: int = 0


class Introspection:
    """Tells whether tokens are good now, and ends the sessions of those that are.

    Args:
        authentication: judges access tokens as it does at the door.
        refresh_tokens: reads the other ones.
        database: where sessions are.
        ending: ends them.
        terms: of access tokens.
        idle: how long a session lasts without a refresh.
        clock: by which sessions expire.

    """

    def __init__(
        self,
        *,
        authentication: Authentication,
        refresh_tokens: RefreshTokens,
        database: Database,
        ending: Ending,
        terms: TokenTerms,
        idle: timedelta,
        clock: Clock,
    ) -> None:
        self._authentication = authentication
        self._refresh_tokens = refresh_tokens
        self._database = database
        self._ending = ending
        self._terms = terms
        self._idle = idle
        self._clock = clock

    async def look(self, token: str) -> Introspected | None:
        """Return what a token says; None if it is dead, whatever the reason.

        Raises:
            DependencyUnavailable: the database, which must be asked, cannot be.

        """
        try:
            return await (self._look_refresh(token) if token.startswith(PREFIX) else self._look_access(token))
        except (CredentialsInvalid, RefreshTokenInvalid):
            return None

    async def revoke(self, token: str) -> None:
        """End the session of a token. Nothing happens for one that is dead or none of ours. Raises as `look`."""
        try:
            user_id, session_id = await self._session(token)
        except (CredentialsInvalid, RefreshTokenInvalid):
            return
        await self._database.transact(lambda conn: self._ending.end_one(conn, user_id, session_id, REASON))

    async def _session(self, token: str) -> tuple[UUID, UUID]:
        if token.startswith(PREFIX):
            # Also one that was used: who lost the answer to a refresh has no other.
            refresh = self._refresh_tokens.parse(token)
            return refresh.user_id, refresh.session_id
        principal = (await self._authentication.claims(token)).principal
        if principal.session_id is None:
            raise CredentialsInvalid
        return UUID(principal.subject), principal.session_id

    async def _look_access(self, token: str) -> Introspected:
        claims = await self._authentication.claims(token)
        principal = claims.principal
        return Introspected(
            token_type="access_token",  # noqa: S106 - a type, not a token
            issuer=self._terms.issuer,
            audience=self._terms.audience,
            subject=principal.subject,
            client_id=claims.client_id,
            session_id=str(principal.session_id),
            issue_time=claims.issue_time,
            expire_time=claims.expire_time,
            token_id=claims.token_id,
            begin_time=claims.begin_time,
            roles=tuple(sorted(principal.roles)),
            version=principal.token_version,
        )

    async def _look_refresh(self, text: str) -> Introspected:
        token, now = self._refresh_tokens.parse(text), self._clock()
        session = await self._database.read(
            lambda conn: FIND_REFRESHABLE.optional(
                conn, user_id=token.user_id, session_id=token.session_id, now=now, idle_since=now - self._idle
            )
        )
        if session is None or not hmac.compare_digest(session.refresh_hash, token.hash):
            raise RefreshTokenInvalid
        ends = min(session.expire_time, session.last_use_time + self._idle)
        return Introspected(
            token_type="refresh_token",  # noqa: S106 - a type, not a token
            issuer=self._terms.issuer,
            # A refresh token is for us.
            audience=self._terms.issuer,
            subject=str(token.user_id),
            client_id=CLIENT_ID,
            session_id=str(token.session_id),
            issue_time=int(session.last_use_time.timestamp()),
            expire_time=int(ends.timestamp()),
        )
