"""Databases made from a migrated template: milliseconds each, for tests and for the SQL proof."""

from __future__ import annotations

from typing import TYPE_CHECKING, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from service.db import migrations as runner
from service.db.migration_files import digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.db.migration_files import Migration
    from service.db.statement import Connection

_LOCK = 0x7465_6D70_6C61_7465  # "template"


def at(conninfo: str, database: str) -> str:
    """Return `conninfo` with another database's name."""
    return make_conninfo("", **{**conninfo_to_dict(conninfo), "dbname": database})


async def template(conninfo: str, migrations: Sequence[Migration]) -> str:
    """Return the name of a database with all `migrations` applied, made unless it is there. Safe to race for.

    Raises:
        MigrationError, psycopg.Error: as `migrations.up`.

    """
    name = f"template_{digest(migrations)[:16]}"
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        await conn.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        cursor = await conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        if await cursor.fetchone() is None:
            await _make_template(conn, conninfo, name, migrations)
    return name


async def _make_template(conn: Connection, conninfo: str, name: str, migrations: Sequence[Migration]) -> None:
    scratch = f"{name}_making"
    await drop(conninfo, scratch)
    await _execute(conn, "CREATE DATABASE {}", scratch)
    async with await psycopg.AsyncConnection.connect(at(conninfo, scratch), autocommit=True) as inside:
        await runner.up(inside, migrations)
    await _execute(conn, "ALTER DATABASE {} RENAME TO {}", scratch, name)


async def clone(conninfo: str, source: str, name: str) -> str:
    """Make database `name` a copy of `source`, to which nobody is connected; return its conninfo."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        await copy(conn, source, name)
    return at(conninfo, name)


async def copy(conn: Connection, source: str, name: str) -> None:
    """As `clone`, on a connection that is there."""
    await _execute(conn, "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, source)


async def drop(conninfo: str, name: str) -> None:
    """Drop database `name` if it is there, whoever is connected to it."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        await remove(conn, name)


async def remove(conn: Connection, name: str) -> None:
    """As `drop`, on a connection that is there."""
    await _execute(conn, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


async def _execute(conn: Connection, text: LiteralString, *names: str) -> None:
    await conn.execute(sql.SQL(text).format(*map(sql.Identifier, names)))
