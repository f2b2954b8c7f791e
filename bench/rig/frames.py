"""A load generator that sends prebuilt HTTP/2 frames and looks at the gRPC status of every answer.

For calls that differ (tokens, bodies, cancellations, a fixed rate); ``h2load`` serves where all are alike. Run as a
process of its own: ``frames.py SPEC``, a file with a JSON `Spec`; prints a JSON `Outcome`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import hpack
import uvloop
from gatelodge.auth.v1 import auth_pb2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
CANCEL = (8).to_bytes(4, "big")
_HUGE_WINDOW = (2**30).to_bytes(4, "big")


@dataclass(frozen=True)
class Request:
    """One call: its path, its metadata beyond gRPC's own, its message's bytes as hex."""

    path: str
    metadata: dict[str, str]
    message: str


@dataclass(frozen=True)
class Spec:
    """What to send. With `rate` calls a second come at fixed intervals, answered or not; without, as answers come."""

    host: str
    port: int
    requests: list[Request]
    seconds: float
    in_flight: int = 64
    connections: int = 1
    rate: float = 0
    first: int = 0
    """How many calls of each connection's share of `requests` are left out at the beginning: sent in an earlier run."""
    calls: int = 0
    """How many at most; 0: as many as come."""
    cancel_every: int = 0
    """Each so-manieth call is cancelled right after it was sent."""
    refreshing: bool = False
    """Whether the calls are Refresh, and each next one sends the token that its slot was answered."""


@dataclass
class Outcome:
    """What came of it."""

    calls: int
    per_second: float
    statuses: dict[str, int]
    p50_ms: float
    p99_ms: float
    cpu_share: float
    """Of one core, what the generator itself used: near 1 it was the bottleneck."""
    unsent: int = 0
    """With a rate: calls that were due while `in_flight` were open."""


@dataclass
class Book:
    """What is counted while the load runs."""

    spec: Spec
    statuses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    sent: int = 0
    open: int = 0
    unsent: int = 0
    until: float = 0.0

    def over(self) -> bool:
        return time.perf_counter() >= self.until or 0 < self.spec.calls <= self.sent

    def ended(self, status: str, began: float) -> None:
        self.open -= 1
        self.statuses[status] += 1
        if status == "0":
            self.latencies.append(time.perf_counter() - began)


