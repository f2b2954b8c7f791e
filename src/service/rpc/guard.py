"""A grpc.aio server that one bad packet cannot stop.

grpc.aio decodes the ``:path`` of calls to methods it has not registered as UTF-8, in its main loop. A peer that sends
other bytes raises `UnicodeDecodeError` there, and the whole server shuts down: no credential needed, no interceptor
asked (grpcio 1.85.1, and before). Generated code registers every method, so calls that come that way are to unknown
methods by definition: they are taken out of the main loop here, and served without looking at their path (which is
why no log line has it: gRPC shows it nowhere else).

Uses private names of grpcio, which is pinned; ``tests/rpc`` sends such a path and fails when this stops to work.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from grpc._cython import cygrpc
from grpc.aio import _server

from service.rpc.methods import UNREAD_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc.aio


class _Nothing:
    """Resolves no method."""

    @staticmethod
    def resolve_handler(_details: object) -> None:
        return None


class _CoreServer(cygrpc.AioServer):  # type: ignore[misc]  # compiled, without types
    """Serves calls to unregistered methods in a loop of its own."""

    def __init__(self, interceptors: tuple[grpc.aio.ServerInterceptor, ...], options: Any) -> None:
        self._unknown = set[asyncio.Task[None]]()
        self._layers = interceptors
        super().__init__(asyncio.get_running_loop(), None, (), interceptors, options, None)

    def _make_request_call_future(self, method: bytes | None) -> Any:
        """Hand the main loop a future that ends only when the server does."""
        if method is None:
            return asyncio.ensure_future(self._serve_unknown())
        return super()._make_request_call_future(method)

    async def _serve_unknown(self) -> None:
        while True:
            state = await self._request_call()
            loop = asyncio.get_running_loop()
            serving = cygrpc._handle_rpc(UNREAD_PATH, _Nothing(), self._layers, state, loop, False)  # noqa: SLF001
            watched = cygrpc._schedule_rpc_coro(serving, state, loop, UNREAD_PATH)  # noqa: SLF001
            task = loop.create_task(watched)
            self._unknown.add(task)
            task.add_done_callback(self._unknown.discard)


class GuardedServer(_server.Server):
    """`grpc.aio.Server` over `_CoreServer`. Methods must be registered, as generated code does.

    Args:
        interceptors: outermost first.
        options: channel arguments.

    """

    def __init__(self, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]]) -> None:
        # Not the parent's constructor: all it does is to make the core server that is replaced here.
        self._loop = asyncio.get_running_loop()
        self._server = _CoreServer(
            tuple(interceptors),
            _server._augment_channel_arguments(tuple(options), None),  # noqa: SLF001
        )
