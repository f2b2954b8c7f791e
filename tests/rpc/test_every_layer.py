"""What holds for every interceptor, in all four call kinds."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest
from tests.rpc import dummy

from service.rpc.interceptors import (
    Access,
    AccessLog,
    Deadline,
    Errors,
    Idempotency,
    RequestId,
    Tracing,
    Validation,
)
from service.rpc.interceptors.layer import Handler, Layer
from service.rpc.methods import UNKNOWN

ORDER = (Tracing, RequestId, AccessLog, Errors, Deadline, Access, Validation, Idempotency)


def only(kind: type[Any] | tuple[type[Any], ...]) -> Any:
    return lambda layers: [layer for layer in layers if isinstance(layer, kind)]


class Counting(Layer):
    """Counts how often it is asked to wrap a method."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def bind(self, handler: Handler) -> Handler:
        self.asked.append(handler.method.name)
        return handler


async def test_the_layers_stand_in_the_order_the_design_gives(house: dummy.House) -> None:
    assert tuple(map(type, house.layers)) == ORDER


@pytest.mark.parametrize("kind", ORDER)
async def test_a_layer_alone_passes_messages_of_all_four_kinds(kind: type[Any], lines: list[Any]) -> None:
    """Alone but for the one that gives calls their id, and the one that receives the messages."""
    del lines
    house = await dummy.start(layers=only((RequestId, kind, Validation)))
    try:
        for name in dummy.KINDS:
            answers = await house.call(name, "hello")
            assert answers[-1] == "hello"
            assert answers[:-1] == (["first"] if name == "ServerStream" else [])
    finally:
        await house.close()


async def test_each_method_is_wrapped_once_whoever_calls_it(lines: list[Any]) -> None:
    del lines
    counting = Counting()
    house = await dummy.start(layers=lambda layers: [*layers, counting])
    try:
        for number in range(3):
            for name in dummy.KINDS:
                await house.call(name, "hello")
            with pytest.raises(grpc.aio.AioRpcError):
                await house.send(f"/no.Such/Method{number}", b"")
    finally:
        await house.close()
    assert len(counting.asked) == len(set(counting.asked))
    assert {UNKNOWN.name, *(f"{dummy.SERVICE}/{name}" for name in dummy.KINDS)} <= set(counting.asked)


async def test_names_of_unknown_methods_are_not_remembered(house: dummy.House) -> None:
    for number in range(5):
        with pytest.raises(grpc.aio.AioRpcError):
            await house.send(f"/no.Such/Method{number}", b"")
    assert set(house.meters) == {"_OTHER"}


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_all_messages_of_a_stream_pass_the_whole_chain(house: dummy.House, name: str) -> None:
    call = house.channel.stream_stream(
        f"/{dummy.SERVICE}/{name}", dummy.Request.SerializeToString, dummy.Response.FromString
    )
    wishes = ["a", "b", "c"] if name in {"ClientStream", "Bidi"} else ["a"]
    answers = [m.text async for m in call((dummy.Request(wish=w) for w in wishes), metadata=dummy.ALICE)]
    expected = {"Unary": ["a"], "ServerStream": ["first", "a"], "ClientStream": ["c"], "Bidi": ["a", "b", "c"]}
    assert answers == expected[name]
    assert [request.wish for request in house.servicer.seen] == wishes


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_the_request_id_comes_back_in_trailers_and_for_streams_at_once(house: dummy.House, name: str) -> None:
    call = house.open(f"/{dummy.SERVICE}/{name}", b"", (*dummy.ALICE, ("x-request-id", "my.id-1_2")))
    assert [message async for message in call]
    assert dict(await call.trailing_metadata())["x-request-id"] == "my.id-1_2"
    early = dict(await call.initial_metadata())
    assert early.get("x-request-id") == ("my.id-1_2" if name in {"ServerStream", "Bidi"} else None)


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "sémantique".encode().decode("latin-1"), "a/b"])
async def test_a_malformed_request_id_is_replaced(house: dummy.House, sent: str) -> None:
    metadata = dummy.ALICE if not sent.isascii() else (*dummy.ALICE, ("x-request-id", sent))
    call = house.open(f"/{dummy.SERVICE}/Unary", b"", metadata)
    assert [message async for message in call]
    made = dict(await call.trailing_metadata())["x-request-id"]
    assert made != sent
    assert len(made) == 32


async def test_of_several_request_ids_the_first_well_formed_one_counts(house: dummy.House) -> None:
    sent = (("x-request-id", "a b"), ("x-request-id", "mine"), ("x-request-id", "another"))
    call = house.open(f"/{dummy.SERVICE}/Unary", b"", (*dummy.ALICE, *sent))
    assert [message async for message in call]
    assert dict(await call.trailing_metadata())["x-request-id"] == "mine"
