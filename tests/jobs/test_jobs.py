"""Jobs run when they are due, once in the whole cluster, and outlive the process that ran them. Time moves by SQL."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import structlog.testing

from service.db import Answers, Database
from service.jobs import Job, Jobs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.db import Connection

HOUR = timedelta(hours=1)
LEASE = timedelta(seconds=30)


@dataclass
class Meter:
    success: dict[str, float] = field(default_factory=dict)
    outcomes: list[str] = field(default_factory=list)

    def known(self, job: str, at: float) -> None:
        self.success[job] = at

    def ran(self, job: str, outcome: str, seconds: float) -> None:
        assert job == "test.count"
        assert seconds >= 0
        self.outcomes.append(outcome)


@dataclass
class Work:
    """What the job does: counts, waits, fails."""

    begun: int = 0
    ended: int = 0
    cancelled: int = 0
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    async def __call__(self) -> int:
        self.begun += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        self.ended += 1
        return 7


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def job(work: Work) -> Job:
    return Job("test.count", HOUR, work)


def runner(db: Database, name: str = "one", lease: timedelta = LEASE, meter: Meter | None = None) -> Jobs:
    return Jobs(database=db, instance=name, meter=meter or Meter(), lease=lease)


async def due(conn: Connection) -> None:
    await conn.execute("UPDATE jobs SET next_run_time = now() - interval '1 second'")


async def expire(conn: Connection) -> None:
    await conn.execute("UPDATE jobs SET lease_expire_time = now() - interval '1 second'")


async def row(conn: Connection, columns: str) -> tuple[object, ...] | None:
    cursor = await conn.execute(f"SELECT {columns} FROM jobs".encode())
    return await cursor.fetchone()


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    async with asyncio.timeout(20):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.01)


async def test_a_job_runs_when_it_is_due_and_not_before(db: Database, conn: Connection, work: Work, job: Job) -> None:
    work.go_on.set()
    jobs = runner(db)
    await jobs.enrol(job)
    assert not await jobs.turn(job)
    await due(conn)
    assert await jobs.turn(job)
    assert not await jobs.turn(job)
    assert (work.ended, await row(conn, "runs, failures, holder")) == (1, (1, 0, None))
    assert await row(conn, "next_run_time - last_success_time") == (HOUR,)


async def test_ten_runners_at_once_run_it_once(db: Database, conn: Connection, work: Work, job: Job) -> None:
    work.go_on.set()
    runners = [runner(db, str(number)) for number in range(10)]
    await asyncio.gather(*(jobs.enrol(job) for jobs in runners))
    await due(conn)
    assert sum(await asyncio.gather(*(jobs.turn(job) for jobs in runners))) == work.ended == 1


async def test_while_it_runs_nobody_else_runs_it_however_long_it_takes(
    db: Database, conn: Connection, work: Work, job: Job
) -> None:
    lease = timedelta(seconds=0.6)
    one, other = runner(db, "one", lease), runner(db, "other", lease)
    await one.enrol(job)
    await due(conn)
    running = asyncio.ensure_future(one.turn(job))
    await until(lambda: work.begun == 1)
    for _ in range(4):
        await asyncio.sleep(0.3)  # twice the lease in all: without renewals it would be over
        assert not await other.turn(job)
    work.go_on.set()
    assert await running
    assert (work.begun, work.ended) == (1, 1)


async def test_when_its_runner_is_gone_another_takes_over_after_the_lease(
    db: Database, conn: Connection, work: Work, job: Job
) -> None:
    one, other = runner(db, "one"), runner(db, "other")
    await one.enrol(job)
    await due(conn)
    gone = asyncio.ensure_future(one.turn(job))
    await until(lambda: work.begun == 1)
    assert not await other.turn(job)
    await expire(conn)
    successor = Work()
    successor.go_on.set()
    taken = asyncio.ensure_future(other.turn(Job(job.name, HOUR, successor)))
    await until(lambda: successor.ended == 1)
    work.go_on.set()
    assert await gone
    assert await taken
    assert await row(conn, "runs, failures") == (1, 0), "the one that lost its lease ended the other's run"


async def test_a_runner_that_lost_its_lease_breaks_the_work_off(
    db: Database, conn: Connection, work: Work, job: Job
) -> None:
    meter = Meter()
    one = runner(db, "one", timedelta(seconds=0.3), meter)
    await one.enrol(job)
    await due(conn)
    running = asyncio.ensure_future(one.turn(job))
    await until(lambda: work.begun == 1)
    await conn.execute("UPDATE jobs SET holder = 'other', lease_expire_time = now() + interval '1 hour'")
    assert await running
    assert (work.cancelled, meter.outcomes) == (1, ["lost"])
    assert await row(conn, "holder, runs") == ("other", 0)


async def test_a_lease_that_cannot_be_renewed_in_time_breaks_the_work_off(
    db: Database, conn: Connection, work: Work, job: Job
) -> None:
    one = runner(db, "one", timedelta(seconds=0.6))
    await one.enrol(job)
    await due(conn)
    running = asyncio.ensure_future(one.turn(job))
    await until(lambda: work.begun == 1)
    async with conn.transaction():
        await conn.execute("LOCK TABLE jobs")
        async with asyncio.timeout(20):
            assert await running
    assert work.cancelled == 1


async def test_a_job_that_fails_is_told_of_and_soon_tried_again(
    db: Database, conn: Connection, work: Work, job: Job
) -> None:
    meter = Meter()
    work.error = ValueError("a secret value")
    work.go_on.set()
    jobs = runner(db, meter=meter)
    await jobs.enrol(job)
    await due(conn)
    with structlog.testing.capture_logs() as lines:
        assert await jobs.turn(job)
    assert [(line["event"], line["log_level"]) for line in lines if line["log_level"] == "error"] == [
        ("job failed", "error")
    ]
    assert await row(conn, "runs, failures, last_error, holder") == (1, 1, "ValueError", None)
    assert await row(conn, "next_run_time - last_run_time") == (timedelta(minutes=1),)
    work.error = None
    await due(conn)
    assert await jobs.turn(job)
    assert await row(conn, "runs, failures, last_error") == (2, 1, None)
    assert meter.outcomes == ["failure", "success"]


async def test_a_process_that_stops_gives_its_job_back_at_once(
    db: Database, conn: Connection, work: Work, job: Job
) -> None:
    one, other = runner(db, "one"), runner(db, "other")
    await one.enrol(job)
    await due(conn)
    running = asyncio.ensure_future(one.turn(job))
    await until(lambda: work.begun == 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert work.cancelled == 1
    work.go_on.set()
    assert await other.turn(job)


async def test_a_shorter_interval_holds_at_once_and_the_last_success_is_known_after_a_restart(
    db: Database, conn: Connection, work: Work, job: Job
) -> None:
    work.go_on.set()
    jobs, meter = runner(db), Meter()
    await jobs.enrol(job)
    await due(conn)
    await jobs.turn(job)
    await runner(db, meter=meter).enrol(Job(job.name, timedelta(minutes=1), work))
    assert await row(conn, "next_run_time < now() + interval '61 seconds', every") == (True, timedelta(minutes=1))
    assert meter.success["test.count"] > 0


async def test_a_kept_job_is_looked_at_again_and_again_at_irregular_times(
    db: Database, conn: Connection, work: Work, job: Job
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await due(conn)

    work.go_on.set()
    jobs = Jobs(database=db, instance="one", meter=Meter(), poll=4, sleep=sleep, random=iter((0.0, 0.5, 1.0)).__next__)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await jobs.keep(job)
    assert (slept, work.ended) == ([2.0, 4.0, 6.0], 3)


async def test_expired_answers_are_pruned_in_batches_and_the_others_kept(db: Database, conn: Connection) -> None:
    await conn.execute(
        "INSERT INTO idempotency_keys (caller, request_id, method, fingerprint, create_time)"
        " SELECT 'ada', gen_random_uuid(), 'm', decode(repeat('00', 32), 'hex'), now() - n * interval '1 hour'"
        " FROM generate_series(1, 33) AS n"
    )
    assert await Answers(db).prune(batch=4) == 10
    cursor = await conn.execute("SELECT max(create_time) IS NOT NULL, count(*) FROM idempotency_keys")
    assert await cursor.fetchone() == (True, 23)
    assert await Answers(db).prune() == 0
