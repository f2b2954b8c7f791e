"""Access tokens: signed JWTs of type ``at+jwt`` (RFC 9068), issued and verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import jwt

from service.access import Principal
from service.errors import CredentialsInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime, timedelta

    from service.auth.keys import KeyRing, PublicKey
    from service.clock import Clock
    from service.users.model import UserId

TYPE = "at+jwt"
CLIENT_ID = "gatelodge"
"""The ``client_id`` of tokens from Login: the service's own client. Other clients come with service accounts."""
LEEWAY_SECONDS = 5
"""How far the clocks of issuer and verifier may be apart."""
MAX_TOKEN_CHARACTERS = 8192
_REQUIRED = ["iss", "aud", "sub", "exp", "iat", "nbf", "jti", "sid", "ver", "client_id"]


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


class TokenVerifier:
    """Verifies access tokens. The key decides the algorithm, never the token (RFC 8725 §3.1)."""

    def __init__(self, *, terms: TokenTerms, keys: KeyRing, clock: Clock) -> None:
        self._terms = terms
        self._keys = keys
        self._clock = clock

    def __call__(self, token: str) -> Principal:
        """Return who the token speaks for.

        Raises:
            CredentialsInvalid: whatever is wrong with it.

        """
        try:
            claims = self._claims(token)
            self._check_times(claims)
            return Principal(
                subject=_text(claims["sub"]),
                roles=_roles(claims.get("roles", [])),
                session_id=UUID(_text(claims["sid"])),
                token_version=_number(claims["ver"]),
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise CredentialsInvalid from error

    def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise ValueError("token too long")
        key = self._key(jwt.get_unverified_header(token))
        return jwt.decode(
            token,
            key.key,
            algorithms=[key.alg],
            audience=self._terms.audience,
            issuer=self._terms.issuer,
            # The times are checked against our own clock below.
            options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )

    def _key(self, header: dict[str, Any]) -> PublicKey:
        if header.get("typ") != TYPE or "crit" in header:
            raise ValueError("not an access token")
        key = self._keys.verifying.get(_text(header.get("kid")))
        if key is None:
            raise ValueError("unknown key")
        return key

    def _check_times(self, claims: dict[str, Any]) -> None:
        now = self._clock().timestamp()
        if _number(claims["exp"]) <= now or max(_number(claims["nbf"]), _number(claims["iat"])) > now + LEEWAY_SECONDS:
            raise ValueError("outside the token's lifetime")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("expected text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("expected a whole number")
    return value


def _roles(value: object) -> frozenset[str]:
    if not isinstance(value, list):
        raise TypeError("expected a list of role names")
    return frozenset(_text(role) for role in value)
