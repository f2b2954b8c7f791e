"""Migrations beside a service at work: short waits for locks, whole files, runs that exclude each other and may die.

The runs are those of the ``gatelodge`` command, in processes of their own, with migrations of the test's.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.app.conftest import environment
from tests.app.release import Release, of_the_checkout

from service.db.migrations import MigrationError, Patience, load, up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from service.db import Connection

pytestmark = pytest.mark.asyncio

LOCK_SECONDS = Patience().at_a_time
SLACK = 0.5


@dataclass
class Run:
    """A ``gatelodge migrate`` at work."""

    process: asyncio.subprocess.Process

    async def said(self, text: str) -> None:
        """Wait until its standard error has a line with `text`."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while text not in (line := (await self.process.stderr.readline()).decode()):
                assert line, "it ended"

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def end(self) -> str:
        """Wait for a good end and return what it printed."""
        async with asyncio.timeout(30):
            out, err = await self.process.communicate()
        assert self.process.returncode == 0, err.decode()
        return out.decode()


@dataclass
class Bench:
    """An empty database, and a release whose migrations are the test's."""

    release: Release
    url: str

    async def migrate(self) -> Run:
        environ = environment(self.url, self.release.folder, DATABASE__MIGRATE_ON_START="false")
        process = await asyncio.create_subprocess_exec(
            *self.release.command,
            "migrate",
            env={"PATH": "/usr/bin:/bin", **environ, **self.release.environ},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return Run(process)

    @asynccontextmanager
    async def connected(self, *, autocommit: bool = True) -> AsyncIterator[Connection]:
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=autocommit) as conn:
            yield conn

    async def runner(self, conn: Connection, waiting_for: str) -> int:
        """Wait until a run's session waits for an event of this type; return its process id."""
        sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'gatelodge-migrate' AND wait_event_type = %s"
        async with asyncio.timeout(20):
            while (row := await (await conn.execute(sql.encode(), (waiting_for,))).fetchone()) is None:
                await asyncio.sleep(0.01)
        return int(row[0])


@pytest.fixture
def bench(empty_url: str, tmp_path: Path) -> Bench:
    release = of_the_checkout(tmp_path / "release")
    for path in release.migrations.glob("*.sql"):
        path.unlink()
    release.add_migration("a", "CREATE TABLE a (n int)")
    return Bench(release, empty_url)


async def longest_read(conn: Connection, until: asyncio.Event) -> float:
    """Read the table again and again; return the seconds of the slowest read."""
    longest = 0.0
    while not until.is_set():
        start = time.monotonic()
        await conn.execute(b"SELECT count(*) FROM a")
        longest = max(longest, time.monotonic() - start)
        await asyncio.sleep(0.005)
    return longest


@pytest.mark.faults
async def test_a_migration_behind_a_long_transaction_lets_readers_pass_and_does_not_give_up(bench: Bench) -> None:
    await (await bench.migrate()).end()
    bench.release.add_migration("b", "ALTER TABLE a ADD COLUMN m int")
    async with bench.connected() as reader, bench.connected(autocommit=False) as long:
        await long.execute(b"SELECT count(*) FROM a")
        done = asyncio.Event()
        reads = asyncio.create_task(longest_read(reader, done))
        run = await bench.migrate()
        await run.said("0002_b.sql waits for a lock")
        await run.said("0002_b.sql waits for a lock")
        await long.rollback()
        assert "applied 0002_b.sql" in await run.end()
        done.set()
        assert LOCK_SECONDS - SLACK < await reads < LOCK_SECONDS + SLACK


@pytest.mark.faults
async def test_a_step_outside_of_a_transaction_waits_in_the_same_way(bench: Bench) -> None:
    await (await bench.migrate()).end()
    bench.release.add_migration("b", "-- gatelodge: no-transaction\nALTER TABLE a ADD COLUMN IF NOT EXISTS m int;")
    async with bench.connected(autocommit=False) as long:
        await long.execute(b"SELECT count(*) FROM a")
        run = await bench.migrate()
        await run.said("0002_b.sql waits for a lock")
        await long.rollback()
        assert "applied 0002_b.sql" in await run.end()


