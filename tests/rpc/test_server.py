"""The transport: what peers may send, and what stands beside the services."""

from __future__ import annotations

import gzip as gzip_module
from typing import Any

import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from tests.rpc import dummy, raw

from service.rpc.server import Transport


async def send_raw(house: dummy.House, data: bytes) -> bytes:
    async with raw.Connection(house) as connection:
        connection.send(data)
        return await connection.until(b"grpc-status")


@pytest.mark.parametrize("path", [b"/dummy.v1.DummyService/Unary\xff", b"/\xfe\xff", b"x", b"/"])
async def test_a_path_that_is_no_text_does_not_stop_the_server(house: dummy.House, path: bytes) -> None:
    assert b"grpc-status\x0212" in await send_raw(house, raw.call(path))
    assert await house.call("Unary", "fine") == ["fine"]


async def test_control_characters_in_metadata_reach_no_line(house: dummy.House, lines: list[Any]) -> None:
    bad = b"a\r\n{\x1b[31m\0"
    call = raw.call(b"/dummy.v1.DummyService/Unary", (b"x-request-id", bad), (b"authorization", b"Bearer " + bad))
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


async def test_what_is_far_too_large_is_refused_with_a_reason_and_what_is_larger_still_by_grpc(
    house: dummy.House,
) -> None:
    for size, has_reason in ((5 * 1024 * 1024, True), (8 * 1024 * 1024 + 1, False)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await house.send(f"/{dummy.SERVICE}/Public", b"x" * size)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("grpc-status-details-bin" in dict(caught.value.trailing_metadata())) is has_reason


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
        call = raw.call(b"/dummy.v1.DummyService/Public", (b"grpc-accept-encoding", b"gzip"))
        assert (b"grpc-encoding\x04gzip" in await send_raw(house, call)) is gzip
        assert b"grpc-encoding\x04gzip" not in await send_raw(house, raw.call(b"/dummy.v1.DummyService/Public"))
        assert await house.call("Unary", "x" * 200) == ["x" * 200]
    finally:
        await house.close()


async def test_a_compressed_request_is_limited_by_what_it_unpacks_to(house: dummy.House) -> None:
    bomb = gzip_module.compress(b"\0" * 10_000_000)
    assert len(bomb) < dummy.LIMIT
    head = raw.headers(b"/dummy.v1.DummyService/Public", (b"grpc-encoding", b"gzip"))
    body = raw.frame(raw.DATA, raw.END, 1, raw.message(bomb, compressed=True))
    assert b"grpc-status\x018" in await send_raw(house, head + body)
