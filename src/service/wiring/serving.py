"""The server around the features: what its transport allows, the chain, where it listens, the ops port."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from service import options
from service.auth.sealing import derive
from service.rpc.address import address
from service.rpc.certificates import Certificates
from service.rpc.health import NOT_SERVING, REVOCATIONS, SERVING, HealthBoard
from service.rpc.interceptors import Idempotency, RequestId, Tracing, chain
from service.rpc.peer import identity
from service.rpc.server import listen
from service.rpc.source import Sources
from service.rpc.unix_socket import listen_unix
from service.telemetry.ops import OpsServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    import grpc.aio
    from opentelemetry.sdk.trace import TracerProvider

    from service.rpc.inflight import InFlight
    from service.rpc.interceptors.layer import Layer
    from service.settings import Server, Tls
    from service.telemetry.metrics import Metrics
    from service.wiring.auth import Auth
    from service.wiring.ground import Ground


def interceptors(
    ground: Ground,
    auth: Auth,
    inflight: InFlight,
    provider: TracerProvider | None,
    permissions_of: Callable[[frozenset[str]], frozenset[str]],
) -> tuple[Layer, ...]:
    """Return the chain that every call passes through."""
    server = ground.settings.server
    services = options.services(server.tls, permissions_of)
    return chain(
        tracing=Tracing(provider=provider, ratio=ground.settings.tracing.sample_ratio),
        request_id=RequestId(
            source=Sources(server.trusted_proxies), identify=identity if services is not None else None
        ),
        metrics=ground.metrics.rpc,
        max_message_bytes=server.max_message_bytes,
        inflight=inflight,
        default_deadline=server.default_deadline_seconds,
        authenticate=auth.authentication,
        idempotency=Idempotency(find=ground.answers.find, secret=derive(ground.root, "gatelodge/fingerprints/v1")),
        services=services,
    )


def certificates(settings: Tls, metrics: Metrics) -> Certificates | None:
    """Return the server's certificates, None in the clear. Raises `CannotRun` when they are no good."""
    files = options.certificate_files(settings)
    return Certificates(files, expires=metrics.certificate_expires) if files else None


def bind(server: grpc.aio.Server, settings: Server, certificates: Certificates | None) -> str:
    """Listen, and return where. Raises `CannotRun`."""
    credentials = certificates.credentials if certificates else None
    if settings.unix_socket is not None:
        return listen_unix(server, settings.unix_socket, int(settings.unix_socket_mode, 8), credentials)
    return address(settings.host, listen(server, address(settings.host, settings.port), credentials))


def ops(stack: AsyncExitStack, ground: Ground, board: HealthBoard, *, path: str | None) -> str | None:
    """Serve the ops pages, at the Unix socket `path` if that is given; return where, None if not on a port."""
    settings = ground.settings.ops
    if not settings.enabled:
        return None
    server = OpsServer(
        host=settings.host,
        port=settings.port,
        registry=ground.metrics.registry,
        jwks=ground.keys.jwks,
        alive=ground.metrics.loop_runs,
        ready=board.ready,
        path=path,
    )
    stack.push_async_callback(asyncio.to_thread, server.close)
    return address(settings.host, server.port) if path is None else None


def tell_fresh(board: HealthBoard, metrics: Metrics, fresh: bool) -> None:  # noqa: FBT001 - what is told
    """Tell whether the revocations known here are fresh."""
    board.set(REVOCATIONS, SERVING if fresh else NOT_SERVING)
    metrics.revocations_fresh(fresh)
