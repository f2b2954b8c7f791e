"""Keeping secrets in the database unreadable without the master secret: AES-256-GCM under an HKDF-derived key."""

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


class KeysUnreadable(CannotRun):
    """The database holds secrets that no master secret at hand opens."""


def derive(secret: bytes, purpose: str) -> bytes:
    """Return the 32-byte key that a secret gives for `purpose`; keys of other purposes say nothing of it.

    Raises:
        CannotRun: the secret is too short to be one.

    """
    if len(secret) < _LEAST_SECRET_BYTES:
        raise CannotRun(f"the master secret is shorter than {_LEAST_SECRET_BYTES} bytes")
    return HKDF(hashes.SHA256(), 32, salt=None, info=purpose.encode()).derive(secret)


class Seal:
    """Seals and opens small secrets. `label` binds a box to what it belongs to, so that boxes cannot be swapped.

    Args:
        master_secret: what boxes are sealed under.
        previous: master secrets that only open.

    Raises:
        CannotRun: a master secret is too short to be one.

    """

    def __init__(self, master_secret: bytes, *previous: bytes) -> None:
        self._all = tuple(AESGCM(derive(secret, "gatelodge/signing-keys/v1")) for secret in (master_secret, *previous))

    def seal(self, secret: bytes, *, label: str) -> bytes:
        """Return version, nonce and ciphertext as one box."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._all[0].encrypt(nonce, secret, label.encode())

    def open(self, box: bytes, *, label: str) -> bytes:
        """Return the secret.

        Raises:
            SealBroken: the box was sealed under none of the master secrets, or under another label.

        """
        for aead in self._all:
            if (secret := _opened(aead, box, label)) is not None:
                return secret
        raise SealBroken("sealed under another master secret, or damaged")

    def resealed(self, box: bytes, *, label: str) -> bytes | None:
        """Return the box under the present master secret; None: it is.

        Raises:
            KeysUnreadable: no master secret opens it.

        """
        if _opened(self._all[0], box, label) is not None:
            return None
        return self.seal(self.must_open(box, label=label), label=label)

    def must_open(self, box: bytes, *, label: str) -> bytes:
        """Return the secret.

        Raises:
            KeysUnreadable: no master secret opens the box; the message says what to do.

        """
        try:
            return self.open(box, label=label)
        except SealBroken as error:
            raise KeysUnreadable(
                f"a secret in the database ({label}) was sealed under another master secret: give the one it was "
                "sealed under as auth.master_secret, or among auth.previous_master_secrets"
            ) from error


def _opened(aead: AESGCM, box: bytes, label: str) -> bytes | None:
    if box[:1] != _VERSION:
        return None
    try:
        return aead.decrypt(box[1 : 1 + _NONCE_BYTES], box[1 + _NONCE_BYTES :], label.encode())
    except (InvalidTag, ValueError):
        return None
