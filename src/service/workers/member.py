"""One worker's process, as its parent sees it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from service.workers.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from service.telemetry.families import Dumped
    from service.workers.channel import Charge

_COMMAND = (sys.executable, "-P", "-m", "service", "worker")
"""Without the working directory on the path, whatever is called ``service`` there."""
_LAST_WORDS = 1.0


class NotServingError(Exception):
    """A worker ended before it served; the text is what it said, or how it ended."""


class Member:
    """A worker, from its start to its end. Made by `start`."""

    def __init__(self, charge: Charge, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.number = charge.number
        self.ops_socket = charge.ops_socket
        self.pid = process.pid
        self.since = time.monotonic()
        self.numbers: list[Dumped] | None = None
        """Its last ones, once it has drained."""
        self._process = process
        self._channel = channel
        self._said: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._listening = asyncio.ensure_future(self._listen())

    @classmethod
    async def start(cls, charge: Charge, environment: Mapping[str, str]) -> Self:
        """Start a process. It leads a session of its own: Ctrl-C at a terminal is the parent's to pass on."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *_COMMAND, stdin=theirs.fileno(), env=environment, start_new_session=True
            )
        channel = await Channel.over(ours)
        await channel.tell(**charge.dump())
        return cls(charge, process, channel)

    async def until_serving(self) -> None:
        """Wait until it serves.

        Raises:
            NotServingError: it ended instead.

        """
        fault = await asyncio.shield(self._said)
        if fault is not None:
            await self.exited()
            raise NotServingError(fault or f"a worker ended while it started: {described(await self.exited())}")

    async def order(self, order: str) -> None:
        """Tell it to leave or to drain."""
        await self._channel.tell(order=order)

    async def exited(self) -> int:
        """Wait until it has ended and everything it said is heard; return its exit status, negative for a signal."""
        status = await self._process.wait()
        await asyncio.wait([self._listening], timeout=_LAST_WORDS)
        self._channel.close()
        return status

    def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            self._process.kill()

    async def _listen(self) -> None:
        while (message := await self._channel.hear()) is not None:
            if "serving" in message:
                self._tell(None)
            elif "cannot" in message:
                self._tell(str(message["cannot"]))
            elif "numbers" in message:
                self.numbers = message["numbers"]
        self._tell("")

    def _tell(self, fault: str | None) -> None:
        if not self._said.done():
            self._said.set_result(fault)


def described(status: int) -> str:
    """Say how a process ended."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
