"""Access tokens: signed JWTs of type ``at+jwt`` (RFC 9068), issued. Verifying them is ``verification.py``'s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jwt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime, timedelta
    from uuid import UUID

    from service.auth.key_ring import KeyRing
    from service.clock import Clock
    from service.users.model import UserId

TYPE = "at+jwt"
CLIENT_ID = "gatelodge"
"""The ``client_id`` of tokens from Login: the service's own client. Other clients come with service accounts."""


@dataclass(frozen=True, slots=True, repr=False)
class AccessToken:
    """A token and when it ends. Never printed."""

    text: str
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """Who issues tokens, for whom, and for how long."""

    issuer: str
    audience: str
    lifetime: timedelta


class TokenIssuer:
    """Signs access tokens with the ring's active key."""

    def __init__(self, *, terms: TokenTerms, keys: KeyRing, clock: Clock, new_id: Callable[[], UUID]) -> None:
        self._terms = terms
        self._keys = keys
        self._clock = clock
        self._new_id = new_id

    def issue(
        self, user_id: UserId, *, session_id: UUID, roles: Iterable[str], version: int, until: datetime
    ) -> AccessToken:
        """Return a token for a user's session, of the user's token version; it does not outlive the session's end."""
        now = self._clock()
        expire_time = min(now + self._terms.lifetime, until).replace(microsecond=0)
        claims = {
            "iss": self._terms.issuer,
            "aud": self._terms.audience,
            "sub": str(user_id),
            "exp": int(expire_time.timestamp()),
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "jti": str(self._new_id()),
            "sid": str(session_id),
            "ver": version,
            "client_id": CLIENT_ID,
            "roles": sorted(roles),
        }
        key = self._keys.active
        headers = {"typ": TYPE, "kid": key.public.kid}
        return AccessToken(jwt.encode(claims, key.private, key.public.alg, headers), expire_time)
