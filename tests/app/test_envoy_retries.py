"""What Envoy tries again at another replica, and what it must not: beside the service serves one that only refuses."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from gatelodge.auth.v1 import tokens_pb2
from grpc_health.v1 import health_pb2
from tests.app import envoy as edge
from tests.app.client import Client
from tests.app.envoy import running_envoy

from service.errors import ShuttingDown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from service.app import App

pytestmark = pytest.mark.skipif(edge.MISSING is not None, reason=str(edge.MISSING))

CALLS = 20


@dataclass
class Refusing(grpc.GenericRpcHandler):
    """A replica that says it is healthy and answers every call with one error."""

    code: grpc.StatusCode
    message: str
    refused: list[str] = field(default_factory=list)

    def service(self, handler_call_details: Any) -> Any:
        method = str(handler_call_details.method)
        return grpc.unary_unary_rpc_method_handler(self._healthy if method.endswith("Health/Check") else self._refuse)

    async def _healthy(self, _request: bytes, _context: Any) -> bytes:
        answer = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        return bytes(answer.SerializeToString())

    async def _refuse(self, _request: bytes, context: Any) -> bytes:
        self.refused.append("call")
        await context.abort(self.code, self.message)
        raise AssertionError


@asynccontextmanager
async def beside(app: App, url: str, folder: Path, refusing: Refusing) -> AsyncIterator[Client]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((refusing,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with (
            running_envoy(folder, app.address, f"127.0.0.1:{port}") as envoy,
            Client(envoy.address, url) as client,
        ):
            yield client
    finally:
        await server.stop(None)


async def failed(client: Client, *, change: bool) -> int:
    """Make calls and return how many failed."""

    async def call(number: int) -> None:
        if change:
            await client.register(f"user{number}@example.com")
        else:
            await client.tokens.GetJwks(tokens_pb2.GetJwksRequest())

    answers = await asyncio.gather(*(call(number) for number in range(CALLS)), return_exceptions=True)
    return sum(isinstance(answer, grpc.aio.AioRpcError) for answer in answers)


@pytest.mark.parametrize("change", [False, True])
async def test_what_a_replica_that_goes_away_refuses_is_done_by_another(
    app: App, url: str, tmp_path: Path, *, change: bool
) -> None:
    refusing = Refusing(grpc.StatusCode.UNAVAILABLE, ShuttingDown().message)
    async with beside(app, url, tmp_path, refusing) as client:
        assert await failed(client, change=change) == 0
    assert refusing.refused


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_reads_are_tried_again_and_changes_whose_outcome_is_unknown_are_not(
    app: App, url: str, tmp_path: Path, code: grpc.StatusCode
) -> None:
    refusing = Refusing(code, "the connection broke during the commit")
    async with beside(app, url, tmp_path, refusing) as client:
        assert await failed(client, change=False) == 0
        refusing.refused.clear()
        assert await failed(client, change=True) == len(refusing.refused) > 0


@pytest.mark.parametrize("change", [False, True])
async def test_no_other_answer_is_asked_for_twice(app: App, url: str, tmp_path: Path, *, change: bool) -> None:
    refusing = Refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, "too busy")
    async with beside(app, url, tmp_path, refusing) as client:
        assert await failed(client, change=change) == len(refusing.refused) > 0
