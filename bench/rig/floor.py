"""The floor: grpc.aio's server as it comes, on uvloop, saying hello, with the service's own transport options.

``floor.py stock`` prints the port it listens on and serves until it is killed. ``floor.py ours`` says hello from the
service's own server class instead, without its interceptors: what that gains over gRPC's.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import grpc
import grpc.aio
import uvloop
from google.protobuf import wrappers_pb2

from service.rpc.loop import Loop
from service.rpc.server import Transport, build_server, channel_arguments, listen
from service.tuning import take_turns

PATH = "/bench.Hello/SayHello"
HELLO = "hello, " + "x" * 200
"""About as long as a user."""


async def say_hello(request: wrappers_pb2.StringValue, _: Any) -> wrappers_pb2.StringValue:
    del request
    return wrappers_pb2.StringValue(value=HELLO)


async def main() -> None:
    ours = sys.argv[1] == "ours"
    if ours:
        take_turns()
    server = build_server((), Transport()) if ours else grpc.aio.server(options=channel_arguments(Transport()))
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
    uvloop.run(main(), loop_factory=Loop if sys.argv[1] == "ours" else uvloop.new_event_loop)
