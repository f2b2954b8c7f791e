"""Migrations: one runner at a time, whole files only, a history that can not be rewritten."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import pytest
import pytest_asyncio

from service.db import migrations
from service.db.migration_files import statements_of
from service.db.migrations import MigrationError, load, pending, status, up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from service.db import Connection
    from service.db.migrations import Migration

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def empty(empty_url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(empty_url, autocommit=True) as conn:
        yield conn


def files(folder: Path, **texts: str) -> tuple[Migration, ...]:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name.removeprefix('m')}.sql").write_text(text)
    return load(folder)


async def tables(conn: Connection) -> set[str]:
    sql = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')"
    return {name for (name,) in await (await conn.execute(sql)).fetchall()}


async def test_the_repositorys_migrations_apply_and_applying_them_again_does_nothing(empty: Connection) -> None:
    ours = load(migrations.folder())
    told: list[str] = []
    assert await pending(empty, ours) == ours
    done = await up(empty, ours, on_applied=lambda migration, _seconds: told.append(migration.file))
    assert told == [migration.file for migration in ours]
    assert [row.version for row in done.applied] == [migration.version for migration in ours]
    again = await up(empty, ours, on_applied=lambda *_: pytest.fail("applied twice"))
    assert (again.pending, again.unknown) == ((), ())
    sql = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    sql += " AND obj_description(oid) IS NULL"
    assert await (await empty.execute(sql.encode())).fetchall() == [("schema_migrations",)]


async def test_a_dry_run_changes_nothing(empty: Connection) -> None:
    await pending(empty, load(migrations.folder()))
    assert await tables(empty) == set()


async def test_two_runners_at_once_apply_each_file_once(empty_url: str, tmp_path: Path) -> None:
    ours = files(tmp_path, m0001_a="CREATE TABLE a (); SELECT pg_sleep(0.2)", m0002_b="CREATE TABLE b ()")
    told: list[str] = []

    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(empty_url, autocommit=True) as conn:
            await up(conn, ours, on_applied=lambda migration, _: told.append(migration.file))

    await asyncio.gather(run(), run(), run())
    assert told == ["0001_a.sql", "0002_b.sql"]


async def test_a_runner_does_not_wait_for_ever(empty: Connection, empty_url: str, tmp_path: Path) -> None:
    async with await psycopg.AsyncConnection.connect(empty_url) as other:
        await other.execute("SELECT pg_advisory_lock(%s)", (migrations._LOCK,))
        with pytest.raises(MigrationError, match="another migration run"):
            await up(empty, files(tmp_path), patience=0.2)


async def test_an_index_is_built_concurrently_while_another_runner_waits(empty_url: str, tmp_path: Path) -> None:
    ours = files(
        tmp_path,
        m0001_a="CREATE TABLE a (n int)",
        m0002_b="-- gatelodge: no-transaction\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS a_n ON a (n);\nSELECT pg_sleep(0.2); -- a; comment\n",
        m0003_c="-- gatelodge: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a_n2 ON a (n)",
    )

    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(empty_url, autocommit=True) as conn:
            await up(conn, ours)
            assert {"a_n", "a_n2"} <= await tables(conn)

    await asyncio.gather(run(), run())


async def test_an_invalid_index_of_a_killed_run_is_built_anew(empty: Connection, tmp_path: Path) -> None:
    await empty.execute("CREATE TABLE a (n int)")
    await empty.execute("INSERT INTO a VALUES (1), (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        await empty.execute("CREATE UNIQUE INDEX CONCURRENTLY a_n ON a (n)")
    assert "a_n" in await tables(empty)
    text = "-- gatelodge: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a_n ON a (n);"
    await up(empty, files(tmp_path, m0001_a=text))
    sql = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_n'::regclass"
    assert await (await empty.execute(sql)).fetchone() == (True,)


async def test_a_failing_file_leaves_nothing_and_the_ones_before_it_stay(empty: Connection, tmp_path: Path) -> None:
    ours = files(tmp_path, m0001_a="CREATE TABLE a ()", m0002_b="CREATE TABLE b (); SELECT 1 / 0")
    with pytest.raises(MigrationError, match="DivisionByZero"):
        await up(empty, ours)
    assert await tables(empty) == {"a", "schema_migrations", "schema_migrations_pkey"}
    assert [migration.file for migration in await pending(empty, ours)] == ["0002_b.sql"]


async def test_a_run_killed_half_way_is_clean_and_the_next_one_finishes(
    empty: Connection, empty_url: str, tmp_path: Path
) -> None:
    ours = files(tmp_path, m0001_a="CREATE TABLE a ()", m0002_b="CREATE TABLE b (); SELECT pg_sleep(1.0)")
    victim = await psycopg.AsyncConnection.connect(empty_url, autocommit=True)
    applied = asyncio.Event()
    run = asyncio.create_task(up(victim, ours, on_applied=lambda *_: applied.set()))
    await applied.wait()
    await asyncio.sleep(0.1)
    await empty.execute("SELECT pg_terminate_backend(%s, 1000)", (victim.info.backend_pid,))
    with pytest.raises(MigrationError, match="AdminShutdown"):
        await run
    with suppress(psycopg.Error):
        await victim.close()
    assert "b" not in await tables(empty)
    assert (await up(empty, ours)).pending == ()
    assert "b" in await tables(empty)


async def test_an_applied_file_can_not_be_changed_or_renamed(empty: Connection, tmp_path: Path) -> None:
    await up(empty, files(tmp_path, m0001_a="CREATE TABLE a ()"))
    with pytest.raises(MigrationError, match=r"0001_a\.sql was changed after it was applied"):
        await up(empty, files(tmp_path, m0001_a="CREATE TABLE a (n int)"))
    (tmp_path / "0001_a.sql").unlink()
    with pytest.raises(MigrationError, match="applied under the name 'a'"):
        await status(empty, files(tmp_path, m0001_b="CREATE TABLE a ()"))


async def test_line_ends_do_not_change_a_checksum(tmp_path: Path) -> None:
    (unix,) = files(tmp_path, m0001_a="SELECT 1;\nSELECT 2;\n")
    (tmp_path / "0001_a.sql").write_bytes(b"SELECT 1;\r\nSELECT 2;\r\n")
    assert load(tmp_path)[0].checksum == unix.checksum


async def test_a_newer_releases_migrations_are_tolerated_and_reported(empty: Connection, tmp_path: Path) -> None:
    newer = files(tmp_path, m0001_a="CREATE TABLE a ()", m0002_b="CREATE TABLE b ()")
    await up(empty, newer)
    assert [row.name for row in (await up(empty, newer[:1])).unknown] == ["b"]


async def test_a_file_below_an_applied_one_that_was_never_applied_is_an_error(
    empty: Connection, tmp_path: Path
) -> None:
    ours = files(tmp_path, m0001_a="CREATE TABLE a ()", m0002_b="CREATE TABLE b ()")
    await up(empty, ours)
    await empty.execute("DELETE FROM schema_migrations WHERE version = 1")
    with pytest.raises(MigrationError, match=r"0001_a\.sql was never applied"):
        await status(empty, ours)


async def test_a_file_that_ends_its_own_transaction_is_refused(empty: Connection, tmp_path: Path) -> None:
    with pytest.raises((MigrationError, psycopg.Error), match=r"ends its own transaction"):
        await up(empty, files(tmp_path, m0001_a="CREATE TABLE a (); COMMIT;"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["m0001_a", "m0001_b"], "two migrations have the number 0001"),
        (["m0001_a", "m0003_b"], r"no migration 0002 before 0003_b\.sql"),
        (["m1_a"], "not named like"),
    ],
)
async def test_bad_numbering_is_told(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(MigrationError, match=message):
        files(tmp_path, **dict.fromkeys(names, "SELECT 1"))


async def test_scripts_are_split_outside_of_strings_comments_and_bodies() -> None:
    pieces = [
        "SELECT ';', E'\\';', \"a;b\";",
        " -- ; a comment\n/* ; */ CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $x$ SELECT 1; $x$;",
        " SELECT 'it''s;'",
    ]
    assert list(statements_of("".join(pieces))) == pieces
    assert list(statements_of("SELECT 1;\n-- the end\n")) == ["SELECT 1;"]
