"""HTTP/2 by hand: what no client library sends."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Protocol, Self


class Listening(Protocol):
    """What is connected to."""

    @property
    def port(self) -> int: ...


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END, END_OF_HEADERS = 1, 4
NO_WINDOW = b"\0\4\0\0\0\0"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def message(payload: bytes = b"", *, compressed: bool = False) -> bytes:
    return bytes([compressed]) + struct.pack(">I", len(payload)) + payload


def headers(path: bytes, *more: tuple[bytes, bytes], stream: int = 1) -> bytes:
    """Write the beginning of a call, its request still to come."""
    first = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"))
    lines = (*first, (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more)
    block = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in lines)
    return frame(HEADERS, END_OF_HEADERS, stream, block)


EMPTY = frame(DATA, END, 1, message())


def call(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """Write a whole call."""
    return headers(path, *more) + EMPTY


class Connection:
    """One connection, its preface sent. Leaving the block closes it."""

    def __init__(self, house: Listening, settings: bytes = b"") -> None:
        self._port = house.port
        self._settings = settings

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.send(PREFACE + frame(SETTINGS, 0, 0, self._settings))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def until(self, *wanted: bytes, seconds: float = 20) -> bytes:
        """Read until every one of `wanted` came; return all that was read."""
        seen = b""
        async with asyncio.timeout(seconds):
            while not all(part in seen for part in wanted):
                seen += await self._some()
        return seen

    async def until_closed(self, seconds: float = 3) -> bytes:
        """Read until the server closes; return all that was read. Pings are answered."""
        seen = b""
        async with asyncio.timeout(seconds):
            while part := await self._reader.read(65536):
                seen += part
                place = part.find(frame(PING, 0, 0, bytes(8))[:5])
                if place >= 0:
                    self.send(frame(PING, 1, 0, part[place + 9 : place + 17]))
        return seen

    async def _some(self) -> bytes:
        part: Any = await self._reader.read(65536)
        assert part, "closed"
        return bytes(part)
