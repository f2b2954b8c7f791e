"""Paging and cursors: where a reader stands, sealed so that only this service can read, make or change it.

Every list uses these, and so does every stream that resumes. Knows no feature, no SQL and no gRPC.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service import base64url
from service.errors import FieldViolation, InvalidFields, InvalidPageToken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.errors import DomainError

_KEY_BYTES = 64
_MOST_CHARACTERS = 2048


def derived_key(root: bytes, purpose: str) -> bytes:
    """Return the key of one purpose (``page-tokens``): each has its own, so that tokens cannot change places."""
    info = b"gatelodge/" + purpose.encode() + b"/v1"
    return HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=info).derive(root)


class PageTokens:
    """Seals positions into tokens and opens them again (AES-SIV).

    A token shows nothing of its position, which may be an address, and the same position makes the same token.

    Args:
        key: 64 bytes, from `derived_key`.
        invalid: makes the error for a token that cannot be opened.

    """

    def __init__(self, key: bytes, *, invalid: Callable[[], DomainError] = InvalidPageToken) -> None:
        self._aead = AESSIV(key)
        self._invalid = invalid

    def seal(self, position: Sequence[str | int], bound_to: bytes = b"") -> str:
        """Return a token of URL-safe characters that opens only with the same `bound_to`: the method and its filter."""
        body = json.dumps(list(position), ensure_ascii=False, separators=(",", ":")).encode()
        sealed = self._aead.encrypt(body, [bound_to])
        return base64url.encode(sealed)

    def open(self, token: str, bound_to: bytes = b"") -> tuple[str | int, ...]:
        """Return the position.

        Raises:
            InvalidPageToken: (or what `invalid` makes) not sealed with this key, not for `bound_to`, or damaged.

        """
        try:
            if len(token) > _MOST_CHARACTERS:
                raise self._invalid()
            return tuple(json.loads(self._aead.decrypt(base64url.decode(token), [bound_to])))
        except (InvalidTag, ValueError) as error:
            raise self._invalid() from error


def page_size(asked: int, *, default: int, most: int) -> int:
    """Return how many to put on a page (AIP-158): 0 asks for `default`, more than `most` gets `most`.

    Raises:
        InvalidFields: a negative number.

    """
    if asked < 0:
        raise InvalidFields(FieldViolation("page_size", "must not be negative"))
    return min(asked or default, most)
