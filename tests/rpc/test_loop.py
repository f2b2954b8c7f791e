"""gRPC's wake-ups, taken together."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from functools import partial
from typing import Any

import grpc.aio
import uvloop

from service.rpc.loop import Loop

EVENTS = 20


class Queue:
    """Reads as grpc.aio's completion queue does."""

    def __init__(self, reading: socket.socket) -> None:
        self.reading = reading
        self.called = 0

    def _handle_events(self, _loop: object) -> None:
        self.called += 1
        with suppress(BlockingIOError):
            self.reading.recv(1)


async def calls_for_many_events() -> int:
    loop = asyncio.get_running_loop()
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        queue = Queue(reading)
        loop.add_reader(reading, partial(queue._handle_events, loop))
        writing.send(b"1" * EVENTS)
        for _ in range(3 * EVENTS):
            await asyncio.sleep(0)
        loop.remove_reader(reading)
    return queue.called


def test_many_events_are_one_call() -> None:
    assert uvloop.run(calls_for_many_events()) == EVENTS
    assert uvloop.run(calls_for_many_events(), loop_factory=Loop) == 1


def test_the_reader_that_grpc_has_is_known() -> None:
    """Fails when an upgrade of grpcio changes what the loop knows it by."""
    known = list[Any]()

    class Watched(Loop):
        def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]  # as asyncio's
            known.append(callback)
            super().add_reader(fd, callback, *args)

    async def serve() -> None:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.channel_ready()
        await server.stop(0)

    uvloop.run(serve(), loop_factory=Watched)
    assert [callback.func.__name__ for callback in known if isinstance(callback, partial)] == ["_handle_events"]


def test_other_readers_get_their_bytes() -> None:
    async def read() -> bytes:
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(b"hello\n")
        theirs.sendall(b"world\n")
        line = await reader.readline()
        writer.close()
        return line

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        assert uvloop.run(read(), loop_factory=Loop) == b"world\n"
        assert theirs.recv(99) == b"hello\n"
