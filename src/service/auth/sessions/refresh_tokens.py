"""Refresh tokens: opaque to callers; their own tag tells them from garbage, so that garbage costs no query.

A successor is derived from its predecessor, a key and a salt drawn at the rotation: who lost an answer can be given the
same one again, although the database holds nothing but hashes and the salt.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from service import base64url
from service.auth.sealing import derive
from service.errors import RefreshTokenInvalid

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "glr_"
SALT_BYTES = 16
_SECRET_BYTES = 32
_TAG_BYTES = 16
_BODY = struct.Struct(f">16s16sI{_SECRET_BYTES}s")
"""User, session, generation, secret."""
_CHARACTERS = len(PREFIX) + (_BODY.size + _TAG_BYTES) // 3 * 4
"""Of a token: its bytes are a multiple of three."""


@dataclass(frozen=True, slots=True, repr=False)
class RefreshToken:
    """A token that was really given out by this service. Never printed."""

    text: str
    user_id: UUID
    session_id: UUID
    generation: int

    @property
    def hash(self) -> bytes:
        """What the database keeps of it: SHA-256. With 256 random bits in it, that needs no salt."""
        return hashlib.sha256(self.text.encode()).digest()


class RefreshTokens:
    """Makes and reads refresh tokens.

    Args:
        key: 32 bytes that all replicas share.
        random: gives that many random bytes.

    """

    def __init__(self, *, key: bytes, random: Callable[[int], bytes]) -> None:
        self._tag_key = derive(key, "gatelodge/refresh-tokens/tag/v1")
        self._successor_key = derive(key, "gatelodge/refresh-tokens/successor/v1")
        self._random = random

    def first(self, user_id: UUID, session_id: UUID) -> RefreshToken:
        """Return the first token of a session."""
        return self._made(user_id, session_id, 1, self._random(_SECRET_BYTES))

    def salt(self) -> bytes:
        """Return what makes a rotation's successor another one than any other rotation's."""
        return self._random(SALT_BYTES)

    def successor(self, token: RefreshToken, salt: bytes) -> RefreshToken:
        """Return the token after `token`: the same for the same salt."""
        secret = hmac.digest(self._successor_key, token.text.encode() + salt, "sha256")
        return self._made(token.user_id, token.session_id, token.generation + 1, secret)

    def parse(self, text: str) -> RefreshToken:
        """Read a token.

        Raises:
            RefreshTokenInvalid: it was never given out by this service.

        """
        raw = _decoded(text)
        body, tag = raw[: _BODY.size], raw[_BODY.size :]
        if not hmac.compare_digest(tag, self._tag(body)):
            raise RefreshTokenInvalid
        user_id, session_id, generation, _ = _BODY.unpack(body)
        return RefreshToken(text, UUID(bytes=user_id), UUID(bytes=session_id), generation)

    def _made(self, user_id: UUID, session_id: UUID, generation: int, secret: bytes) -> RefreshToken:
        body = _BODY.pack(user_id.bytes, session_id.bytes, generation, secret)
        text = PREFIX + base64url.encode(body + self._tag(body))
        return RefreshToken(text, user_id, session_id, generation)

    def _tag(self, body: bytes) -> bytes:
        return hmac.digest(self._tag_key, body, "sha256")[:_TAG_BYTES]


def _decoded(text: str) -> bytes:
    if len(text) != _CHARACTERS or not text.startswith(PREFIX):
        raise RefreshTokenInvalid
    try:
        return base64url.decode(text.removeprefix(PREFIX))
    except ValueError as error:
        raise RefreshTokenInvalid from error
