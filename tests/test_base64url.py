"""One spelling for the same bytes, so that what is compared by its characters cannot be respelt."""

from __future__ import annotations

import pytest

from service.base64url import decode, encode


@pytest.mark.parametrize("raw", [b"", b"\0", b"ab", b"abc", bytes(range(256)), b"\xfb\xff\xbf"])
def test_what_is_written_is_read_again(raw: bytes) -> None:
    assert decode(encode(raw)) == raw


@pytest.mark.parametrize(
    "other",
    ["YQ==", "YQ=", "YR", "Y", "+_-_", "/_-_", "YW Jj", "YWJj\n", "YWJj!", "YWJjé", "\ud800", "=", "YW=J"],
)
def test_every_other_spelling_is_refused(other: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode(other)
