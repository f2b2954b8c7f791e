"""The transport: what peers may send, and what stands beside the services."""

from __future__ import annotations

import asyncio
import gzip as gzip_module
import struct
from typing import Any

import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from tests.rpc import dummy

from service.rpc.server import Transport

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


EMPTY = frame(0, 1, 1, b"\0" * 5)


def raw_call(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """Write a whole call by hand, with bytes that no client library sends."""
    first = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"))
    headers = (*first, (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more)
    block = b"".join(header(name, value) for name, value in headers)
    return PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, block) + EMPTY


async def send_raw(house: dummy.House, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(data)
    answer = b""
    async with asyncio.timeout(3):
        while b"grpc-status" not in answer:
            answer += await reader.read(4096)
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("path", [b"/dummy.v1.DummyService/Unary\xff", b"/\xfe\xff", b"x", b"/"])
async def test_a_path_that_is_no_text_does_not_stop_the_server(house: dummy.House, path: bytes) -> None:
    assert b"grpc-status\x0212" in await send_raw(house, raw_call(path))
    assert await house.call("Unary", "fine") == ["fine"]


async def test_control_characters_in_metadata_reach_no_line(house: dummy.House, lines: list[Any]) -> None:
    bad = b"a\r\n{\x1b[31m\0"
    call = raw_call(b"/dummy.v1.DummyService/Unary", (b"x-request-id", bad), (b"authorization", b"Bearer " + bad))
    assert b"grpc-status\x0216" in await send_raw(house, call)
    await house.settle()
    (line,) = [line for line in lines if line["event"] == "call"]
    assert line["reason"] == "CREDENTIALS_INVALID"
    assert all(str(value).isprintable() for value in line.values())


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_is_open_in_both_versions(house: dummy.House, version: str) -> None:
    ask = house.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = [a async for a in ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))]
    names = {service.name for service in answer.list_services_response.service}
    assert {dummy.SERVICE, "grpc.health.v1.Health", f"grpc.reflection.{version}.ServerReflection"} <= names


async def test_what_is_over_grpcs_own_limit_is_refused_as_well(house: dummy.House) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.send(f"/{dummy.SERVICE}/Unary", b"x" * (2 * dummy.LIMIT + 1))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_too_much_metadata_is_refused(house: dummy.House) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.call("Unary", metadata=(*dummy.ALICE, ("x-much", "x" * 20_000)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("gzip", [False, True])
async def test_responses_are_compressed_for_those_who_accept_it_when_switched_on(
    lines: list[Any], *, gzip: bool
) -> None:
    del lines
    house = await dummy.start(transport=Transport(max_message_bytes=dummy.LIMIT, gzip_responses=gzip))
    try:
        call = raw_call(b"/dummy.v1.DummyService/Public", (b"grpc-accept-encoding", b"gzip"))
        assert (b"grpc-encoding\x04gzip" in await send_raw(house, call)) is gzip
        assert b"grpc-encoding\x04gzip" not in await send_raw(house, raw_call(b"/dummy.v1.DummyService/Public"))
        assert await house.call("Unary", "x" * 200) == ["x" * 200]
    finally:
        await house.close()


async def test_a_compressed_request_is_limited_by_what_it_unpacks_to(house: dummy.House) -> None:
    bomb = gzip_module.compress(b"\0" * 10_000_000)
    assert len(bomb) < dummy.LIMIT
    head = raw_call(b"/dummy.v1.DummyService/Public", (b"grpc-encoding", b"gzip"))[: -len(EMPTY)]
    body = b"\1" + len(bomb).to_bytes(4, "big") + bomb
    assert b"grpc-status\x018" in await send_raw(house, head + frame(0, 1, 1, body))
