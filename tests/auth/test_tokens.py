"""Access tokens: what a good one says, and that every bad one is refused alike (RFC 8725, RFC 9068)."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from uuid_utils.compat import uuid7

from service.auth.keys import KeyRing, SigningKey, new_key
from service.auth.tokens import TokenIssuer, TokenTerms, TokenVerifier
from service.errors import CredentialsInvalid
from service.users.model import UserId

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)
TERMS = TokenTerms(issuer="https://id.example", audience="internal", lifetime=timedelta(minutes=15))
USER = UserId(UUID(int=1))


@dataclass
class World:
    """An issuer and a verifier with one key, and a clock that the test moves."""

    now: datetime = NOW
    key: SigningKey = field(default_factory=new_key)

    def __post_init__(self) -> None:
        ring = KeyRing(self.key, {self.key.public.kid: self.key.public})
        self.issuer = TokenIssuer(terms=TERMS, keys=ring, clock=lambda: self.now, new_id=uuid7)
        self.verify = TokenVerifier(terms=TERMS, keys=ring, clock=lambda: self.now)

    def token(self) -> str:
        return self.issuer.issue(USER, session_id=UUID(int=2), roles=["admin"], version=1, until=NEVER).text

    def forge(self, claims: dict[str, Any] | None = None, headers: dict[str, Any] | None = None) -> str:
        """Sign, with the real key, a token that differs from a good one."""
        good = jwt.decode(self.token(), options={"verify_signature": False})
        merged = {name: value for name, value in (good | (claims or {})).items() if value is not None}
        return jwt.encode(
            merged, self.key.private, "ES256", {"typ": "at+jwt", "kid": self.key.public.kid} | (headers or {})
        )


@pytest.fixture
def world() -> World:
    return World()


def test_a_token_says_what_rfc_9068_asks_for(world: World) -> None:
    token = world.token()
    claims = jwt.decode(token, options={"verify_signature": False})
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "typ": "at+jwt", "kid": world.key.public.kid}
    assert set(claims) == {"iss", "aud", "sub", "exp", "iat", "nbf", "jti", "sid", "ver", "client_id", "roles"}
    assert claims["exp"] - claims["iat"] == 900


def test_a_good_token_speaks_for_its_user(world: World) -> None:
    principal = world.verify(world.token())
    assert (principal.subject, principal.roles) == (str(USER), frozenset({"admin"}))


def test_a_token_dies_on_time(world: World) -> None:
    token = world.token()
    world.now = NOW + timedelta(seconds=899)
    world.verify(token)
    world.now = NOW + timedelta(seconds=900)
    with pytest.raises(CredentialsInvalid):
        world.verify(token)


def test_a_token_from_a_slightly_fast_clock_is_accepted_and_one_from_the_future_is_not(world: World) -> None:
    token = world.token()
    world.now = NOW - timedelta(seconds=4)
    world.verify(token)
    world.now = NOW - timedelta(seconds=60)
    with pytest.raises(CredentialsInvalid):
        world.verify(token)


def _unsigned(world: World) -> str:
    return jwt.encode(jwt.decode(world.token(), options={"verify_signature": False}), "", "none", {"typ": "at+jwt"})


def _hmac_with_the_public_key(world: World) -> str:
    """RFC 8725 §2.1: the public key used as an HMAC secret."""
    pem = world.key.public.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "typ": "at+jwt", "kid": world.key.public.kid}
    payload = world.token().split(".")[1]
    signed = f"{_base64url(json.dumps(header).encode())}.{payload}"
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signed.encode(), pem)
    return f"{signed}.{_base64url(mac)}"


def _another_key_under_our_id(world: World) -> str:
    claims = jwt.decode(world.token(), options={"verify_signature": False})
    stranger = ec.generate_private_key(ec.SECP256R1())
    return jwt.encode(claims, stranger, "ES256", {"typ": "at+jwt", "kid": world.key.public.kid})


def _changed_payload(world: World) -> str:
    head, payload, signature = world.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "==")) | {"sub": str(UUID(int=9))}
    return f"{head}.{_base64url(json.dumps(claims).encode())}.{signature}"


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "attack",
    [
        _unsigned,
        _hmac_with_the_public_key,
        _another_key_under_our_id,
        _changed_payload,
        lambda world: world.token()[:-2],
        lambda world: world.token() + "." + "A" * 10,
        lambda _: "",
        lambda _: "....",
        lambda _: "\0\n",
        lambda _: "a" * 100_000,
        lambda world: world.forge(headers={"typ": "JWT"}),
        lambda world: world.forge(headers={"crit": ["b64"], "b64": False}),
        lambda world: world.forge(headers={"kid": "../../etc/passwd"}),
        lambda world: world.forge({"iss": "https://evil.example"}),
        lambda world: world.forge({"aud": "another"}),
        lambda world: world.forge({"aud": ["another", "third"]}),
        lambda world: world.forge({"exp": "tomorrow"}),
        lambda world: world.forge({"exp": 1e308}),
        lambda world: world.forge({"nbf": 4_000_000_000}),
        lambda world: world.forge({"iat": 4_000_000_000}),
        lambda world: world.forge({"sub": ""}),
        lambda world: world.forge({"roles": "admin"}),
        *[
            lambda world, name=name: world.forge({name: None})
            for name in ("iss", "aud", "sub", "exp", "iat", "nbf", "jti", "sid", "client_id")
        ],
    ],
)
def test_every_bad_token_is_refused_with_the_same_words(world: World, attack: Callable[[World], str]) -> None:
    with pytest.raises(CredentialsInvalid) as caught:
        world.verify(attack(world))
    assert caught.value.message == CredentialsInvalid().message
    assert caught.value.metadata == {}


def test_a_key_never_prints(world: World) -> None:
    assert "private" not in repr(world.key).lower()
    assert "eyJ" not in repr(world.issuer.issue(USER, session_id=UUID(int=2), roles=[], version=1, until=NEVER))
