"""The serving process: logs on, service up, wait for a signal, drain, out."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import uvloop

from service import tuning
from service.app import running
from service.build import this_build
from service.errors import CannotRun, DomainError
from service.greeting import greeting
from service.rpc.loop import Loop
from service.telemetry import logging
from service.waits import until_any

if TYPE_CHECKING:
    from service.app import App
    from service.settings import Settings

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = logging.logger("gatelodge.process")


def run_server(settings: Settings) -> int:
    """Serve, and return the exit status. Raises as `running`."""
    tuning.take_turns()
    version = this_build().version
    logs = logging.configure(settings.log, service="gatelodge", version=version, stream=sys.stderr)
    try:
        uvloop.run(serve(settings), loop_factory=Loop)
    finally:
        logs.close()  # after the loop, which has the last tasks end: what they say is logged, too
    return 0


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends the process at once. Raises as `running`."""
    stop = _Stop()
    # Until there is something to reload: by default the signal kills.
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)
    try:
        _log.info("starting", commit=this_build().commit, env=settings.env, pid=os.getpid(), loop=_loop())
        async with running(settings, built=tuning.started) as app:
            _log.info("serving", address=app.address, ops_address=app.ops_address)
            if settings.log.format == "console":
                print(greeting(app.address, app.ops_address, tls=app.reload is not None), flush=True)
            reload_on_sighup(app)
            stop.started()
            await until_any(stop.wait(), app.broken())
        _log.info("stopped")
    except asyncio.CancelledError:
        if not stop.asked:
            raise
        _log.info("stopped while starting")
    except (CannotRun, DomainError):
        raise
    except Exception as error:
        _log.exception("crashed")
        raise CannotRun(f"crashed on {type(error).__name__}: the log has the cause") from error


def _loop() -> str:
    loop = asyncio.get_running_loop()
    return "uvloop" if isinstance(loop, uvloop.Loop) else type(loop).__module__.partition(".")[0]


def reload_on_sighup(app: App) -> None:
    """Make SIGHUP read the certificates again, which is all that one process can replace of itself."""

    def reload() -> None:
        if app.reload is None:
            _log.info("SIGHUP: nothing to read again without TLS")
        else:
            _log.info("SIGHUP: reading the certificates again")
            asyncio.get_running_loop().run_in_executor(None, app.reload)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)


class _Stop:
    """The first SIGTERM or SIGINT: ends a `wait`, or cancels the task while it is still starting.

    After it signals do what they do by default.
    """

    def __init__(self) -> None:
        self.asked = False
        self._starting = asyncio.current_task()
        self._event = asyncio.Event()
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._ask)

    def started(self) -> None:
        """Say that the start is over."""
        self._starting = None

    async def wait(self) -> None:
        """Wait for the signal."""
        await self._event.wait()

    def _ask(self) -> None:
        self.asked = True
        self._event.set()
        if self._starting is not None:
            self._starting.cancel()
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)
