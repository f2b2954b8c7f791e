"""The parent: owns what workers share, starts them, shows their numbers as one, and passes on what it is told."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from pydantic import SecretStr

from service.build import this_build
from service.development import database_url
from service.errors import CannotRun, DomainError
from service.greeting import greeting
from service.operations import prepare_schema
from service.settings import worker_environment
from service.telemetry import logging
from service.telemetry.ops import OpsServer
from service.workers.channel import Charge
from service.workers.crew import Crew
from service.workers.member import Member
from service.workers.numbers import Numbers
from service.workers.port import held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.settings import Ops, Settings

_ENDING = (signal.SIGTERM, signal.SIGINT)
_HANGS_AFTER = 10.0
_MARGIN = 10.0
"""Seconds for what a worker does beside draining."""
_MEMORY = "/dev/shm"  # noqa: S108 - containers have it, writable, also where their root is not
_log = logging.logger("gatelodge.process")


def run_workers(settings: Settings) -> int:
    """Serve with several workers, and return the exit status.

    Raises:
        CannotRun: the workers cannot serve, the port is taken, the schema is no good.
        DependencyUnavailable: the database cannot be reached.

    """
    version = this_build().version
    logs = logging.configure(settings.log, service="gatelodge", version=version, stream=sys.stderr)
    try:
        asyncio.run(_serve(settings))
    finally:
        logs.close()  # after the loop, which has the last tasks end: what they say is logged, too
    return 0


async def _serve(settings: Settings) -> None:
    build = this_build()
    signals = _Signals()
    try:
        _log.info("starting", commit=build.commit, env=settings.env, pid=os.getpid(), workers=settings.server.workers)
        async with _running(settings) as (crew, address, ops_address):
            _log.info("serving", address=address, ops_address=ops_address, workers=settings.server.workers)
            if settings.log.format == "console":
                print(greeting(address, ops_address, tls=settings.server.tls.cert_file is not None), flush=True)  # noqa: T201 - for whoever started it at a terminal
            await _replace_when_told(crew, signals)
            _log.info("draining the workers")
        _log.info("stopped")
    except asyncio.CancelledError:
        if not signals.ending:
            raise
        _log.info("stopped while starting")
    except (CannotRun, DomainError):
        raise
    except Exception as error:
        _log.exception("crashed")
        raise CannotRun(f"crashed on {type(error).__name__}: the log has the cause") from error


@asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[tuple[Crew, str, str | None]]:
    """Yield the crew that serves, where it does, and where the ops port is."""
    server, database, size = settings.server, settings.database, settings.server.workers
    async with AsyncExitStack() as stack:
        port = stack.enter_context(held(server.host, server.port))
        folder = stack.enter_context(_folder())
        url = await stack.enter_async_context(database_url(database))
        await prepare_schema(url, database)  # once, before several would
        numbers = Numbers(size)
        serial, environment = itertools.count(1), worker_environment()

        async def launch(number: int) -> Member:
            charge = Charge(
                number=number,
                host=server.host,
                port=port,
                ops_socket=f"{folder}/{next(serial)}.sock",
                database_url=None if database.url else SecretStr(url),
            )
            return await Member.start(charge, environment)

        patience = server.drain_linger_seconds + server.drain_grace_seconds + _MARGIN
        crew = Crew(size, launch=launch, meter=numbers, patience=patience)
        numbers.of(crew)
        ops_address = _ops(stack, settings.ops, numbers) if settings.ops.enabled else None
        await stack.enter_async_context(crew)
        yield crew, _address(server.host, port), ops_address


async def _replace_when_told(crew: Crew, signals: _Signals) -> None:
    """Return when the end is asked for, in the middle of a replacement, too."""
    replacing: asyncio.Future[None] | None = None
    while await signals.wait():
        if replacing is None or replacing.done():
            _log.info("replacing the workers")
            replacing = asyncio.ensure_future(crew.replace())
        else:
            _log.warning("the workers are being replaced already")
    if replacing is not None:
        replacing.cancel()
        await asyncio.wait([replacing])


def _ops(stack: AsyncExitStack, settings: Ops, numbers: Numbers) -> str:
    beat = _Beat()
    stack.callback(asyncio.ensure_future(beat.run()).cancel)
    server = OpsServer(
        host=settings.host,
        port=settings.port,
        registry=numbers.registry,
        jwks=numbers.jwks,
        alive=lambda: beat.fresh() and numbers.alive(),
        ready=numbers.ready,
    )
    stack.push_async_callback(asyncio.to_thread, server.close)
    return _address(settings.host, server.port)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Beat:
    """Whether the parent's own event loop turns."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    async def run(self) -> None:
        while True:
            self._last = time.monotonic()
            await asyncio.sleep(1)

    def fresh(self) -> bool:
        return time.monotonic() - self._last < _HANGS_AFTER


class _Signals:
    """SIGHUP replaces the workers; the first SIGTERM or SIGINT ends; the second does what it does by default.

    While starting, the first cancels the task. When the parent ends of the second, workers see it gone and end, too.
    """

    def __init__(self) -> None:
        self.ending = False
        self._task = asyncio.current_task()
        self._waiting = False
        self._news = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._news.set)

    async def wait(self) -> bool:
        """Wait for a signal; True to replace the workers, False to end."""
        self._waiting = True
        await self._news.wait()
        self._news.clear()
        return not self.ending

    def _end(self) -> None:
        self.ending = True
        self._news.set()
        if not self._waiting and self._task is not None:
            self._task.cancel()
        for number in _ENDING:
            asyncio.get_running_loop().remove_signal_handler(number)


def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder of our own, mode 0700, for the workers' sockets: in memory where the file system is read-only.

    Raises:
        CannotRun: there is no place for one.

    """
    try:
        return tempfile.TemporaryDirectory(prefix="gatelodge-")
    except FileNotFoundError:
        pass
    try:
        return tempfile.TemporaryDirectory(prefix="gatelodge-", dir=_MEMORY)
    except OSError as error:
        raise CannotRun(
            "several workers need a folder for their sockets, and nothing is writable: mount one at /tmp, or name one "
            "in TMPDIR"
        ) from error
