"""The base of every interceptor: wraps a method's handler once, in one shape for all four call kinds.

Inside the chain a handler is one coroutine, ``serve(request, context)``. The request is whatever gRPC can be asked for
messages with; nothing is received before the innermost layer asks. Server-streaming methods write to the context and
return None. Async generators exist only in servicers: everything else runs in the call's own task, so ``finally`` runs
there and then when a call is cancelled (an abandoned generator is closed later, by the garbage collector, in another
task), and a streamed response costs the layers nothing.
"""

from __future__ import annotations

import inspect
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio

from service.errors import MethodUnknown
from service.rpc.methods import UNKNOWN, Method, describe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    _RpcMethodHandler = grpc.RpcMethodHandler[Any, Any]
else:
    _RpcMethodHandler = grpc.RpcMethodHandler  # generic in its stubs only

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Serve: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"


class Handler(_RpcMethodHandler):
    """A handler in the chain's one shape: bytes in, bytes out.

    To gRPC every method's requests are a stream, which on the wire is the same. It would receive a single request
    before it calls anyone: whole, for as long as its sender likes, and for strangers, too.

    `decode` is what the innermost layer makes messages with.
    """

    def __init__(self, method: Method, serve: Serve, decode: Callable[[bytes], Any]) -> None:
        self.method = method
        self.serve = serve
        self.decode = decode
        self.request_streaming = True
        self.response_streaming = method.server_streaming
        self.request_deserializer = self.response_serializer = None
        self.unary_unary = self.unary_stream = None
        # gRPC looks at the one for the method's kind only.
        self.stream_unary = self.stream_stream = serve  # type: ignore[assignment]  # one shape for all four kinds


class Layer:
    """An interceptor: override `around`, or `bind` where a wrapper depends on the method.

    A handler is wrapped when its method is registered, once for all calls. To gRPC's own interceptors each call is
    shown anew, which costs some 10 microseconds a layer.
    """

    async def around(self, method: Method, proceed: Serve, request: Any, context: Context) -> Any:
        """Serve one call: await ``proceed(request, context)`` and return what it returns."""
        del method
        return await proceed(request, context)

    def bind(self, handler: Handler) -> Handler:
        """Wrap `handler` in `around`; called once per method. Not overridden, it costs nothing."""
        cls, method = type(self), handler.method
        if cls.around is Layer.around:
            return handler
        return Handler(method, partial(cls.around, self, method, handler.serve), handler.decode)


def wrapped(layers: Sequence[Layer], path: str, handler: grpc.RpcMethodHandler[Any, Any] | None) -> Handler:
    """Return `handler`, registered at `path`, within `layers`, outermost first; None is every unknown method's."""
    made = adapt(path, handler)
    for layer in reversed(layers):
        made = layer.bind(made)
    return made


def adapt(path: str, handler: grpc.RpcMethodHandler[Any, Any] | None) -> Handler:
    """Return `handler` in the chain's shape: made from a servicer's method, or a stand-in for None."""
    if handler is None:
        return Handler(UNKNOWN, _refuse, bytes)
    method = describe(path, client_streaming=handler.request_streaming, server_streaming=handler.response_streaming)
    return Handler(method, _servicer(handler), handler.request_deserializer or bytes)


async def _refuse(_request: Any, _context: Context) -> None:
    raise MethodUnknown


def _servicer(handler: grpc.RpcMethodHandler[Any, Any]) -> Serve:
    """Serialising happens here, inside the error mapping, so that a wrong response is a clean INTERNAL as well."""
    behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    serialize: Any = handler.response_serializer or _identity
    if handler.response_streaming:
        return _writing(behaviour, serialize) if inspect.isasyncgenfunction(behaviour) else _foreign(behaviour)
    return _returning(behaviour, serialize) if inspect.iscoroutinefunction(behaviour) else _foreign(behaviour)


def _identity(message: Any) -> Any:
    return message


def _returning(behaviour: Any, serialize: Any) -> Serve:
    async def serve(request: Any, context: Context) -> Any:
        return serialize(await behaviour(request, context))

    return serve


def _writing(behaviour: Any, serialize: Any) -> Serve:
    async def serve(request: Any, context: Context) -> None:
        async with aclosing(behaviour(request, context)) as messages:
            async for message in messages:
                await context.write(serialize(message))

    return serve


def _foreign(behaviour: Any) -> Serve:
    """Sync methods would run in threads and bypass cancellation: refuse them at their first call, as a bug."""

    async def serve(_request: Any, _context: Context) -> None:
        raise TypeError(f"{behaviour!r} must be a coroutine function, or an async generator function when streaming")

    return serve
