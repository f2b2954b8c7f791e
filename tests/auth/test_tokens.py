"""Access tokens issued: what they say (RFC 9068). How they are verified is in ``test_verification.py``."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt
import pytest
from uuid_utils.compat import uuid7

from service.auth.key_ring import KeyRing
from service.auth.keys import SigningKey, new_key
from service.auth.tokens import TokenIssuer, TokenTerms
from service.users.model import UserId

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NEVER = datetime(2031, 1, 1, tzinfo=UTC)
TERMS = TokenTerms(issuer="https://id.example", audience="internal", lifetime=timedelta(minutes=15))
USER = UserId(UUID(int=1))


@pytest.fixture
def key() -> SigningKey:
    return new_key()


@pytest.fixture
def issuer(key: SigningKey) -> TokenIssuer:
    ring = KeyRing(key, {key.public.kid: key.public})
    return TokenIssuer(terms=TERMS, keys=ring, clock=lambda: NOW, new_id=uuid7)


def test_a_token_says_what_rfc_9068_asks_for(issuer: TokenIssuer, key: SigningKey) -> None:
    token = issuer.issue(USER, session_id=UUID(int=2), roles=["admin"], version=1, until=NEVER).text
    claims = jwt.decode(token, options={"verify_signature": False})
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "typ": "at+jwt", "kid": key.public.kid}
    assert set(claims) == {"iss", "aud", "sub", "exp", "iat", "nbf", "jti", "sid", "ver", "client_id", "roles"}
    assert claims["exp"] - claims["iat"] == 900


def test_a_token_does_not_outlive_its_session(issuer: TokenIssuer) -> None:
    ends = NOW + timedelta(seconds=5)
    token = issuer.issue(USER, session_id=UUID(int=2), roles=[], version=1, until=ends)
    assert token.expire_time == ends


def test_a_key_and_a_token_never_print(issuer: TokenIssuer, key: SigningKey) -> None:
    assert "private" not in repr(key).lower()
    assert "eyJ" not in repr(issuer.issue(USER, session_id=UUID(int=2), roles=[], version=1, until=NEVER))
