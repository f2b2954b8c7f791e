"""The keys that sign and verify access tokens, as values: made, written as JWKs and thumbprints, kept as bytes.

Which of them signs is the business of `service.auth.key_ring`, and how that changes of `service.auth.key_rotation`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from service import base64url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PublicMaterial: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
PrivateMaterial: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_COORDINATE_BYTES = 32
_RSA_EXPONENT = 65_537
_RSA_BITS = 3072
_RSA_LEAST_BITS = 2048
"""RFC 7518 §3.3."""


class UnsuitableKey(Exception):
    """A key of a kind, curve or length that this service does not sign with."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies tokens."""

    kid: str
    """The RFC 7638 thumbprint."""
    alg: str
    """The one algorithm it may be used with."""
    key: PublicMaterial

    def jwk(self) -> dict[str, str]:
        """Return the public JWK (RFC 7517 §4): of EC and RSA by RFC 7518 §6, of Ed25519 by RFC 8037 §2."""
        return {**_members(self.key), "use": "sig", "alg": self.alg, "kid": self.kid}


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A key that signs tokens. Never printed."""

    public: PublicKey
    private: PrivateMaterial

    def to_bytes(self) -> bytes:
        """Return the private key as PKCS #8, in clear: for sealing."""
        return self.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def new_key(algorithm: str = "ES256") -> SigningKey:
    """Make a key. RS256 takes a tenth of a second and more; no other thread waits for it.

    Raises:
        UnsuitableKey: no such algorithm.

    """
    if algorithm not in _MAKERS:
        raise UnsuitableKey(f"no key signs with {algorithm}")
    return _signing_key(_MAKERS[algorithm]())


def from_bytes(secret: bytes) -> SigningKey:
    """Return the key that `SigningKey.to_bytes` wrote.

    Raises:
        UnsuitableKey: it is none of ours, or too weak.

    """
    # That the numbers of an RSA key fit each other was true when it was sealed; proving it again holds every thread
    # for a tenth of a second.
    private = load_der_private_key(secret, password=None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(private, PrivateMaterial):
        raise UnsuitableKey("neither EC, Ed25519 nor RSA")
    return _signing_key(private)


_MAKERS: Mapping[str, Callable[[], PrivateMaterial]] = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "RS256": lambda: rsa.generate_private_key(_RSA_EXPONENT, _RSA_BITS),
}


def _signing_key(private: PrivateMaterial) -> SigningKey:
    key = private.public_key()
    algorithm = _algorithm(key)
    return SigningKey(PublicKey(_thumbprint(_members(key)), algorithm, key), private)


def _algorithm(key: PublicMaterial) -> str:
    """Return the one algorithm of a key, which must be strong enough for it."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "EdDSA"
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1):
            raise UnsuitableKey(f"an EC key on {key.curve.name}")
        return "ES256"
    if key.key_size < _RSA_LEAST_BITS:
        raise UnsuitableKey(f"an RSA key of {key.key_size} bits")
    return "RS256"


def _members(key: PublicMaterial) -> dict[str, str]:
    """Return the JWK members that make the key what it is: those that its thumbprint is of (RFC 7638 §3.2)."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return {"crv": "Ed25519", "kty": "OKP", "x": base64url.encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw))}
    if isinstance(key, ec.EllipticCurvePublicKey):
        point = key.public_numbers()
        return {"crv": "P-256", "kty": "EC", "x": _coordinate(point.x), "y": _coordinate(point.y)}
    numbers = key.public_numbers()
    return {"e": _number(numbers.e), "kty": "RSA", "n": _number(numbers.n)}


def _thumbprint(members: Mapping[str, str]) -> str:
    """Return the RFC 7638 §3 thumbprint: SHA-256 over the required members, sorted, without blanks."""
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return base64url.encode(hashlib.sha256(text.encode()).digest())


def _coordinate(number: int) -> str:
    """Spell a coordinate at full length (RFC 7518 §6.2.1.2)."""
    return base64url.encode(number.to_bytes(_COORDINATE_BYTES, "big"))


def _number(number: int) -> str:
    """Spell a number in as few bytes as it has (RFC 7518 §2, Base64urlUInt)."""
    return base64url.encode(number.to_bytes((number.bit_length() + 7) // 8, "big"))
