"""Keeping private keys in the database unreadable without the master secret: AES-256-GCM under an HKDF-derived key."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.errors import CannotRun

_NONCE_BYTES = 12
_VERSION = b"\x01"
_LEAST_SECRET_BYTES = 32


class SealBroken(Exception):
    """What was sealed cannot be opened: another master secret, another label, or changed bytes."""


def derive(master_secret: bytes, purpose: str) -> bytes:
    """Return the 32-byte key that the master secret gives for `purpose`; keys of other purposes say nothing of it.

    Raises:
        CannotRun: the master secret is too short to be one.

    """
    if len(master_secret) < _LEAST_SECRET_BYTES:
        raise CannotRun(f"the master secret is shorter than {_LEAST_SECRET_BYTES} bytes")
    return HKDF(hashes.SHA256(), 32, salt=None, info=purpose.encode()).derive(master_secret)


class Seal:
    """Seals and opens small secrets. `label` binds a box to what it belongs to, so that boxes cannot be swapped.

    Raises:
        CannotRun: the master secret is too short to be one.

    """

    def __init__(self, master_secret: bytes) -> None:
        self._aead = AESGCM(derive(master_secret, "gatelodge/signing-keys/v1"))

    def seal(self, secret: bytes, *, label: str) -> bytes:
        """Return version, nonce and ciphertext as one box."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._aead.encrypt(nonce, secret, label.encode())

    def open(self, box: bytes, *, label: str) -> bytes:
        """Return the secret.

        Raises:
            SealBroken: the box was not sealed under this master secret and label.

        """
        nonce, ciphertext = box[1 : 1 + _NONCE_BYTES], box[1 + _NONCE_BYTES :]
        if box[:1] != _VERSION:
            raise SealBroken("unknown box version")
        try:
            return self._aead.decrypt(nonce, ciphertext, label.encode())
        except InvalidTag as error:
            raise SealBroken("sealed under another master secret, or damaged") from error
