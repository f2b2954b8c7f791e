"""Signing keys as values: what they are, how they are written, and which are refused."""

from __future__ import annotations

import base64

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from service.auth import keys
from service.auth.keys import UnsuitableKey, from_bytes, new_key

ALGORITHMS = ("ES256", "EdDSA", "RS256")


def raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_independent_verifier_reads_the_jwk_and_verifies_with_it(algorithm: str) -> None:
    key = new_key(algorithm)
    jwk = key.public.jwk()
    assert {"use": "sig", "alg": algorithm, "kid": key.public.kid}.items() <= jwk.items()
    signed = jwt.encode({"a": 1}, key.private, key.public.alg)
    assert jwt.decode(signed, jwt.PyJWK.from_dict(jwk), algorithms=[algorithm]) == {"a": 1}
    assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & jwk.keys()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_kept_as_bytes_comes_back_the_same(algorithm: str) -> None:
    key = new_key(algorithm)
    assert from_bytes(key.to_bytes()).public == key.public


def test_members_have_their_full_length_and_no_padding() -> None:
    for _ in range(300):  # one coordinate in 256 begins with a zero byte
        jwk = new_key().public.jwk()
        assert (len(jwk["x"]), len(jwk["y"])) == (43, 43)
    rs256 = new_key("RS256").public.jwk()
    assert (len(raw(rs256["n"])) * 8, rs256["e"]) == (3072, "AQAB")


def test_the_thumbprint_is_that_of_the_rfcs() -> None:
    """The examples of RFC 7638 §3.1 and RFC 8037 §A.3."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjh"
        "Mstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvR"
        "L5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    numbers = rsa.RSAPublicNumbers(int.from_bytes(raw("AQAB"), "big"), int.from_bytes(raw(n), "big"))
    assert keys._thumbprint(keys._members(numbers.public_key())) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    edwards = Ed25519PublicKey.from_public_bytes(raw("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"))
    assert keys._thumbprint(keys._members(edwards)) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize(
    "private",
    [
        rsa.generate_private_key(65_537, 1024),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed448.Ed448PrivateKey.generate(),
    ],
    ids=["RSA of 1024 bits", "P-384", "secp256k1", "Ed448"],
)
def test_weak_and_foreign_keys_are_refused(
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey,
) -> None:
    with pytest.raises(UnsuitableKey):
        from_bytes(private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def test_an_unknown_algorithm_has_no_keys() -> None:
    with pytest.raises(UnsuitableKey):
        new_key("HS256")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_never_prints(algorithm: str) -> None:
    assert "private" not in repr(new_key(algorithm)).lower()
