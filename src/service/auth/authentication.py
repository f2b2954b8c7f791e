"""Who a token speaks for now: verified, not revoked, with the permissions that its roles have at this moment."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from service.auth.statements import FIND_STANDING
from service.auth.verification import UnknownKey
from service.errors import CredentialsInvalid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.access import Principal
    from service.auth.keys import PublicKey
    from service.auth.revocations import Revocations
    from service.auth.verification import Claims, TokenVerifier
    from service.clock import Clock
    from service.db import Database


class Authentication:
    """Turns a token's text into who calls.

    Mostly this asks nobody. While the revocations known here are stale, it asks the database about every token; if that
    cannot be asked either, nobody is let in.

    Args:
        verify: what the token says.
        learn: looks for a key that is not known here, seldom and in vain for most; None: there is none.
        revocations: what has been revoked.
        permissions_of: what roles allow now; called each time, so it must be cheap.
        database: asked when the revocations are stale.
        clock: by which sessions expire.

    """

    def __init__(
        self,
        *,
        verify: TokenVerifier,
        learn: Callable[[str], Awaitable[PublicKey | None]],
        revocations: Revocations,
        permissions_of: Callable[[frozenset[str]], frozenset[str]],
        database: Database,
        clock: Clock,
    ) -> None:
        self._verify = verify
        self._learn = learn
        self._revocations = revocations
        self._permissions_of = permissions_of
        self._database = database
        self._clock = clock

    def __call__(self, token: str) -> Principal | Awaitable[Principal]:
        """Return who calls; what must be awaited for it only when the database must be asked.

        Raises:
            CredentialsInvalid: the token is no good, whatever is wrong with it; also when awaited.
            DependencyUnavailable: only when awaited: the database cannot be asked.

        """
        try:
            principal = self._claims(token).principal
        except CredentialsInvalid as error:
            if isinstance(error.__cause__, UnknownKey):
                return self._learned(token, error.__cause__.kid)
            raise
        return principal if self._revocations.fresh() else self._confirmed(principal)

    async def claims(self, token: str) -> Claims:
        """Return what a good token says, checked as for a call. Raises as `__call__`."""
        try:
            claims = self._claims(token)
        except CredentialsInvalid as error:
            if not isinstance(error.__cause__, UnknownKey) or await self._learn(error.__cause__.kid) is None:
                raise
            claims = self._claims(token)
        if not self._revocations.fresh():
            await self._confirmed(claims.principal)
        return claims

    async def _learned(self, token: str, kid: str) -> Principal:
        """Try again when the token's key has been looked for: another replica may have begun to sign with it."""
        if await self._learn(kid) is None:
            raise CredentialsInvalid
        return (await self.claims(token)).principal

    def _claims(self, token: str) -> Claims:
        claims = self._verify(token)
        principal = claims.principal
        if self._revocations.kills(principal):
            raise CredentialsInvalid
        permissions = self._permissions_of(principal.roles)
        if permissions is not principal.permissions:
            claims.principal = replace(principal, permissions=permissions)
        return claims

    async def _confirmed(self, principal: Principal) -> Principal:
        standing = await self._database.read(
            lambda conn: FIND_STANDING.optional(
                conn,
                user_id=UUID(principal.subject),
                session_id=principal.session_id,
                version=principal.token_version,
                now=self._clock(),
            )
        )
        if standing is None:
            raise CredentialsInvalid
        return principal