class Connection(asyncio.Protocol):
    """One connection that keeps its share of the calls in flight."""

    def __init__(self, book: Book, blocks: list[tuple[bytes, bytes]], offset: int, share: int) -> None:
        self._book = book
        self._blocks = blocks
        self._next = offset
        self._share = share
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = 65536
        self._buffer = b""
        self._stream = 1
        self._began: dict[int, float] = {}
        self._answers: dict[int, bytes] = {}
        self._followers: deque[tuple[bytes, bytes]] = deque()
        """With `refreshing`: what follows on answers. Every first call was sent before the first of them came."""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        settings = (4).to_bytes(2, "big") + (2**30).to_bytes(4, "big")
        self._transport.write(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, _HUGE_WINDOW))

    def connection_lost(self, _: Exception | None) -> None:
        for began in self._began.values():
            self._book.ended("connection lost", began)
        self._began.clear()
        self._transport = None

    def fill(self) -> None:
        """Send until the share is in flight."""
        while len(self._began) < self._share and not self._book.over():
            self.send()

    def room(self) -> bool:
        return self._transport is not None and len(self._began) < self._share

    def send(self) -> None:
        if self._transport is None:
            return
        headers, body = self._followers.popleft() if self._followers else self._blocks[self._next % len(self._blocks)]
        self._next += 1
        stream, self._stream = self._stream, self._stream + 2
        self._began[stream] = time.perf_counter()
        self._book.sent += 1
        self._book.open += 1
        sent = frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, body)
        every = self._book.spec.cancel_every
        if every and self._book.sent % every == 0:
            self._transport.write(sent + frame(RST_STREAM, 0, stream, CANCEL))
            self._book.ended("cancelled", self._began.pop(stream))
        else:
            self._transport.write(sent)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        at, end = 0, len(data)
        while end - at >= 9:
            length = int.from_bytes(data[at : at + 3], "big")
            if end - at - 9 < length:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            self._received(kind, flags, stream, data[at + 9 : at + 9 + length])
            at += 9 + length
        self._buffer = data[at:]
        if not self._book.spec.rate:
            self.fill()

    def _received(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._transport is None:
            return
        if kind == DATA and self._book.spec.refreshing:
            self._answers[stream] = self._answers.get(stream, b"") + payload
        elif kind == HEADERS:
            headers = {str(name): str(value) for name, value, *_ in self._decoder.decode(payload)}
            if flags & END_STREAM:
                self._end(stream, headers.get("grpc-status", "no status"))
        elif kind == RST_STREAM:
            self._end(stream, "reset")
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self._book.statuses["goaway"] += 1
            self._transport.close()

    def _end(self, stream: int, status: str) -> None:
        began = self._began.pop(stream, None)
        if began is None:
            return
        self._book.ended(status, began)
        if self._book.spec.refreshing:
            answer = auth_pb2.RefreshResponse.FromString(self._answers.pop(stream, bytes(5))[5:])
            message = auth_pb2.RefreshRequest(refresh_token=answer.refresh_token).SerializeToString()
            self._followers.append((self._blocks[0][0], grpc_message(message)))


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one HTTP/2 frame (RFC 9113 §4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def blocks(spec: Spec) -> list[tuple[bytes, bytes]]:
    """Return each request's header block and body."""
    return [(header_block(spec, request), grpc_message(bytes.fromhex(request.message))) for request in spec.requests]


def grpc_message(message: bytes) -> bytes:
    """Return a message with gRPC's prefix: not compressed, so long."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def header_block(spec: Spec, request: Request) -> bytes:
    """Return the headers as literals that are not indexed (RFC 7541 §6.2.2), so that blocks do not depend on others."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": request.path,
        ":authority": f"{spec.host}:{spec.port}",
        "content-type": "application/grpc",
        "te": "trailers",
        **request.metadata,
    }
    return b"".join(b"\0" + text(name) + text(value) for name, value in headers.items())


def text(value: str) -> bytes:
    """Return a string literal without Huffman coding (RFC 7541 §5.2)."""
    raw = value.encode()
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    rest, prefix = len(raw) - 127, bytearray((127,))
    while rest >= 128:
        prefix.append(rest % 128 + 128)
        rest //= 128
    prefix.append(rest)
    return bytes(prefix) + raw


async def load(spec: Spec) -> Outcome:
    """Send what the spec says and wait for the answers."""
    loop = asyncio.get_running_loop()
    book, built = Book(spec), blocks(spec)
    share = max(1, spec.in_flight // spec.connections)
    connections = []
    for number in range(spec.connections):
        made = Connection(book, built, spec.first + number * len(built) // spec.connections, share)
        await loop.create_connection(lambda made=made: made, spec.host, spec.port)  # type: ignore[misc]  # a lambda
        connections.append(made)
    used, began = cpu(), time.perf_counter()
    book.until = began + spec.seconds
    if spec.rate:
        await paced(book, deque(connections))
    else:
        for connection in connections:
            connection.fill()
    while not book.over():
        await asyncio.sleep(0.01)
    seconds = time.perf_counter() - began
    done = sum(book.statuses.values())
    share_of_core = (cpu() - used) / seconds
    for _ in range(3000):
        if book.open <= 0:
            break
        await asyncio.sleep(0.01)
    latencies = sorted(book.latencies) or [0.0]
    return Outcome(
        calls=done,
        per_second=done / seconds,
        statuses=dict(book.statuses),
        p50_ms=latencies[len(latencies) // 2] * 1000,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1000,
        cpu_share=share_of_core,
        unsent=book.unsent,
    )


async def paced(book: Book, connections: deque[Connection]) -> None:
    """Send at a fixed rate, in turn over the connections."""
    interval, due = 1 / book.spec.rate, time.perf_counter()
    while not book.over():
        now = time.perf_counter()
        while due <= now:
            due += interval
            connections.rotate(1)
            if connections[0].room():
                connections[0].send()
            else:
                book.unsent += 1
        await asyncio.sleep(max(0.0, due - time.perf_counter()))


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    read: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    spec = Spec(**{**read, "requests": [Request(**request) for request in read["requests"]]})
    print(json.dumps(asdict(uvloop.run(load(spec)))))


if __name__ == "__main__":
    main()
