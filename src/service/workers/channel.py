"""What a parent and a worker tell each other: JSON lines over a socket pair, the worker's standard input."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import SecretStr

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 16 * 1024 * 1024
"""Bytes of a message: a worker's last numbers are the longest."""

LEAVE = "leave"
"""Order: take no more connections, let those that are go, then drain."""
DRAIN = "drain"
"""Order: drain now."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What a worker is told first: its part of what the parent owns."""

    number: int
    """Which worker it is, from 1; its successor has the same."""
    host: str
    port: int
    ops_socket: str
    """Where it shows its ops pages to the parent."""
    database_url: SecretStr | None = None
    """Of the parent's embedded PostgreSQL."""

    def dump(self) -> dict[str, object]:
        """Return it as a message."""
        url = self.database_url.get_secret_value() if self.database_url else None
        return asdict(self) | {"database_url": url}

    @classmethod
    def load(cls, message: Mapping[str, Any]) -> Self:
        """Return what `dump` made a message of."""
        url = message["database_url"]
        return cls(**{**message, "database_url": SecretStr(url) if url else None})


class Channel:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Talk over one end of the pair."""
        return cls(*await asyncio.open_connection(sock=end, limit=_LONGEST))

    async def tell(self, **message: object) -> None:
        """Send a message; nothing happens where the other side is gone."""
        try:
            self._writer.write(json.dumps(message).encode() + b"\n")
            await self._writer.drain()
        except ConnectionError:
            return

    async def hear(self) -> dict[str, Any] | None:
        """Return the next message, None when the other side is gone."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        message: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return message

    def close(self) -> None:
        """End it."""
        self._writer.close()


def standard_input() -> socket.socket:
    """Return the worker's end, which it was started with."""
    return socket.socket(fileno=0)
