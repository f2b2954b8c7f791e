"""Access tokens verified: what passes is what our own issuer signs (RFC 8725, RFC 9068 §4)."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from service.access import Principal
from service.auth.jws import BadToken, json_object, opened
from service.errors import CredentialsInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.auth.key_ring import KeyRing
    from service.auth.keys import PublicKey
    from service.auth.tokens import TokenTerms
    from service.clock import Clock

LEEWAY_SECONDS: Final = 5
"""How far a token may come from the future. Replicas go by one clock, the database's, up to the time a reading of it
takes; the end of a token has no leeway, so that none lives longer than it says."""
MAX_TOKEN_CHARACTERS: Final = 8192

_TYPES = ("at+jwt", "application/at+jwt")
"""RFC 9068 §4 has those who verify accept both. They name one type, and the header is signed."""
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""In the one spelling in which we write them."""
_HEADER = {"alg", "kid", "typ"}
"""All that our headers have. Whatever else a header holds (`crit`, `jku`, `jwk`, `x5u`, `x5c`) is not of our making."""


class UnknownKey(BadToken):
    """The token names a key that is not, or not yet, known here."""

    def __init__(self, kid: str) -> None:
        super().__init__("unknown key")
        self.kid = kid


@dataclass(slots=True)
class Claims:
    """What a good token says."""

    principal: Principal
    """Whose it is. Without permissions, which change while a token lives: `Authentication` puts them in."""
    token_id: str
    client_id: str
    issue_time: int
    begin_time: int
    expire_time: int
    """Unix seconds, as the others."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A token that was verified, and the id of the key it was verified with: a thumbprint, so it stands for the key."""

    claims: Claims
    kid: str


class TokenVerifier:
    """Verifies access tokens.

    A token that was good is remembered, so that the next time it costs a look-up. Its times and its key are looked at
    again each time; whether it is revoked is not this class's to know, so that nothing of it can be remembered here.
    Only tokens that we signed are remembered, and the one unused for longest makes room.

    Args:
        terms: who issues, for whom, and the longest life a token may have.
        keys: the keys that verify now.
        clock: by which tokens expire.
        remember: how many tokens; 0: none.

    """

    def __init__(self, *, terms: TokenTerms, keys: KeyRing, clock: Clock, remember: int = 10_000) -> None:
        self._terms = terms
        self._lifetime = int(terms.lifetime.total_seconds())
        self._keys = keys
        self._clock = clock
        self._remember = remember
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def __call__(self, token: str) -> Claims:
        """Return what the token says.

        Raises:
            CredentialsInvalid: whatever is wrong with it; because of `UnknownKey`, if that is it.

        """
        known = self._known.get(token)
        if known is not None:
            if self._still_good(known):
                self._known.move_to_end(token)
                return known.claims
            del self._known[token]
        try:
            known = self._verified(token)
        except BadToken as error:
            raise CredentialsInvalid from error
        self._known[token] = known
        if len(self._known) > self._remember:
            self._known.popitem(last=False)
        return known.claims

    def _still_good(self, known: _Known) -> bool:
        """Look again at what changes without the token: the time and the keys."""
        now, claims = self._clock().timestamp(), known.claims
        begin = max(claims.issue_time, claims.begin_time) - LEEWAY_SECONDS
        return begin <= now < claims.expire_time and known.kid in self._keys.verifying

    def _verified(self, token: str) -> _Known:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise BadToken("too long")
        payload, key = opened(token, self._key)
        try:
            known = _Known(self._claims(json_object(payload)), key.kid)
        except (ValueError, TypeError, KeyError) as error:
            raise BadToken("not our claims") from error
        if not self._still_good(known):
            raise BadToken("outside the token's lifetime")
        return known

    def _key(self, header: Mapping[str, Any]) -> PublicKey:
        if header.keys() != _HEADER or header["typ"] not in _TYPES or not isinstance(header["kid"], str):
            raise BadToken("not an access token of ours")
        key = self._keys.verifying.get(header["kid"])
        if key is None:
            raise UnknownKey(header["kid"])
        return key

    def _claims(self, claims: dict[str, Any]) -> Claims:
        if claims["iss"] != self._terms.issuer or claims["aud"] != self._terms.audience:
            raise ValueError("not from or not for this service")
        issued = _seconds(claims["iat"])
        # However long it says it lives: a revocation is forgotten when no token can be older than that.
        expires = min(_seconds(claims["exp"]), issued + self._lifetime)
        principal = Principal(
            subject=_uuid(claims["sub"]),
            roles=_roles(claims["roles"]),
            session_id=UUID(_uuid(claims["sid"])),
            token_version=_version(claims["ver"]),
            expire_time=expires,
        )
        return Claims(
            principal=principal,
            token_id=_text(claims["jti"]),
            client_id=_text(claims["client_id"]),
            issue_time=issued,
            begin_time=_seconds(claims["nbf"]),
            expire_time=expires,
        )


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("expected text")
    return value


def _uuid(value: object) -> str:
    text = _text(value)
    if not _UUID.fullmatch(text):
        raise ValueError("no UUID, or one spelled otherwise")
    return text


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("expected a whole number")
    return value


def _seconds(value: object) -> int:
    seconds = _whole(value)
    if seconds < 0:
        raise ValueError("a time before 1970")
    return seconds


def _version(value: object) -> int:
    version = _whole(value)
    if version < 1:
        raise ValueError("versions begin at 1")
    return version


def _roles(value: object) -> frozenset[str]:
    if not isinstance(value, list):
        raise TypeError("expected a list of role names")
    return frozenset(_text(role) for role in value)
