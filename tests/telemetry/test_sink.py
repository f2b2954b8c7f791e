"""Lines get out, and nobody waits for them."""

from __future__ import annotations

import io
import os
import threading
import time
from contextlib import suppress

from service.telemetry.sink import Sink


def ended(sink: Sink, reading: int) -> None:
    """Take what the stuck thread writes until it has ended: its descriptor must not become another file's under it."""
    os.set_blocking(reading, False)
    while sink._thread.is_alive():
        with suppress(BlockingIOError):
            os.read(reading, 65536)
        sink._thread.join(0.01)


def test_a_reader_who_stops_reading_stops_nobody_and_what_was_lost_is_told() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "w") as stream:
        sink = Sink(stream, confession=lambda count: b"lost %d\n" % count, capacity=50, interval=0.01)
        line = b"x" * 9999 + b"\n"
        start = time.monotonic()
        for _ in range(200):
            sink.write(line)
        assert time.monotonic() - start < 5
        time.sleep(0.05)
        for _ in range(200):
            sink.write(line)
        assert len(sink._lines) <= 50
        got = b""
        while b"lost" not in got:
            got += source.read1(65536)
        sink.close()
        lost = int(got.split(b"lost ")[1].split()[0])
        assert lost >= 200
        assert set(got.split(b"\n")[:5]) == {line[:-1]}


def test_closing_does_not_wait_long_for_a_reader_who_is_stuck() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "w") as stream:
        sink = Sink(stream, confession=lambda _: b"")
        for _ in range(20):
            sink.write(b"x" * 9999)
        start = time.monotonic()
        sink.close(timeout=0.2)
        assert time.monotonic() - start < 5
        ended(sink, reading)


def test_an_error_is_written_at_once() -> None:
    stream = io.StringIO()
    sink = Sink(stream, confession=lambda _: b"", interval=60)
    sink.write(b"urgent\n", urgent=True)
    deadline = time.monotonic() + 2
    while not stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stream.getvalue() == "urgent\n"
    sink.close()


def test_whoever_flushes_or_speaks_after_the_end_does_not_wait_long_either() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "w") as stream:
        sink = Sink(stream, confession=lambda _: b"", interval=60)
        sink._lines.extend([b"x" * 9999] * 20)
        start = time.monotonic()
        sink.flush(timeout=0.1)
        sink._lines.extend([b"x" * 9999] * 20)
        sink.close(timeout=0.1)
        sink.write(b"late\n")
        assert time.monotonic() - start < 5
        ended(sink, reading)


def test_lines_of_several_processes_in_one_pipe_do_not_mix() -> None:
    # Of a pipe in packet mode each read returns what one write wrote; the kernel keeps those up to PIPE_BUF whole.
    out, into = os.pipe2(os.O_DIRECT)
    with os.fdopen(into, "w") as stream:
        sink = Sink(stream, confession=lambda _: b"", interval=60)
        for _ in range(10):
            sink.write(b"x" * 999 + b"\n")
        sink.flush()
        writes: list[bytes] = []
        while sum(map(len, writes)) < 10_000:
            writes.append(os.read(out, 65536))
        sink.close()
    os.close(out)
    assert all(len(write) % 1000 == 0 for write in writes)


def test_lines_can_be_made_when_they_are_written_and_keep_their_order() -> None:
    stream, made = io.StringIO(), list[str]()

    def later() -> bytes:
        made.append(threading.current_thread().name)
        return b"made\n"

    sink = Sink(stream, confession=lambda _: b"", interval=60)
    sink.write(b"first\n")
    sink.write(later)
    sink.write(b"last\n")
    assert not made
    sink.close()
    assert stream.getvalue() == "first\nmade\nlast\n"
    assert made == ["log-sink"]


def test_a_line_that_cannot_be_made_is_owned_up_to_and_the_others_are_written() -> None:
    stream = io.StringIO()

    def fails() -> bytes:
        raise TypeError

    sink = Sink(stream, confession=lambda count: b"lost %d\n" % count, interval=0.01)
    sink.write(fails)
    sink.write(b"written\n")
    sink.flush()
    sink.write(b"later\n")
    sink.close()
    assert stream.getvalue() == "written\nlost 1\nlater\n"