async def test_a_concurrent_index_outwaits_a_long_transaction(bench: Bench) -> None:
    await (await bench.migrate()).end()
    text = "-- gatelodge: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a_n ON a (n);"
    bench.release.add_migration("b", text)
    async with bench.connected() as conn, bench.connected(autocommit=False) as long:
        await long.execute(b"INSERT INTO a VALUES (1)")
        run = await bench.migrate()
        await bench.runner(conn, "Lock")
        await asyncio.sleep(LOCK_SECONDS + SLACK)
        await long.commit()
        assert "applied 0002_b.sql" in await run.end()
        assert await valid(conn, "a_n")


async def test_a_lock_that_never_comes_ends_the_run_with_nothing_kept(empty_url: str, tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("CREATE TABLE a (n int)")
    impatient = Patience(at_a_time=0.05, pause=0.05, altogether=0.3)
    async with (
        await psycopg.AsyncConnection.connect(empty_url, autocommit=True) as conn,
        await psycopg.AsyncConnection.connect(empty_url) as long,
    ):
        await up(conn, load(tmp_path))
        await long.execute(b"SELECT count(*) FROM a")
        (tmp_path / "0002_b.sql").write_text("CREATE TABLE b (); ALTER TABLE a ADD COLUMN m int")
        with pytest.raises(MigrationError, match=r"0002_b\.sql failed, nothing of it was kept: LockNotAvailable"):
            await up(conn, load(tmp_path), locks=impatient)
        assert await (await conn.execute(b"SELECT to_regclass('b')")).fetchone() == (None,)
        assert await (await conn.execute(b"SHOW lock_timeout")).fetchone() == ("0",)


async def test_of_two_runs_at_once_one_applies_and_the_other_finds_nothing_to_do(bench: Bench) -> None:
    bench.release.add_migration("b", "SELECT pg_sleep(1); CREATE TABLE b ()")
    answers = [await run.end() for run in (await bench.migrate(), await bench.migrate())]
    assert sorted(answer.count("applied 000") for answer in answers) == [0, 2]
    assert all("the schema is up to date: 2 migrations applied" in answer for answer in answers)


async def test_a_run_killed_half_way_through_a_file_leaves_nothing_of_it_and_the_next_one_finishes(
    bench: Bench,
) -> None:
    await (await bench.migrate()).end()
    bench.release.add_migration("b", "CREATE TABLE b (); SELECT pg_sleep(1)")
    async with bench.connected() as conn:
        run = await bench.migrate()
        await bench.runner(conn, "Timeout")
        await run.kill()
        rerun = await bench.migrate()
        assert "applied 0002_b.sql" in await rerun.end()
        assert await (await conn.execute(b"SELECT count(*) FROM schema_migrations")).fetchone() == (2,)


@pytest.mark.parametrize("session_dies", [False, True])
async def test_a_run_killed_while_it_builds_an_index_is_finished_by_the_next_one(
    bench: Bench, *, session_dies: bool
) -> None:
    await (await bench.migrate()).end()
    text = "-- gatelodge: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a_n ON a (n);"
    bench.release.add_migration("b", text)
    async with bench.connected() as conn, bench.connected(autocommit=False) as long:
        await long.execute(b"INSERT INTO a VALUES (1)")
        run = await bench.migrate()
        session = await bench.runner(conn, "Lock")
        await run.kill()
        if session_dies:  # else PostgreSQL goes on building, and the next run waits until it is through
            await conn.execute(b"SELECT pg_terminate_backend(%s, 5000)", (session,))
        assert not await valid(conn, "a_n")
        rerun = await bench.migrate()
        await asyncio.sleep(0.5)
        await long.commit()
        assert "applied 0002_b.sql" in await rerun.end()
        assert await valid(conn, "a_n")


async def valid(conn: Connection, index: str) -> bool:
    cursor = await conn.execute(b"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (index,))
    return await cursor.fetchone() == (True,)
