"""A worker: the whole service on a port that it shares, told by its parent when to go."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import uvloop

from service import tuning
from service.app import running
from service.build import this_build
from service.errors import CannotRun, DomainError
from service.options import cores
from service.rpc.loop import Loop
from service.settings import SettingsError, load
from service.telemetry import logging
from service.telemetry.families import dump
from service.waits import until_any
from service.workers.channel import LEAVE, Channel, Charge, standard_input

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.app import App
    from service.settings import Settings

_log = logging.logger("gatelodge.process")


def run_worker(told: Callable[[Exception], str]) -> int:
    """Serve until the parent says otherwise, and return the exit status; `told` puts a refusal into words."""
    tuning.take_turns()
    with ExitStack() as closing:  # after the loop, which has the last tasks end: what they say is logged, too
        return uvloop.run(_work(told, closing), loop_factory=Loop)


async def _work(told: Callable[[Exception], str], closing: ExitStack) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent's to hear
    channel = await Channel.over(standard_input())
    message = await channel.hear()
    if message is None:
        return 1
    try:
        charge = Charge.load(message)
        settings = charged(load(), charge)
        closing.callback(_log_as(settings, charge.number).close)
        await _serve(settings, charge, channel)
    except (SettingsError, CannotRun, DomainError) as error:
        await channel.tell(cannot=told(error))
        return 1
    finally:
        channel.close()
    return 0


def charged(settings: Settings, charge: Charge) -> Settings:
    """Return `settings` with what the parent owns put in."""
    server, database = settings.server, settings.database
    age = min(server.max_connection_age_seconds, server.worker_connection_age_seconds)
    where = {"host": charge.host, "port": charge.port, "unix_socket": None}
    server = server.model_copy(update={**where, "max_connection_age_seconds": age})
    # The parent has brought the schema up to date.
    database = database.model_copy(update={"migrate_on_start": False})
    if charge.database_url is not None:
        database = database.model_copy(update={"url": charge.database_url})
    auth = settings.auth
    if auth.argon2.hash_threads is None:
        # Else each would take all cores for passwords.
        threads = max(1, cores() // server.workers)
        auth = auth.model_copy(update={"argon2": auth.argon2.model_copy(update={"hash_threads": threads})})
    return settings.model_copy(update={"server": server, "database": database, "auth": auth})


def _log_as(settings: Settings, number: int) -> logging.Logs:
    version = this_build().version
    return logging.configure(settings.log, service="gatelodge", version=version, stream=sys.stderr, worker=number)


async def _serve(settings: Settings, charge: Charge, channel: Channel) -> None:
    orders = _Orders(channel)
    try:
        _log.info("worker starting", pid=os.getpid())
        async with running(settings, ops_socket=charge.ops_socket, built=tuning.started) as app:
            await channel.tell(serving=app.address)
            await _until_told(orders, app)
        orders.close()
        await channel.tell(numbers=dump(app.families()))
        _log.info("worker stopped")
    except asyncio.CancelledError:
        if not orders.ending.is_set():
            raise
        _log.info("worker stopped while starting")
    except (CannotRun, DomainError):
        raise
    except Exception as error:
        _log.exception("crashed")
        raise CannotRun(f"crashed on {type(error).__name__}: the log has the cause") from error


async def _until_told(orders: _Orders, app: App) -> None:
    """Return when it is time to drain: at once, or when a successor has taken the callers over."""
    orders.started()
    await until_any(orders.any.wait(), app.broken())
    if not orders.ending.is_set():
        await until_any(app.leave(), orders.ending.wait(), app.broken())


class _Orders:
    """What the parent said. Its death is the order to drain, and while draining the order to end at once."""

    def __init__(self, channel: Channel) -> None:
        self.any = asyncio.Event()
        self.ending = asyncio.Event()
        self._starting = asyncio.current_task()
        self._listening = asyncio.ensure_future(self._listen(channel))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._end)

    def started(self) -> None:
        """Say that the start is over."""
        self._starting = None

    def close(self) -> None:
        """Hear no more."""
        self._listening.cancel()

    async def _listen(self, channel: Channel) -> None:
        while (message := await channel.hear()) is not None:
            if message["order"] == LEAVE:
                self.any.set()
            else:
                self._end()
        if self.ending.is_set():
            os._exit(1)
        _log.warning("the parent is gone")
        self._end()

    def _end(self) -> None:
        self.ending.set()
        self.any.set()
        if self._starting is not None:
            self._starting.cancel()
