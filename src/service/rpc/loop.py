"""The event loop, told of gRPC's events once for all that there are.

A thread of gRPC's writes one byte into a socket for each event. grpc.aio's reader then takes *one* byte out, and all
events there are: of ten that came together, nine more turns of the loop find the next byte and nothing else
(grpcio 1.85.1). Here the bytes are taken out first, all at once.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVarTuple

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import HasFileno

Arguments = TypeVarTuple("Arguments")
_MANY = 4096
"""More bytes than gRPC has events in progress."""


class Loop(uvloop.Loop):
    """uvloop's, but for gRPC's reader."""

    def add_reader(self, fd: int | HasFileno, callback: Callable[[*Arguments], Any], *args: *Arguments) -> None:
        """Call `callback` when there is something to read; for gRPC's, empty the socket before that."""
        if _is_grpcs(callback):
            super().add_reader(fd, _emptied, fd, callback)
        else:
            super().add_reader(fd, callback, *args)


def _is_grpcs(callback: Callable[..., Any]) -> bool:
    return isinstance(callback, partial) and getattr(callback.func, "__name__", "") == "_handle_events"


def _emptied(socket: Any, handle_events: Callable[[], Any]) -> None:
    with suppress(BlockingIOError):
        socket.recv(_MANY)
    handle_events()
