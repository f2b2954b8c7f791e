"""Refresh tokens: what is really ours is told from everything else, and successors come out the same."""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from service.auth.sessions.refresh_tokens import PREFIX, RefreshTokens
from service.errors import RefreshTokenInvalid

if TYPE_CHECKING:
    from collections.abc import Callable

USER, SESSION = UUID(int=1), UUID(int=2)
TOKENS = RefreshTokens(key=b"k" * 32, random=secrets.token_bytes)


def test_a_token_is_read_as_it_was_made() -> None:
    token = TOKENS.first(USER, SESSION)
    assert TOKENS.parse(token.text) == token
    assert (token.user_id, token.session_id, token.generation) == (USER, SESSION, 1)
    assert token.text.startswith("glr_")
    assert "=" not in token.text


def test_no_two_first_tokens_are_alike() -> None:
    assert len({TOKENS.first(USER, SESSION).text for _ in range(100)}) == 100


def test_a_successor_comes_out_the_same_for_the_same_salt_and_key_only() -> None:
    first, salt = TOKENS.first(USER, SESSION), TOKENS.salt()
    successor = TOKENS.successor(first, salt)
    assert successor.generation == 2
    assert TOKENS.successor(first, salt) == successor == TOKENS.parse(successor.text)
    others = RefreshTokens(key=b"o" * 32, random=secrets.token_bytes)
    different = (first, successor, TOKENS.successor(first, TOKENS.salt()), others.successor(first, salt))
    assert len({token.text for token in different}) == 4


def test_a_token_never_prints() -> None:
    token = TOKENS.first(USER, SESSION)
    assert token.text not in repr(token)
    assert token.text[-20:] not in repr(token)


def _changed(text: str, at: int) -> str:
    raw = bytearray(base64.urlsafe_b64decode(text.removeprefix(PREFIX)))
    raw[at] ^= 1
    return PREFIX + base64.urlsafe_b64encode(raw).decode()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: "",
        lambda _: PREFIX,
        lambda _: PREFIX + "A" * 112,
        lambda _: "ä" * 116,
        lambda _: "\0" * 116,
        lambda text: text.removeprefix(PREFIX),
        lambda text: "xxx_" + text.removeprefix(PREFIX),
        lambda text: text + "=",
        lambda text: text[:-1] + "=",
        lambda text: text + "AAAA",
        lambda text: text[:-4],
        lambda text: " " + text[:-1],
        lambda text: text[:50] + "\n" + text[50:],
        lambda text: text[:50] + "+" + text[51:],
        lambda text: text.upper(),
        lambda text: _changed(text, 0),
        lambda text: _changed(text, 16),
        lambda text: _changed(text, 35),
        lambda text: _changed(text, 36),
        lambda text: _changed(text, 67),
        lambda text: _changed(text, 68),
        lambda text: _changed(text, 83),
        lambda _: RefreshTokens(key=b"o" * 32, random=secrets.token_bytes).first(USER, SESSION).text,
    ],
)
def test_whatever_was_not_given_out_by_us_is_refused(spoil: Callable[[str], str]) -> None:
    with pytest.raises(RefreshTokenInvalid):
        TOKENS.parse(spoil(TOKENS.first(USER, SESSION).text))


def test_every_token_has_one_spelling() -> None:
    """The standard alphabet's letters for the same bits do not count, wherever they would stand."""
    tokens = (TOKENS.first(USER, SESSION).text for _ in range(1000))
    text = next(text for text in tokens if {"-", "_"} <= set(text.removeprefix(PREFIX)))
    body = text.removeprefix(PREFIX)
    for other in (body.replace("-", "+"), body.replace("_", "/")):
        with pytest.raises(RefreshTokenInvalid):
            TOKENS.parse(PREFIX + other)
