"""Where log lines go: a bounded buffer that a thread writes out, so that a reader who stops reading stops nobody."""

from __future__ import annotations

import atexit
import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING, TextIO, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE = 5.0
"""Seconds the thread waits for a reader before it gives a batch up."""


Line: TypeAlias = "bytes | Callable[[], bytes]"
"""A line, or what makes it when it is written. Made together, lines cost a third of what each costs amid a call."""


_AT_ONCE = 128
"""Lines that are made and written in one go: while they are made, whoever else runs Python waits."""


class Sink:
    """Writes lines to `stream` every `interval` seconds, and at once when told that one is urgent.

    Holds at most `capacity` lines; what comes while it is full is dropped, counted, and owned up to by the line that
    `confession` makes of the count. Never raises.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        confession: Callable[[int], bytes],
        capacity: int = 10_000,
        interval: float = 0.05,
    ) -> None:
        self._stream = stream
        self._descriptor = _descriptor(stream)
        self._confession = confession
        self._capacity = capacity
        self._interval = interval
        self._lines: deque[Line] = deque()
        self._dropped = 0
        self._closed = False
        self._wake = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="log-sink", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, line: Line, *, urgent: bool = False) -> None:
        """Take a line. From any thread; returns at once."""
        if len(self._lines) >= self._capacity:
            self._dropped += 1
            return
        self._lines.append(line)
        if self._closed:
            self._drain(0.1)
        elif urgent:
            self._wake.set()

    def flush(self, timeout: float = 1.0) -> None:
        """Write out what is buffered; gives up after `timeout` seconds without a reader."""
        self._drain(timeout)

    def close(self, timeout: float = 1.0) -> None:
        """Write out what is buffered and end the thread. A stuck reader costs `timeout` seconds and the lines."""
        atexit.unregister(self.close)
        self._closed = True
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._interval)
            self._wake.clear()
            self._drain(_PATIENCE)
        self._drain(_PATIENCE)

    def _drain(self, patience: float) -> None:
        if not self._writing.acquire(timeout=patience):
            return
        try:
            while self._lines:
                lines = [self._lines.popleft() for _ in range(min(len(self._lines), _AT_ONCE))]
                made = [line if isinstance(line, bytes) else self._made(line) for line in lines]
                if not self._put(b"".join(made), patience):
                    self._dropped += len(lines)
                    return
                self._confess()
        finally:
            self._writing.release()

    def _made(self, line: Callable[[], bytes]) -> bytes:
        try:
            return line()
        except Exception:  # noqa: BLE001 - the thread must not end: without it nothing is written any more
            self._dropped += 1
            return b""

    def _confess(self) -> None:
        if dropped := self._dropped:
            self._dropped -= dropped
            self._lines.append(self._confession(dropped))

    def _put(self, data: bytes, patience: float) -> bool:
        try:
            if self._descriptor is not None:
                return _write_all(self._descriptor, data, patience)
            self._stream.write(data.decode(errors="replace"))
            self._stream.flush()
        except (OSError, ValueError):
            return False  # nobody reads any more; there is no place left to say so
        return True


def _descriptor(stream: TextIO) -> int | None:
    # The descriptor itself, because the interpreter cannot end while a thread sits in the stream's own lock.
    try:
        stream.flush()
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _write_all(descriptor: int, data: bytes, patience: float) -> bool:
    """Write everything; False when no reader made room for `patience` seconds."""
    rest = memoryview(data)
    while rest:
        if not select.select([], [descriptor], [], patience)[1]:
            return False
        # A pipe that is ready takes this much without blocking, which is more than can be said of any more, and takes
        # it whole: cut between lines, those of several processes do not mix.
        whole = bytes(rest[: select.PIPE_BUF]).rfind(b"\n") + 1
        rest = rest[os.write(descriptor, rest[: whole or select.PIPE_BUF]) :]
    return True
