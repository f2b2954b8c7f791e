"""What roles allow now, in this process's memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg

from service.db import Database, PoolOptions, migrations
from service.events.feed import Feed
from service.events.journal import Journal
from service.events.model import RoleUpdated
from service.events.record import Record
from service.roles.in_force import RolesInForce
from service.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.conftest import Fragile

    from service.db import Connection


def in_force(db: Database, *, clock: Callable[[], float] = lambda: 0.0, pause: float = 0.01) -> RolesInForce:
    record = Record(database=db)
    return RolesInForce(database=db, record=record, feed=Feed(record=record), pause=pause, clock=clock)


@asynccontextmanager
async def kept(roles: RolesInForce) -> AsyncIterator[RolesInForce]:
    async with Supervisor(patience=0.5) as tasks:
        tasks.spawn("events", roles._feed.run)
        tasks.spawn("roles", roles.keep)
        yield roles


async def until(roles: RolesInForce, *expected: str, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while roles.permissions_of(frozenset({"desk"})) != frozenset(expected):
            await asyncio.sleep(0.01)


async def define(conn: Connection, *permissions: str) -> None:
    await conn.execute(
        "INSERT INTO roles (name, permissions) VALUES ('desk', %s)"
        " ON CONFLICT (name) DO UPDATE SET permissions = excluded.permissions",
        (list(permissions),),
    )


async def test_permissions_are_those_of_all_roles_together(db: Database, conn: Connection) -> None:
    await define(conn, "users.read")
    await conn.execute("INSERT INTO roles (name, permissions) VALUES ('audit', '{events.read}')")
    roles = in_force(db)
    await roles.load()
    assert roles.permissions_of(frozenset({"desk", "audit", "undefined"})) == {"users.read", "events.read"}
    assert roles.permissions_of(frozenset({"undefined"})) == frozenset()
    assert roles.permissions_of(frozenset({"desk"})) is roles.permissions_of(frozenset({"desk"}))


async def test_a_change_comes_with_its_event(db: Database, conn: Connection) -> None:
    async with kept(in_force(db)) as roles:
        await define(conn, "users.read")
        journal = Journal(new_id=uuid4)
        await db.transact(lambda conn: journal.record(conn, RoleUpdated(None, "desk", ())))
        await until(roles, "users.read")


async def test_a_change_without_an_event_comes_with_time(db: Database, conn: Connection) -> None:
    now = [0.0]
    async with kept(in_force(db, clock=lambda: now[0])) as roles:
        await until(roles)
        await asyncio.sleep(0.2)
        await define(conn, "users.read")
        await asyncio.sleep(1.2)  # more than one checkpoint
        await until(roles)
        now[0] = 60.0
        await until(roles, "users.read")


async def test_while_the_database_is_away_what_was_read_last_holds_and_then_changes_come_again(
    fragile: Fragile,
) -> None:
    async with await psycopg.AsyncConnection.connect(fragile.url, autocommit=True) as conn:
        await migrations.up(conn, migrations.load(migrations.folder()))
    async with Database(fragile.url, PoolOptions(min_size=1, max_size=3, acquire_timeout=0.5)) as db:
        await db.transact(lambda conn: define(conn, "users.read"))
        async with kept(in_force(db)) as roles:
            await until(roles, "users.read")
            await fragile.server.stop()
            await asyncio.sleep(1.5)
            await until(roles, "users.read")
            await fragile.server.start()
            await db.transact(lambda conn: define(conn, "events.read"))
            journal = Journal(new_id=uuid4)
            await db.transact(lambda conn: journal.record(conn, RoleUpdated(None, "desk", ())))
            await until(roles, "events.read", seconds=30)
