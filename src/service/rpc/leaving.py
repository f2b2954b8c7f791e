"""Leaving a port that other processes share, without anybody losing a call.

gRPC's own stop closes the listener too, but calls that arrive before clients have heard of it are lost, and health that
says NOT_SERVING does not help: to a client all processes on the port are one address. So only the listener is closed.
Connections are asked to go by their age (``max_connection_age``), which is a GOAWAY that loses nothing; clients connect
anew and find the other processes. gRPC offers no handle on its listener: it is found among the open files.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPEN_FILES = "/proc/self/fd"
_PAUSE = 0.25


async def leave(port: int, *, within: float) -> None:
    """Accept nothing more on `port`, and wait until the last connection is gone, at most `within` seconds."""
    log = structlog.get_logger("gatelodge.drain")
    log.info("leaving", connections=await asyncio.to_thread(close_listeners, port), within=within)
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            while left := await asyncio.to_thread(connections, port):  # noqa: ASYNC110 - gRPC tells nobody
                await asyncio.sleep(_PAUSE)
    log.info("left", connections=left)


def close_listeners(port: int) -> int:
    """Stop listening on `port`; return how many connections there are."""
    for listener in _sockets(port):
        if _listens(listener):
            # The descriptor stays gRPC's to close; no connection comes to it any more.
            listener.shutdown(socket.SHUT_RD)
    return connections(port)


def connections(port: int) -> int:
    """Return how many connections this process has accepted on `port`."""
    return sum(_is_connected(one) for one in _sockets(port))


def _sockets(port: int) -> Iterator[socket.socket]:
    for file in Path(_OPEN_FILES).iterdir():
        with suppress(OSError):
            if not str(file.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(file.name))) as one:
                if one.family in {socket.AF_INET, socket.AF_INET6} and one.getsockname()[1] == port:
                    yield one


def _is_connected(one: socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError:
        return False  # a listener, perhaps shut down
    return True


def _listens(one: socket.socket) -> bool:
    return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
