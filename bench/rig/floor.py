"""The floor: a gRPC server on asyncio that says hello, with the service's own transport options and event loop.

``floor.py`` prints the port it listens on and serves until it is killed. What the service adds costs on top of this.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import grpc
import grpc.aio
import uvloop
from google.protobuf import wrappers_pb2

from service.rpc.server import Transport, build_server, listen

PATH = "/bench.Hello/SayHello"
HELLO = "hello, " + "x" * 200
"""About as long as a user."""


async def say_hello(request: wrappers_pb2.StringValue, _: Any) -> wrappers_pb2.StringValue:
    del request
    return wrappers_pb2.StringValue(value=HELLO)


async def main() -> None:
    server = build_server((), Transport())
    handler = grpc.unary_unary_rpc_method_handler(
        say_hello,
        request_deserializer=wrappers_pb2.StringValue.FromString,
        response_serializer=wrappers_pb2.StringValue.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Hello", {"SayHello": handler}),))
    server.add_registered_method_handlers("bench.Hello", {"SayHello": handler})
    port = listen(server, "127.0.0.1:0", None)
    await server.start()
    gc.collect()
    gc.freeze()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
