"""Signed tokens opened: JWS in its compact form, in the one spelling in which it is written (RFC 7515, RFC 8725).

Every check is on the characters that came: what says the same in other characters is another token.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jwt.algorithms import get_default_algorithms

from service import base64url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from service.auth.keys import PublicKey

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_ALGORITHMS = {name: get_default_algorithms()[name] for name in ("ES256", "EdDSA", "RS256")}


class BadToken(Exception):
    """Something is wrong with a token."""


def opened(token: str, key_for: Callable[[Mapping[str, Any]], PublicKey]) -> tuple[bytes, PublicKey]:
    """Return the payload of a token, and the key it is signed with.

    `key_for` gives the key for a header, which nobody has proven yet. The key decides the algorithm, never the header
    (RFC 8725 §3.1).

    Raises:
        BadToken: whatever is wrong with it.

    """
    # What follows would refuse these as well, but later and less plainly.
    if not _COMPACT.fullmatch(token):
        raise BadToken("not three segments of base64url")
    signed, _, signature = token.rpartition(".")
    header, _, payload = signed.partition(".")
    members = _header(header)
    key = key_for(members)
    if members.get("alg") != key.alg:
        raise BadToken("not the key's algorithm")
    if not _ALGORITHMS[key.alg].verify(signed.encode(), key.key, _decoded(signature)):
        raise BadToken("wrong signature")
    return _decoded(payload), key


@lru_cache(maxsize=64)
def _header(segment: str) -> Mapping[str, Any]:
    """Read a header. All tokens of a key have the same, so those read last are remembered; what is wrong is not."""
    return MappingProxyType(json_object(_decoded(segment)))


def json_object(raw: bytes) -> dict[str, Any]:
    """Return a JSON object in UTF-8 that names no member twice (RFC 7515 §4).

    Raises:
        BadToken: it is not one.

    """
    try:
        value = _JSON.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadToken("not JSON") from error
    if not isinstance(value, dict):
        raise BadToken("not an object")
    return value


def _decoded(segment: str) -> bytes:
    try:
        return base64url.decode(segment)
    except ValueError as error:
        raise BadToken("not base64url") from error


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadToken("a member twice")
    return members


def _no_constant(_name: str) -> None:
    raise BadToken("not JSON")


_JSON = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_constant)
