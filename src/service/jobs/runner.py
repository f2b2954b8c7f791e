"""Runs jobs when they are due, each in one process at a time, by leases in the database."""

from __future__ import annotations

import asyncio
import random as _random
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from service.errors import DomainError, Retryable
from service.jobs.statements import ENROL, FAIL, FINISH, GIVE_BACK, RENEW, TAKE
from service.telemetry.logging import logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.db import Database

_log = logger("gatelodge.jobs")

_RETRY = timedelta(minutes=1)
"""After a failure a job is due again this soon, or after its interval if that is shorter."""
_RENEWALS = 3
"""How often a lease is renewed in the time it lasts."""
_LEAVE = 2.0
"""Seconds that giving a lease back may take when the process stops. It runs out by itself."""


@dataclass(frozen=True, slots=True)
class Job:
    """Work that is due every `every`."""

    name: str
    """``feature.verb``; unique in the cluster, and a label of metrics."""
    every: timedelta
    run: Callable[[], Awaitable[int]]
    """Does it and returns how many things were done. May be cancelled, and done twice."""


class JobMeter(Protocol):
    """What measures jobs."""

    def known(self, job: str, at: float) -> None:
        """Note that the job exists and last succeeded at `at`, Unix seconds; 0: never."""

    def ran(self, job: str, outcome: str, seconds: float) -> None:
        """Count a run that took `seconds`; `outcome` is ``success``, ``failure`` or ``lost``."""


class LeaseLost(Exception):
    """The run was broken off: its lease could not be renewed, so another process may be running the job."""


class Jobs:
    """The runner of one process. Give each job's `keep` to a supervisor.

    Args:
        database: where the leases are.
        instance: what tells this process from others, in the table and the log.
        meter: is told of each run.
        lease: how long after a process died another one takes its job over.
        poll: seconds between looks at what is due, give or take a half.
        sleep: waits, seconds.
        random: gives [0, 1).
        clock: seconds, monotonic.

    """

    def __init__(
        self,
        *,
        database: Database,
        instance: str,
        meter: JobMeter,
        lease: timedelta = timedelta(seconds=30),
        poll: float = 5.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._instance = instance
        self._meter = meter
        self._lease = lease
        self._poll = poll
        self._sleep = sleep
        self._random = random
        self._clock = clock

    async def keep(self, job: Job) -> None:
        """Run the job whenever it is due, until cancelled. While the database is away nothing is."""
        enrolled = False
        while True:
            try:
                if not enrolled:
                    await self.enrol(job)
                    enrolled = True
                await self.turn(job)
            except Retryable as error:
                _log.warning("jobs wait for the database", job=job.name, reason=error.reason)
            await self._sleep(self._poll * (0.5 + self._random()))

    async def enrol(self, job: Job) -> None:
        """Make the job known; it is due after one interval, unless it was known before."""
        row = await self._database.transact(lambda conn: ENROL.one(conn, name=job.name, every=job.every))
        self._meter.known(job.name, row.last_success_time.timestamp() if row.last_success_time else 0.0)

    async def turn(self, job: Job) -> bool:
        """Run the job if it is due and nobody runs it; tell whether it was run.

        Raises:
            Retryable: the database is away.

        """
        # No two runs have the same holder, so that one that lost its lease cannot end that of the next.
        lease = _Lease(self._database, job.name, f"{self._instance}/{_random.getrandbits(64):016x}", self._lease)
        asked = self._clock()
        if not await lease.take():
            return False
        _log.debug("job begins", job=job.name, holder=lease.holder)
        await self._run(job, lease, asked)
        return True

    async def _run(self, job: Job, lease: _Lease, asked: float) -> None:
        started = self._clock()
        try:
            done = await self._held(job, lease, asked + self._lease.total_seconds())
        except asyncio.CancelledError:
            await lease.leave()
            raise
        except LeaseLost:
            self._meter.ran(job.name, "lost", self._clock() - started)
            _log.warning("job broken off: its lease is lost", job=job.name, holder=lease.holder)
        except Exception as error:  # noqa: BLE001 - logged with its stack; the job is tried again
            self._meter.ran(job.name, "failure", self._clock() - started)
            _log.exception("job failed", job=job.name)
            await lease.fail(_kind(error))
        else:
            seconds = self._clock() - started
            self._meter.ran(job.name, "success", seconds)
            _log.info("job done", job=job.name, count=done, duration_ms=round(seconds * 1000))
            await lease.finish()

    async def _held(self, job: Job, lease: _Lease, until: float) -> int:
        """Run the job while the lease is held; `until` is when it runs out, on the clock.

        Raises:
            LeaseLost: it is not.

        """
        work = asyncio.ensure_future(job.run())
        try:
            while True:
                await asyncio.wait({work}, timeout=self._lease.total_seconds() / _RENEWALS)
                if work.done():
                    return work.result()
                asked = self._clock()
                if await lease.renew(within=until - asked):
                    until = asked + self._lease.total_seconds()
                elif self._clock() >= until:
                    raise LeaseLost
        finally:
            work.cancel()
            await asyncio.wait({work})


class _Lease:
    """One run's right to a job."""

    def __init__(self, database: Database, name: str, holder: str, length: timedelta) -> None:
        self._database = database
        self._name = name
        self.holder = holder
        self._length = length

    async def take(self) -> bool:
        row = await self._database.transact(
            lambda conn: TAKE.optional(conn, name=self._name, holder=self.holder, lease=self._length)
        )
        return row is not None

    async def renew(self, within: float) -> bool:
        """Renew the lease; False if that could not be done in time, which another try may mend.

        Raises:
            LeaseLost: it is over.

        """
        try:
            async with asyncio.timeout(max(within, 0.0)):
                row = await self._database.transact(
                    lambda conn: RENEW.optional(conn, name=self._name, holder=self.holder, lease=self._length)
                )
        except (DomainError, TimeoutError):
            return False
        if row is None:
            raise LeaseLost
        return True

    async def finish(self) -> None:
        await self._database.transact(lambda conn: FINISH.execute(conn, name=self._name, holder=self.holder))

    async def fail(self, error: str) -> None:
        await self._database.transact(
            lambda conn: FAIL.execute(conn, name=self._name, holder=self.holder, retry=_RETRY, error=error)
        )

    async def leave(self) -> None:
        with suppress(DomainError, TimeoutError):
            async with asyncio.timeout(_LEAVE):
                await self._database.transact(lambda conn: GIVE_BACK.execute(conn, name=self._name, holder=self.holder))


def _kind(error: Exception) -> str:
    """Name the failure. Its text is for the log, which takes values out."""
    return error.reason if isinstance(error, DomainError) else type(error).__qualname__
