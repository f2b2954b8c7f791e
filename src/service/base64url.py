"""base64url without padding (RFC 4648 §5, RFC 7515 §2), in the one spelling in which it is written."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode


def encode(raw: bytes) -> str:
    """Spell bytes in characters that need no quoting in URLs, headers and file names."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Return what `encode` spelt.

    Raises:
        ValueError: `text` is not exactly what `encode` writes: other characters, padding, or bits after the end.

    """
    raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode(raw) != text:
        raise ValueError("another spelling")
    return raw
