"""Refresh: a token for its successor, the same one for who lost the answer; a token used before ends its session."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.auth.sessions.model import Grant
from service.auth.sessions.opening import may_log_in
from service.auth.sessions.statements import HOLD, HOLD_USER, ROTATE
from service.errors import RefreshTokenInvalid
from service.users.model import UserId

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from service.auth.sessions.ending import Ending
    from service.auth.sessions.model import SessionTerms
    from service.auth.sessions.refresh_tokens import RefreshToken, RefreshTokens
    from service.auth.sessions.statements import HeldSessionRow, HeldUserRow
    from service.auth.tokens import TokenIssuer
    from service.clock import Clock
    from service.db import Connection, Database

REUSED = "refresh_token_reused"


@dataclass(frozen=True, slots=True)
class _Exchanged:
    """How an exchange ended; what is granted only if there is a successor."""

    outcome: str
    successor: RefreshToken | None = None
    user: HeldUserRow | None = None
    session: HeldSessionRow | None = None


_REFUSED = _Exchanged("refused")


class Refreshing:
    """Exchanges refresh tokens. `count` is told how each attempt ended: success, retried, refused or reused."""

    def __init__(
        self,
        *,
        database: Database,
        ending: Ending,
        issuer: TokenIssuer,
        refresh_tokens: RefreshTokens,
        clock: Clock,
        terms: SessionTerms,
        count: Callable[[str], None],
    ) -> None:
        self._database = database
        self._ending = ending
        self._issuer = issuer
        self._refresh_tokens = refresh_tokens
        self._clock = clock
        self._terms = terms
        self._count = count

    async def __call__(self, text: str, *, source: str) -> Grant:
        """Return the successor of a refresh token, and a new access token; `source` is where the call comes from.

        Raises:
            RefreshTokenInvalid: the token is not ours or was used before, or its session or user lives no more. A token
                used before has ended its session by then.

        """
        try:
            token = self._refresh_tokens.parse(text)
        except RefreshTokenInvalid:
            self._count("refused")
            raise
        # A refusal is returned and raised afterwards, so that the end of the session is committed.
        exchanged = await self._database.transact(lambda conn: self._exchange(conn, token, source))
        self._count(exchanged.outcome)
        user, session, successor = exchanged.user, exchanged.session, exchanged.successor
        if user is None or session is None or successor is None:
            raise RefreshTokenInvalid
        access = self._issuer.issue(
            UserId(token.user_id),
            session_id=token.session_id,
            roles=user.roles,
            version=user.token_version,
            until=self._terms.tokens_until(session.last_use_time, session.expire_time),
        )
        return Grant(token.session_id, session.expire_time, access, successor)

    async def _exchange(self, conn: Connection, token: RefreshToken, source: str) -> _Exchanged:
        user = await HOLD_USER.optional(conn, user_id=token.user_id)
        session = await HOLD.optional(conn, user_id=token.user_id, session_id=token.session_id)
        # Only now, for it may have been a long wait.
        now = self._clock()
        if user is None or session is None or not may_log_in(user) or not self._lives(session, now):
            return _REFUSED
        if session.generation == token.generation and hmac.compare_digest(session.refresh_hash, token.hash):
            successor = await self._rotate(conn, token, now, source)
            return _Exchanged("success", successor, user, session._replace(last_use_time=now))
        if (given := self._given_before(session, token, now)) is not None:
            return _Exchanged("retried", given, user, session)
        if token.generation > session.generation:
            # Of a time that the database has lost, as a failover may. Nobody used it before.
            return _REFUSED
        await self._ending.end_one(conn, token.user_id, token.session_id, REUSED)
        return _Exchanged("reused")

    async def _rotate(self, conn: Connection, token: RefreshToken, now: datetime, source: str) -> RefreshToken:
        salt = self._refresh_tokens.salt()
        successor = self._refresh_tokens.successor(token, salt)
        await ROTATE.execute(
            conn,
            user_id=token.user_id,
            session_id=token.session_id,
            refresh_hash=successor.hash,
            refresh_salt=salt,
            now=now,
            source=source,
        )
        return successor

    def _given_before(self, session: HeldSessionRow, token: RefreshToken, now: datetime) -> RefreshToken | None:
        """Return the successor that the token was exchanged for just now; None where that is too long ago."""
        if session.generation != token.generation + 1 or session.refresh_salt is None:
            return None
        # Nothing but a rotation sets the time of the last use.
        if now - session.last_use_time > self._terms.grace:
            return None
        successor = self._refresh_tokens.successor(token, session.refresh_salt)
        return successor if hmac.compare_digest(session.refresh_hash, successor.hash) else None

    def _lives(self, session: HeldSessionRow, now: datetime) -> bool:
        idle_expire_time = session.last_use_time + self._terms.idle
        return session.revoke_time is None and now < min(session.expire_time, idle_expire_time)
