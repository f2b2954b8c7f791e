"""Asking a server for its health from outside, as ``gatelodge health`` and a container's HEALTHCHECK do."""

from __future__ import annotations

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc


async def check(address: str, service: str, *, within: float) -> str:
    """Return the serving status of `service` at `address` in at most `within` seconds.

    Returns:
        ``SERVING``, ``NOT_SERVING``, or the status code's name if the call failed (``UNAVAILABLE``, ``NOT_FOUND``).

    """
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=within
            )
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
