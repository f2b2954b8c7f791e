"""Page tokens: sealed, bound and deterministic."""

from __future__ import annotations

import base64

import pytest

from service.errors import InvalidFields, InvalidPageToken
from service.paging import PageTokens, derived_key, page_size

KEY = derived_key(b"m" * 32, "page-tokens")
TOKENS = PageTokens(KEY)


def test_a_token_gives_its_position_back() -> None:
    assert TOKENS.open(TOKENS.seal(("ada@example.com", 7), b"filter"), b"filter") == ("ada@example.com", 7)


def test_a_token_shows_nothing_and_fits_into_a_url() -> None:
    token = TOKENS.seal(("ada@example.com", 7))
    assert token.replace("-", "").replace("_", "").isalnum()
    assert b"ada" not in base64.urlsafe_b64decode(token + "==")
    assert token == TOKENS.seal(("ada@example.com", 7))


def test_a_token_of_another_filter_key_or_purpose_is_refused() -> None:
    token = TOKENS.seal((1,), b"filter")
    for tokens, bound_to in (
        (TOKENS, b"other filter"),
        (PageTokens(derived_key(b"n" * 32, "page-tokens")), b"filter"),
        (PageTokens(derived_key(b"m" * 32, "event-cursors")), b"filter"),
    ):
        with pytest.raises(InvalidPageToken):
            tokens.open(token, bound_to)


def test_a_token_changed_anywhere_is_refused() -> None:
    sealed = base64.urlsafe_b64decode(TOKENS.seal((1, 2)) + "==")
    for place in range(len(sealed)):
        changed = bytes(byte ^ (index == place) for index, byte in enumerate(sealed))
        with pytest.raises(InvalidPageToken):
            TOKENS.open(base64.urlsafe_b64encode(changed).decode())


@pytest.mark.parametrize("token", ["", "a", "ab", "!!!!", "é", "\ud800", "A" * 100, "A" * 10_000, "a b", "\0"])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidPageToken):
        TOKENS.open(token)


def test_page_sizes() -> None:
    assert [page_size(asked, default=10, most=50) for asked in (0, 1, 50, 51, 2**31 - 1)] == [10, 1, 50, 50, 50]
    with pytest.raises(InvalidFields):
        page_size(-1, default=10, most=50)
