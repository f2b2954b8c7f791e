"""How calls come in: several of a method at a time, and none whose path cannot be read stops the server.

grpc.aio's own main loop holds one place open for each method. It takes a call in, opens the next place, and waits anew
on all of them, whatever their number: of 64 calls that are there, each waits for a turn through three threads, and what
the loop does between two turns is thrown out of the processor's caches by the next (docs/decisions/0043). Here a method
has more places open the more it is called, and what comes together is served together.

That loop also decodes the ``:path`` of calls to methods it has not registered, as UTF-8. A peer that sends other bytes
raises `UnicodeDecodeError` there, and the whole server shuts down: no credential needed, no interceptor asked (grpcio
1.85.1, and before). Generated code registers every method, so calls that come that way are to unknown methods by
definition: they are served here without looking at their path (which is why no log line has it).

Uses private names of grpcio, which is pinned; ``tests/rpc`` sends such a path, and many calls at once, and fails when
this stops to work.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

from grpc._cython import cygrpc
from grpc.aio import _server

from service.rpc.interceptors.layer import wrapped
from service.rpc.methods import UNREAD_PATH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import grpc

    from service.rpc.interceptors.layer import Handler, Layer

    State: TypeAlias = Any
    """gRPC's own of one call."""

_MOST_PLACES = 16
"""Of one method. Twice as many gain nothing more."""
_PAUSE = 0.01
"""Seconds after a request for a call that failed."""


class _Intake:
    """The places of one method: each takes a call in, has it served, and takes the next.

    It begins with one. With each call that comes there is one more, up to `_MOST_PLACES`, and they stay: some 50 KiB
    for a method that is used, next to nothing for one that never is.

    Args:
        take: waits for a call.
        serve: begins to serve it.

    """

    def __init__(self, take: Callable[[], Awaitable[State]], serve: Callable[[State], None]) -> None:
        self._take = take
        self._serve = serve
        self._places = set[asyncio.Task[None]]()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Take calls in until gRPC gives no more; raise what it raises then.

        No place is ever cancelled: gRPC holds what it points to until it has filled or failed it, at the server's end.
        """
        self._open()
        await self._closed

    def _open(self) -> None:
        place = asyncio.ensure_future(self._keep())
        self._places.add(place)
        place.add_done_callback(self._gone)

    async def _keep(self) -> None:
        while True:
            call = await self._take()
            if len(self._places) < _MOST_PLACES:
                self._open()
            self._serve(call)
            del call  # with it goes what its errors hold on to, the request: a place may wait for the next one for long

    def _gone(self, place: asyncio.Task[None]) -> None:
        self._places.discard(place)
        if not place.cancelled() and (error := place.exception()) is not None and not self._closed.done():
            self._closed.set_exception(error)


class _CoreServer(cygrpc.AioServer):  # type: ignore[misc]  # compiled, without types
    """Serves what its intakes take in. To its main loop each of them looks like one call that never comes."""

    def __init__(self, layers: Sequence[Layer], options: Any) -> None:
        self._layers = tuple(layers)
        self._handlers: dict[str, Handler] = {}
        self._unknown = wrapped(self._layers, UNREAD_PATH, None)
        self._calls = set[asyncio.Task[None]]()
        self.broken: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        super().__init__(asyncio.get_running_loop(), None, (), (), options, None)

    def add_registered_method_handlers(self, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        """Wrap the handlers in the layers, once and for all."""
        for path, handler in method_handlers.items():
            self._handlers[path] = wrapped(self._layers, path, handler)
        super().add_registered_method_handlers(dict(method_handlers))

    def _make_request_call_future(self, method: bytes | None) -> Any:
        """Return what the main loop waits on; None is for all methods that are not registered."""
        path = UNREAD_PATH if method is None else method.decode()
        handler = self._unknown if method is None else self._handlers[path]

        async def take() -> State:
            while True:
                try:
                    return await (self._request_call() if method is None else self._request_registered_call(method))
                except cygrpc._RequestCallError:  # noqa: SLF001 - see above
                    if not self.is_running():
                        raise
                    await asyncio.sleep(_PAUSE)

        def serve(call: State) -> None:
            self._begin(path, handler, call)

        return asyncio.ensure_future(_Intake(take, serve).run())

    def _serving_task_crash_handler(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() or not self.is_running() else task.exception()
        super()._serving_task_crash_handler(task)
        if error is not None:
            self.broken.set_result(error)

    def _begin(self, path: str, handler: Handler, call: State) -> None:
        loop = asyncio.get_running_loop()
        kind = cygrpc._handle_stream_stream_rpc if handler.response_streaming else cygrpc._handle_stream_unary_rpc  # noqa: SLF001 - see above
        serving = cygrpc._schedule_rpc_coro(kind(handler, call, loop), call, loop, path)  # noqa: SLF001 - see above
        task = loop.create_task(serving)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)


class IntakeServer(_server.Server):
    """`grpc.aio.Server` over `_CoreServer`. Methods must be registered, as generated code does.

    Args:
        layers: the interceptors, outermost first.
        options: channel arguments.

    """

    def __init__(self, layers: Sequence[Layer], options: Sequence[tuple[str, int]]) -> None:
        # Not the parent's constructor: all it does is to make the core server that is replaced here.
        self._loop = asyncio.get_running_loop()
        self._server = _CoreServer(
            layers,
            _server._augment_channel_arguments(tuple(options), None),  # noqa: SLF001
        )

    async def broken(self) -> None:
        """Wait until no calls are taken any more although nobody stopped the server, and raise why. The port is closed.

        gRPC's `wait_for_termination` comes back only when the last call has ended, too, and streams may last.
        """
        raise await asyncio.shield(self._server.broken)
