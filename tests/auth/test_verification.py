"""What a good access token says, and that every bad one is refused alike (RFC 8725, RFC 9068)."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from uuid_utils.compat import uuid7

from service.auth.key_ring import KeyRing
from service.auth.keys import SigningKey, new_key
from service.auth.tokens import TokenIssuer, TokenTerms
from service.auth.verification import LEEWAY_SECONDS, MAX_TOKEN_CHARACTERS, TokenVerifier
from service.errors import CredentialsInvalid
from service.users.model import UserId

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NEVER = NOW + timedelta(days=30)
TERMS = TokenTerms(issuer="https://id.example", audience="internal", lifetime=timedelta(minutes=15))
USER = UserId(UUID(int=1))
SESSION = UUID(int=2)
WYCHEPROOF = json.loads((Path(__file__).parent / "vectors" / "wycheproof.json").read_text())["groups"]


@dataclass
class World:
    """An issuer and a verifier with one key, and a clock that the test moves."""

    now: datetime = NOW
    key: SigningKey = field(default_factory=new_key)

    def __post_init__(self) -> None:
        self.ring = KeyRing(self.key, {self.key.public.kid: self.key.public})
        self.issuer = TokenIssuer(terms=TERMS, keys=self.ring, clock=lambda: self.now, new_id=uuid7)
        self.verify = self.verifier()

    def verifier(self, terms: TokenTerms = TERMS, remember: int = 100) -> TokenVerifier:
        return TokenVerifier(terms=terms, keys=self.ring, clock=lambda: self.now, remember=remember)

    def token(self) -> str:
        return self.issuer.issue(USER, session_id=SESSION, roles=["admin"], version=3, until=NEVER).text

    def forge(self, claims: dict[str, Any] | None = None, headers: dict[str, Any] | None = None) -> str:
        """Sign, with the real key, a token that differs from a good one; None removes a claim."""
        good = jwt.decode(self.token(), options={"verify_signature": False})
        merged = {name: value for name, value in (good | (claims or {})).items() if value is not None}
        return self.sign(json.dumps(json.loads(self.header) | (headers or {})), json.dumps(merged))

    def sign(self, header: str | bytes, payload: str | bytes) -> str:
        """Sign any bytes with the real key."""
        signed = f"{base64url(header)}.{base64url(payload)}"
        signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), self.key.private)
        return f"{signed}.{base64url(signature)}"

    @property
    def header(self) -> str:
        return json.dumps({"alg": "ES256", "typ": "at+jwt", "kid": self.key.public.kid})

    @property
    def payload(self) -> str:
        return json.dumps(jwt.decode(self.token(), options={"verify_signature": False}))

    def refuses(self, token: str) -> bool:
        """Tell whether a token is refused; asserts that it is with the one answer there is."""
        refusal: CredentialsInvalid | None = None
        try:
            self.verify(token)
        except CredentialsInvalid as error:
            refusal = error
        assert refusal is None or (refusal.message, refusal.metadata) == (CredentialsInvalid().message, {})
        return refusal is not None


def base64url(raw: str | bytes) -> str:
    return base64.urlsafe_b64encode(raw.encode() if isinstance(raw, str) else raw).rstrip(b"=").decode()


@pytest.fixture
def world() -> World:
    return World()


def test_a_good_token_says_whose_it_is(world: World) -> None:
    token = world.token()
    said = jwt.decode(token, options={"verify_signature": False})
    claims = world.verify(token)
    principal = claims.principal
    assert (principal.subject, principal.roles) == (str(USER), frozenset({"admin"}))
    assert (principal.session_id, principal.token_version, principal.permissions) == (SESSION, 3, frozenset())
    assert (claims.issue_time, claims.begin_time, claims.expire_time) == (said["iat"], said["nbf"], said["exp"])
    assert (claims.token_id, claims.client_id) == (said["jti"], "gatelodge")
    assert principal.expire_time == said["exp"]


@pytest.mark.parametrize("typ", ["at+jwt", "application/at+jwt"])
def test_both_spellings_of_the_type_are_accepted(world: World, typ: str) -> None:
    assert world.verify(world.forge(headers={"typ": typ})).principal.subject == str(USER)


def test_what_the_attacks_are_made_with_makes_good_tokens_too(world: World) -> None:
    assert not world.refuses(world.forge())
    assert not world.refuses(world.sign(world.header, world.payload))


@pytest.mark.parametrize("repeated", [False, True])
def test_a_token_dies_on_time(world: World, *, repeated: bool) -> None:
    token = world.token()
    if repeated:
        world.verify(token)
    world.now = NOW + timedelta(seconds=899)
    assert not world.refuses(token)
    world.now = NOW + timedelta(seconds=900)
    assert world.refuses(token)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_from_a_slightly_fast_clock_is_accepted_and_one_from_the_future_is_not(
    world: World, claim: str, *, repeated: bool
) -> None:
    begin = int(NOW.timestamp()) + 100
    token = world.forge({claim: begin, "exp": begin + 60})
    if repeated:
        world.now = NOW + timedelta(seconds=100)
        world.verify(token)
    world.now = NOW + timedelta(seconds=100 - LEEWAY_SECONDS)
    assert not world.refuses(token)
    world.now -= timedelta(seconds=1)
    assert world.refuses(token)
    assert LEEWAY_SECONDS <= 60


def test_a_token_never_lives_longer_than_todays_terms_allow(world: World) -> None:
    token = world.token()
    hour = TokenTerms(TERMS.issuer, TERMS.audience, timedelta(hours=1))
    long = TokenIssuer(terms=hour, keys=world.ring, clock=lambda: world.now, new_id=uuid7).issue(
        USER, session_id=SESSION, roles=[], version=1, until=NEVER
    )
    world.now = NOW + timedelta(seconds=899)
    assert not world.refuses(long.text)
    world.now = NOW + timedelta(seconds=900)
    assert world.refuses(long.text)
    assert world.refuses(token)
    assert world.verifier(hour)(long.text).principal.subject == str(USER)


# --- attacks ---------------------------------------------------------------------------------------------------------


def unsigned(world: World, alg: str = "none") -> str:
    """RFC 8725 §2.1: an algorithm that proves nothing."""
    header = json.dumps({"alg": alg, "typ": "at+jwt", "kid": world.key.public.kid})
    return f"{base64url(header)}.{base64url(world.payload)}."


def hmac_with_the_public_key(world: World, encoding: Encoding) -> str:
    """RFC 8725 §2.1: the public key used as an HMAC secret."""
    raw = world.key.public.key.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    header = json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": world.key.public.kid})
    signed = f"{base64url(header)}.{base64url(world.payload)}"
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signed.encode(), raw)
    return f"{signed}.{base64url(mac)}"


def another_key(world: World, **headers: Any) -> str:
    claims = jwt.decode(world.token(), options={"verify_signature": False})
    stranger = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(stranger.public_key()))
    named = {name: jwk if value is ... else value for name, value in headers.items()}
    return jwt.encode(claims, stranger, "ES256", {"typ": "at+jwt", "kid": world.key.public.kid} | named)


def another_algorithm_of_the_same_family(world: World) -> str:
    header = world.header.replace("ES256", "ES384")
    signed = f"{base64url(header)}.{base64url(world.payload)}"
    signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), world.key.private)
    return f"{signed}.{base64url(signature)}"


def changed_payload(world: World) -> str:
    head, payload, signature = world.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "==")) | {"sub": str(UUID(int=9))}
    return f"{head}.{base64url(json.dumps(claims))}.{signature}"


def json_serialisation(world: World) -> str:
    head, payload, signature = world.token().split(".")
    return json.dumps({"payload": payload, "protected": head, "signature": signature})


def other_last_bits(world: World) -> str:
    """The same signature: base64url of 64 bytes ends in a character of which two bits say nothing."""
    token = world.token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = token[:-1] + alphabet[alphabet.index(token[-1]) | 1]
    assert other != token
    assert base64.urlsafe_b64decode(other.split(".")[2] + "==") == base64.urlsafe_b64decode(token.split(".")[2] + "==")
    return other


def long(world: World) -> str:
    """A good token that is too long."""
    token = world.forge({"roles": ["r" * 64] * 200})
    assert len(token) > MAX_TOKEN_CHARACTERS
    return token


FORMS: dict[str, Callable[[World], str]] = {
    "nothing": lambda _: "",
    "dots": lambda _: "....",
    "control characters": lambda _: "\0\n",
    "megabytes": lambda _: "a" * 10_000_000,
    "not ASCII": lambda world: world.token() + "é",
    "cut": lambda world: world.token()[:-2],
    "cut before the signature": lambda world: world.token().rpartition(".")[0],
    "empty signature": lambda world: world.token().rpartition(".")[0] + ".",
    "empty payload": lambda world: world.sign(world.header, ""),
    "a fourth segment": lambda world: world.token() + "." + "A" * 10,
    "five segments, as JWE": lambda world: world.token() + ".AAAA.AAAA",
    "padded signature": lambda world: world.token() + "==",
    "padded header": lambda world: world.token().replace(".", "=.", 1),
    "other last bits": other_last_bits,
    "one character more": lambda world: world.token() + "A",
    "standard base64": lambda world: world.token().replace("-", "+").replace("_", "/") + "/",
    "leading blank": lambda world: " " + world.token(),
    "trailing newline": lambda world: world.token() + "\n",
    "blank inside": lambda world: world.token().replace(".", ". ", 1),
    "newline inside the signature": lambda world: world.token()[:-5] + "\n" + world.token()[-5:],
    "JSON serialisation": json_serialisation,
    "too long": long,
}
KEYS: dict[str, Callable[[World], str]] = {
    "none": unsigned,
    "None": lambda world: unsigned(world, "None"),
    "nOnE": lambda world: unsigned(world, "nOnE"),
    "HS256 with the PEM": lambda world: hmac_with_the_public_key(world, Encoding.PEM),
    "HS256 with the DER": lambda world: hmac_with_the_public_key(world, Encoding.DER),
    "another algorithm": another_algorithm_of_the_same_family,
    "alg in lower case": lambda world: world.sign(world.header.replace("ES256", "es256"), world.payload),
    "another key under our id": another_key,
    "another key in jwk": lambda world: another_key(world, jwk=...),
    "another key at jku": lambda world: another_key(world, jku="https://evil.example/jwks.json"),
    "another key at x5u": lambda world: another_key(world, x5u="https://evil.example/cert.pem"),
    "unknown key": lambda world: world.forge(headers={"kid": "../../etc/passwd"}),
    "SQL for a key": lambda world: world.forge(headers={"kid": "x' UNION SELECT 'key"}),
    "no key": lambda world: world.sign('{"alg":"ES256","typ":"at+jwt"}', world.payload),
    "a list for a key": lambda world: world.sign('{"alg":"ES256","typ":"at+jwt","kid":[]}', world.payload),
    "signature of zeros": lambda world: world.token().rpartition(".")[0] + "." + base64url(bytes(64)),
    "signature in DER": lambda world: (
        world.token().rpartition(".")[0] + "." + base64url(b"0\x06\x02\x01\x00\x02\x01\x00")
    ),
    "changed payload": changed_payload,
    "of another token": lambda world: world.token().rpartition(".")[0] + "." + world.token().rpartition(".")[2],
}
HEADERS: dict[str, Callable[[World], str]] = {
    "typ JWT": lambda world: world.forge(headers={"typ": "JWT"}),
    "typ in upper case": lambda world: world.forge(headers={"typ": "AT+JWT"}),
    "no typ": lambda world: world.sign(json.dumps({"alg": "ES256", "kid": world.key.public.kid}), world.payload),
    "typ a list": lambda world: world.sign(world.header.replace('"at+jwt"', '["at+jwt"]'), world.payload),
    "crit": lambda world: world.forge(headers={"crit": ["b64"], "b64": False}),
    "empty crit": lambda world: world.forge(headers={"crit": []}),
    "crit of what is known": lambda world: world.forge(headers={"crit": ["typ"]}),
    **{
        name: lambda world, name=name: world.forge(headers={name: value_of(name)})  # type: ignore[misc]
        for name in ("jku", "jwk", "x5u", "x5c", "x5t", "zip", "cty", "b64", "enc")
    },
    "alg twice": lambda world: world.sign(world.header[:-1] + ', "alg": "ES256"}', world.payload),
    "kid twice": lambda world: world.sign('{"kid": "evil", ' + world.header[1:], world.payload),
    "a list": lambda world: world.sign("[]", world.payload),
    "deep": lambda world: world.sign("[" * 3000, world.payload),
    "UTF-16": lambda world: world.sign(world.header.encode("utf-16"), world.payload),
    "a byte order mark": lambda world: world.sign(b"\xef\xbb\xbf" + world.header.encode(), world.payload),
}
WRONG_VALUES: dict[str, list[Any]] = {
    "iss": ["https://evil.example", "", "https://id.example/", ["https://id.example"], 1],
    "aud": ["another", ["another", "third"], ["internal"], "Internal", {}],
    "exp": ["tomorrow", 1e308, -1, True, "4000000000", 1893456900.5, 0, [], {}],
    "iat": [4_000_000_000, "now", -1, True, 1.5e9, 10**400],
    "nbf": [4_000_000_000, "now", -(10**400), False, 10**400],
    "sub": ["", "admin", 1, [], "{" + str(USER) + "}", str(USER).replace("-", ""), "urn:uuid:" + str(USER)],
    "sid": ["", "x", 2, str(UUID(int=0xABC)).upper()],
    "ver": [0, -1, "3", 3.0, True],
    "jti": ["", 1, []],
    "client_id": ["", 1],
    "roles": ["admin", [1], [""], {"admin": True}],
}
CLAIMS: dict[str, Callable[[World], str]] = {
    **{
        f"no {name}": lambda world, name=name: world.forge({name: None})  # type: ignore[misc]
        for name in ("iss", "aud", "sub", "exp", "iat", "nbf", "jti", "sid", "ver", "roles", "client_id")
    },
    **{
        f"{name}={value!r}": lambda world, name=name, value=value: world.forge({name: value})  # type: ignore[misc]
        for name, values in WRONG_VALUES.items()
        for value in values
    },
    "sub twice": lambda world: world.sign(world.header, '{"sub": "evil", ' + world.payload[1:]),
    "a member twice further in": lambda world: world.sign(world.header, world.payload[:-1] + ', "x": {"a":1,"a":2}}'),
    "infinite exp": lambda world: world.sign(world.header, world.payload.replace('"exp": ', '"exp": Infinity, "x": ')),
    "NaN": lambda world: world.sign(world.header, world.payload.replace('"exp": ', '"exp": NaN, "x": ')),
    "a list": lambda world: world.sign(world.header, f"[{world.payload}]"),
    "a text": lambda world: world.sign(world.header, json.dumps(world.payload)),
    "not JSON": lambda world: world.sign(world.header, b"\x80\x81"),
    "deep": lambda world: world.sign(world.header, '{"a":' + "[" * 5000),
    "UTF-16": lambda world: world.sign(world.header, world.payload.encode("utf-16")),
}
ATTACKS = {
    f"{group}: {name}": attack
    for group, attacks in {"form": FORMS, "key": KEYS, "header": HEADERS, "claims": CLAIMS}.items()
    for name, attack in attacks.items()
}


def value_of(name: str) -> Any:
    return {"x5c": ["MIIB"], "jwk": {"kty": "EC"}, "b64": True}.get(name, "https://evil.example/keys")


@pytest.mark.parametrize("name", ATTACKS)
def test_every_bad_token_is_refused_with_the_same_words(world: World, name: str) -> None:
    assert world.refuses(ATTACKS[name](world))


def test_a_bad_variant_of_a_token_that_is_remembered_is_refused_as_well(world: World) -> None:
    world.verify(token := world.token())
    for other in (token + "=", token + "==", " " + token, token + "\n", token + ".", token.upper()):
        assert world.refuses(other)


def test_a_huge_exp_does_not_outlive_the_terms(world: World) -> None:
    token = world.forge({"exp": 10**400})
    assert world.verify(token).expire_time == int(NOW.timestamp()) + 900


@pytest.mark.parametrize("group", WYCHEPROOF, ids=lambda group: str(group["comment"]))
def test_no_token_of_wycheproof_is_one_of_ours(world: World, group: dict[str, Any]) -> None:
    assert all(world.refuses(test["jws"]) for test in group["tests"])


# --- what is remembered ----------------------------------------------------------------------------------------------


def test_a_repeated_token_is_not_verified_again(world: World) -> None:
    token = world.token()
    assert world.verify(token) is world.verify(token)
    assert world.verifier(remember=0)(token) is not world.verifier(remember=0)(token)


def test_a_remembered_token_dies_with_its_key(world: World) -> None:
    token = world.token()
    world.verify(token)
    public = world.key.public
    world.ring._verifying = {}
    assert world.refuses(token)
    world.ring._verifying = {public.kid: public}
    assert not world.refuses(token)


def test_only_good_tokens_are_remembered(world: World) -> None:
    for name in ("form: cut", "key: none", "claims: no sub"):
        world.refuses(ATTACKS[name](world))
    assert not world.verify._known


def test_the_tokens_unused_for_longest_make_room(world: World) -> None:
    verify = world.verifier(remember=3)
    tokens = [world.token() for _ in range(4)]
    first, second, third = (verify(token) for token in tokens[:3])
    assert verify(tokens[0]) is first
    verify(tokens[3])
    assert list(verify._known) == [tokens[2], tokens[0], tokens[3]]
    assert verify(tokens[0]) is first
    assert verify(tokens[2]) is third
    assert verify(tokens[1]) is not second
    assert len(verify._known) == 3


def test_nothing_is_remembered_when_there_is_no_room(world: World) -> None:
    verify = world.verifier(remember=0)
    verify(world.token())
    assert not verify._known
