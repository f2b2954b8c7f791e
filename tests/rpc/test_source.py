"""Where a call comes from: a header counts only from those who may forward, and only what they themselves saw."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tests.rpc import dummy

from service.rpc.source import Sources

PROXY, STRANGER = "ipv4:10.1.2.3:4000", "ipv4:198.51.100.7:4000"
TRUSTED = ("10.0.0.0/8", "2001:db8:1::/48")


def source(trusted: tuple[str, ...], peer: str, *headers: str) -> str:
    metadata = [("x-request-id", "1.2.3.4"), *(("x-forwarded-for", header) for header in headers)]
    context: Any = SimpleNamespace(peer=lambda: peer, invocation_metadata=lambda: metadata)
    return Sources(trusted)(context)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (("203.0.113.5",), "ipv4:203.0.113.5:0"),
        (("2001:db8:2::7",), "ipv6:[2001:db8:2::7]:0"),
        (("::ffff:203.0.113.5",), "ipv4:203.0.113.5:0"),
        (("203.0.113.5, 10.9.9.9",), "ipv4:203.0.113.5:0"),
        (("203.0.113.5", "10.9.9.9"), "ipv4:203.0.113.5:0"),
        (("10.7.7.7, 10.9.9.9",), "ipv4:10.7.7.7:0"),
        ((), PROXY),
        (("",), PROXY),
    ],
)
def test_a_trusted_proxy_tells_the_source(headers: tuple[str, ...], expected: str) -> None:
    assert source(TRUSTED, PROXY, *headers) == expected


@pytest.mark.parametrize("headers", [("203.0.113.5",), ("10.0.0.1",), ("127.0.0.1, 10.0.0.1",)])
def test_from_anybody_else_the_header_is_nothing(headers: tuple[str, ...]) -> None:
    assert source(TRUSTED, STRANGER, *headers) == STRANGER
    assert source((), PROXY, *headers) == PROXY
    assert source(TRUSTED, "unix:", *headers) == "unix"


def test_what_the_caller_wrote_left_of_the_proxys_own_entry_is_nothing() -> None:
    assert source(TRUSTED, PROXY, "127.0.0.1, 10.0.0.1, 198.51.100.7") == "ipv4:198.51.100.7:0"
    assert source(TRUSTED, PROXY, "garbage, 198.51.100.7") == "ipv4:198.51.100.7:0"
    assert source(TRUSTED, PROXY, "127.0.0.1", "198.51.100.7, 10.5.5.5") == "ipv4:198.51.100.7:0"


@pytest.mark.parametrize(
    "header", ["unknown", "203.0.113.5:80", "203.0.113", "203.0.113.5,", "203.0.113.5 10.0.0.1", "a" * 9000]
)
def test_a_header_that_is_no_list_of_addresses_leaves_the_peer(header: str) -> None:
    assert source(TRUSTED, PROXY, header) == PROXY


def test_a_peer_is_known_in_every_spelling() -> None:
    for peer in ("ipv6:%5B::ffff:10.1.2.3%5D:4000", "ipv6:[2001:db8:1::9]:4000", "ipv6:%5B2001:db8:1::9%5D:4000"):
        assert source(TRUSTED, peer, "203.0.113.5") == "ipv4:203.0.113.5:0"
    assert source((*TRUSTED, "unix"), "unix:", "203.0.113.5") == "ipv4:203.0.113.5:0"
    assert source(("unix",), PROXY, "203.0.113.5") == PROXY


async def test_the_log_tells_the_forwarded_source_of_a_real_call(lines: list[Any]) -> None:
    for trusted, expected in ((("127.0.0.0/8",), "ipv4:203.0.113.5:0"), ((), "ipv4:127.0.0.1:")):
        house = await dummy.start(trusted=trusted)
        try:
            await house.call("Unary", metadata=(*dummy.ALICE, ("x-forwarded-for", "6.6.6.6, 203.0.113.5")))
            await house.settle()
        finally:
            await house.close()
        assert lines[-1]["source"].startswith(expected)
