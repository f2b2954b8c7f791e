"""Whatever bytes come in, one clear status goes out, the process lives on and nobody else notices."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from gatelodge.auth.v1 import auth_pb2
from google.protobuf import empty_pb2
from tests.app.client import PASSWORD, Client, Failure, failure, taken_apart

REGISTER = "/gatelodge.auth.v1.AuthService/Register"
EMAIL = b"\x0a\x0fada@example.com"


def register(email: str = "ada@example.com", password: str = PASSWORD, display_name: str = "") -> bytes:
    return auth_pb2.RegisterRequest(email=email, password=password, display_name=display_name).SerializeToString()


def raw_field(number: int, value: bytes) -> bytes:
    """Encode one length-delimited field, whatever the bytes are."""
    length, prefix = len(value), bytearray([number << 3 | 2])
    while length > 127:
        prefix.append(length & 127 | 128)
        length >>= 7
    return bytes(prefix) + bytes([length]) + value


NESTED = b"\x7b" * 300 + b"\x7c" * 300
"""Three hundred groups (an old kind of field) in one another."""

CASES: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "INVALID_ARGUMENT", "INVALID_FIELDS"),
    "a password of 1 MB": (register(password="p" * 1_000_000), "INVALID_ARGUMENT", "INVALID_FIELDS"),
    "200 000 combining marks": (register(password="e" + "\u0301" * 200_000), "INVALID_ARGUMENT", "INVALID_FIELDS"),
    "an address of combining marks": (register(email="e" + "\u0301" * 200_000), "INVALID_ARGUMENT", "INVALID_FIELDS"),
    "a NUL in the address": (register(email="ada\0@example.com"), "INVALID_ARGUMENT", "INVALID_FIELDS"),
    "a NUL in the password": (register(password=PASSWORD + "\0"), "INVALID_ARGUMENT", "INVALID_FIELDS"),
    "a lone surrogate": (EMAIL + raw_field(2, b"\xed\xa0\x80" * 9), "INVALID_ARGUMENT", "MALFORMED_REQUEST"),
    "bad UTF-8": (EMAIL + raw_field(2, b"\xff\xfe" * 9), "INVALID_ARGUMENT", "MALFORMED_REQUEST"),
    "garbage": (b"\xff\x00garbage\x80" * 20, "INVALID_ARGUMENT", "MALFORMED_REQUEST"),
    "a length that lies": (b"\x0a\xff\xff\xff\xff\x0f", "INVALID_ARGUMENT", "MALFORMED_REQUEST"),
    "300 levels of nesting": (NESTED, "INVALID_ARGUMENT", "MALFORMED_REQUEST"),
    "5 MiB": (register(password="p" * 5 * 1024 * 1024), "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE"),
    "a control character in the name": (register(display_name="\x1b[2J"), "INVALID_ARGUMENT", "INVALID_FIELDS"),
}


async def send(client: Client, body: bytes) -> Failure:
    call = client.channel.unary_unary(REGISTER, lambda raw: raw, empty_pb2.Empty.FromString)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(body, timeout=5)
    return taken_apart(caught.value)


@pytest.mark.parametrize("case", CASES)
async def test_bad_input_gets_a_clear_status(client: Client, case: str) -> None:
    body, code, reason = CASES[case]
    refused = await send(client, body)
    assert refused.code.name == code
    assert refused.reason == reason
    assert "Error" not in refused.message
    assert "class" not in refused.message


async def test_other_callers_do_not_notice(client: Client) -> None:
    ada = await client.user()

    async def bystander() -> list[float]:
        took = []
        for _ in range(50):
            start = time.perf_counter()
            await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata)
            took.append(time.perf_counter() - start)
        return took

    async def attacker() -> None:
        for body, _, _ in CASES.values():
            await send(client, body)

    took, *_ = await asyncio.gather(bystander(), attacker(), attacker())
    assert max(took) < 1


@pytest.mark.parametrize(
    "path",
    ["/gatelodge.auth.v1.AuthService/Nothing", "/no.such.Service/Method", "/x/" + "y" * 2000],
)
async def test_an_unknown_method_is_named_as_such(client: Client, path: str) -> None:
    call = client.channel.unary_unary(path, lambda raw: raw, lambda raw: raw)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"", timeout=5)
    refused = taken_apart(caught.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN")


@pytest.mark.parametrize("bad", ["", "a b", "x" * 65, "a;b", "<script>"])
async def test_a_bad_request_id_is_replaced_and_a_good_one_kept(client: Client, bad: str) -> None:
    async def request_id(given: str) -> str:
        refused = await failure(client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=(("x-request-id", given),)))
        return str(refused.metadata["x-request-id"])

    assert await request_id("trace-me.42_A") == "trace-me.42_A"
    assert await request_id(bad) not in {bad, ""}
