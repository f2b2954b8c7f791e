"""Going away without anybody losing a call."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    import grpc.aio
    from structlog.typing import FilteringBoundLogger

    from service.rpc.health import HealthBoard
    from service.rpc.inflight import InFlight

_LAST_WORDS = 1.0
"""Seconds for the statuses of ended calls to be sent."""


async def drain(
    server: grpc.aio.Server,
    *,
    board: HealthBoard,
    inflight: InFlight,
    linger: float,
    grace: float,
    log: FilteringBoundLogger | None = None,
) -> None:
    """Stop `server` so that no caller loses anything.

    Health goes NOT_SERVING and calls go on for `linger` seconds, so that balancers see it. Then new calls are refused
    and streams ended with UNAVAILABLE SHUTTING_DOWN, and calls in progress have `grace` seconds to finish.

    What is unfinished then is told SHUTTING_DOWN, too. gRPC's own stop would tell CANCELLED, which clients do not retry
    (grpc#41785), so it comes last, when nothing is left for it to cancel.
    """
    logger: FilteringBoundLogger = log or structlog.get_logger("gatelodge.drain")
    logger.info("draining", linger=linger, grace=grace, calls=len(inflight))
    board.drain()
    await asyncio.sleep(linger)
    inflight.close()
    cut = await inflight.finish(grace)
    await server.stop(_LAST_WORDS)
    logger.log(logging.WARNING if cut else logging.INFO, "drained", calls_cut=cut)
