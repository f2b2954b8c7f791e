"""Layers that do what they should not: the call is told a clean status all the same."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from tests.rpc import dummy
from tests.rpc.test_errors import refused

from service.rpc.interceptors.layer import Context, Layer, Serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.rpc.methods import Method


class Meddling(Layer):
    """Aborts a call and does not stand by it, or lets another call's abort by, or something cancelled."""

    def __init__(self, how: str) -> None:
        self._how = how

    async def around(self, method: Method, proceed: Serve, request: Any, context: Context) -> Any:
        del method
        if self._how == "swallows its abort":
            with suppress(grpc.aio.AbortError):
                await context.abort(grpc.StatusCode.NOT_FOUND, "by hand")
        answer = await proceed(request, context)
        if self._how == "has another call's abort":
            raise grpc.aio.AbortError("not this call's")
        if self._how == "is cancelled inside":
            await cancelled_while_handling(ConnectionError("the root cause"))
        return answer


async def cancelled_while_handling(error: Exception) -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    try:
        raise error
    except type(error):
        await future


@asynccontextmanager
async def meddled(how: str) -> AsyncIterator[dummy.House]:
    house = await dummy.start(layers=lambda layers: (*layers, Meddling(how)))
    try:
        yield house
    finally:
        await house.close()


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_an_abort_of_another_call_is_a_bug_of_this_one(lines: list[Any], name: str) -> None:
    async with meddled("has another call's abort") as house:
        error = await refused(house, name, dummy.Request(wish="hello").SerializeToString())
    assert dummy.reason_of(error) == "INTERNAL"
    assert next(line["event"] for line in lines if line["log_level"] == "error") == "unexpected exception"


async def test_a_bug_after_an_abort_does_not_log_the_secret_it_quotes(caplog: pytest.LogCaptureFixture) -> None:
    async with meddled("swallows its abort") as house:
        await refused(house, "Unary", dummy.Request(wish="tell", password="hunter2").SerializeToString())
        await house.settle()
    assert any("UsageError" in record.getMessage() for record in caplog.records)
    assert "hunter2" not in caplog.text


async def test_a_stray_cancellation_is_logged_with_what_it_came_in(lines: list[Any]) -> None:
    async with meddled("is cancelled inside") as house:
        await refused(house, "Unary", dummy.Request(wish="hello").SerializeToString())
    (cause,) = (line["exception"] for line in lines if line["event"] == "unexpected exception")
    assert "while handling: ConnectionError: the root cause" in cause
