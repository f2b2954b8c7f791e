"""The keys that sign access tokens: made on first start, kept sealed in the database, published as a JWK set."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from service.auth.sealing import SealBroken
from service.auth.statements import INSERT_FIRST_SIGNING_KEY, LIST_SIGNING_KEYS, SigningKeyRow
from service.errors import CannotRun

if TYPE_CHECKING:
    from service.auth.sealing import Seal
    from service.db import Database

ALGORITHM = "ES256"
_COORDINATE_BYTES = 32


class KeysUnreadable(CannotRun):
    """The database holds signing keys that this master secret does not open."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies tokens; the fields are those of its JWK (RFC 7517, RFC 7518 §6.2)."""

    kid: str
    """The RFC 7638 thumbprint."""
    alg: str
    crv: str
    x: str
    y: str
    key: ec.EllipticCurvePublicKey

    def jwk(self) -> dict[str, str]:
        """Return the public JWK."""
        return {
            "kty": "EC",
            "use": "sig",
            "alg": self.alg,
            "kid": self.kid,
            "crv": self.crv,
            "x": self.x,
            "y": self.y,
        }


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A key that signs tokens. Never printed."""

    public: PublicKey
    private: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The key that signs, and every key that still verifies."""

    active: SigningKey
    verifying: dict[str, PublicKey]
    """By key id."""

    def jwks(self) -> bytes:
        """Return the JWK set (RFC 7517 §5) as JSON."""
        return json.dumps({"keys": [key.jwk() for key in self.verifying.values()]}).encode()


async def load_or_create(database: Database, seal: Seal) -> KeyRing:
    """Return the key ring in the database, making the first key when there is none.

    Raises:
        KeysUnreadable: the master secret is not the one the keys were sealed under.

    """
    rows = await database.read(LIST_SIGNING_KEYS.all)
    if not any(row.state == "active" for row in rows):
        await _insert(database, seal, new_key())
        rows = await database.read(LIST_SIGNING_KEYS.all)
    keys = {row.kid: (row, _open(row, seal)) for row in rows}
    active = next(key for row, key in keys.values() if row.state == "active")
    return KeyRing(active, {kid: key.public for kid, (_, key) in keys.items()})


async def _insert(database: Database, seal: Seal, key: SigningKey) -> None:
    public = key.public
    secret = key.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    box = seal.seal(secret, label=public.kid)
    await database.transact(
        lambda conn: INSERT_FIRST_SIGNING_KEY.execute(
            conn, kid=public.kid, algorithm=public.alg, public_jwk=public.jwk(), private_key=box
        )
    )


def new_key() -> SigningKey:
    """Make a key for ES256."""
    return _signing_key(ec.generate_private_key(ec.SECP256R1()))


def _open(row: SigningKeyRow, seal: Seal) -> SigningKey:
    try:
        private = load_der_private_key(seal.open(row.private_key, label=row.kid), password=None)
    except SealBroken as error:
        raise KeysUnreadable(
            f"signing key {row.kid} was sealed under another master secret: start with the one it was made under"
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise KeysUnreadable(f"signing key {row.kid} is not an EC key")
    return _signing_key(private)


def _signing_key(private: ec.EllipticCurvePrivateKey) -> SigningKey:
    public = private.public_key()
    numbers = public.public_numbers()
    x, y = _coordinate(numbers.x), _coordinate(numbers.y)
    return SigningKey(PublicKey(_thumbprint(x, y), ALGORITHM, "P-256", x, y, public), private)


def _thumbprint(x: str, y: str) -> str:
    """Return the RFC 7638 §3 thumbprint: SHA-256 over the required members, sorted, without blanks."""
    members = json.dumps({"crv": "P-256", "kty": "EC", "x": x, "y": y}, separators=(",", ":"))
    return _base64url(hashlib.sha256(members.encode()).digest())


def _coordinate(number: int) -> str:
    return _base64url(number.to_bytes(_COORDINATE_BYTES, "big"))


def _base64url(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
