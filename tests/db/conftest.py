"""A real PostgreSQL for the session, shared by parallel runs; a database cloned from the migrated template per test."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest
import pytest_asyncio

from service.db import Database, PoolOptions, clone, migrations
from service.db.embedded import EmbeddedPostgres
from service.db.embedded_home import find_home

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from service.db import Connection


def cache() -> Path:
    """In memory where that may hold programs, else on disk."""
    memory = Path("/dev/shm")
    fit = memory.is_dir() and os.access(memory, os.W_OK) and not os.statvfs(memory).f_flag & os.ST_NOEXEC
    return (memory if fit else Path("/var/tmp")) / f"gatelodge-tests-{os.geteuid()}"


def forget(data_dir: Path) -> None:
    """Remove what a stopped instance left."""
    home = find_home(data_dir, cache())
    shutil.rmtree(home.folder)
    with suppress(OSError):
        home.sockets.rmdir()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The embedded PostgreSQL, or the one of this machine whose superuser TEST_DATABASE_URL names."""
    server = EmbeddedPostgres(cache() / "shared", durable=False, cache_dir=cache())
    outside = os.environ.get("TEST_DATABASE_URL")
    url = outside or asyncio.run(server.start())
    with psycopg.connect(url, autocommit=True) as conn:
        for (name,) in conn.execute("SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%'").fetchall():
            if not alive(int(name.split("_")[1])):  # of a run that was killed
                conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    yield url
    if not outside:
        asyncio.run(server.stop())


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    return asyncio.run(clone.template(server_url, migrations.load(migrations.folder())))


@pytest_asyncio.fixture(scope="session")
async def maker(server_url: str) -> AsyncIterator[Connection]:
    """The connection on which databases are made and dropped."""
    async with await psycopg.AsyncConnection.connect(server_url, autocommit=True) as connection:
        yield connection


@pytest_asyncio.fixture
async def url(server_url: str, template: str, maker: Connection) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    async with copied(server_url, maker, template) as url:
        yield url


@pytest_asyncio.fixture
async def empty_url(server_url: str, maker: Connection) -> AsyncIterator[str]:
    """An empty database of the test's own."""
    async with copied(server_url, maker, "template0") as url:
        yield url


@asynccontextmanager
async def copied(server_url: str, maker: Connection, source: str) -> AsyncIterator[str]:
    """Have a copy of the database `source` as long as the block lasts."""
    name = f"test_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    await clone.copy(maker, source, name)
    yield clone.at(server_url, name)
    await clone.remove(maker, name)


@pytest_asyncio.fixture
async def conn(url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=0) as connection:
        yield connection


@pytest_asyncio.fixture
async def admin(server_url: str) -> AsyncIterator[Connection]:
    """A connection beside the one under test."""
    async with await psycopg.AsyncConnection.connect(server_url, autocommit=True) as connection:
        yield connection


@pytest_asyncio.fixture
async def db(url: str) -> AsyncIterator[Database]:
    async with Database(url, PoolOptions(min_size=2, max_size=4)) as database:
        yield database


class Fragile(NamedTuple):
    server: EmbeddedPostgres
    url: str


@pytest_asyncio.fixture
async def fragile(tmp_path: Path) -> AsyncIterator[Fragile]:
    """A server of the test's own, to be killed."""
    server = EmbeddedPostgres(tmp_path, durable=False, cache_dir=cache())
    yield Fragile(server, await server.start())
    await server.stop()
    forget(tmp_path)
