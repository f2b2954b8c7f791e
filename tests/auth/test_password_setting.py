"""Nobody gains by setting the password of somebody who may do more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from service.access import Principal
from service.auth.blocklist import Blocklist
from service.auth.hashing import Argon2Parameters, Hasher
from service.auth.password_setting import PasswordSetting
from service.auth.passwords import PasswordPolicy
from service.auth.sessions.ending import Ending
from service.auth.sessions.model import SessionTerms
from service.errors import PermissionMissing
from service.events.journal import Journal
from service.users.directory import Directory
from service.users.model import UserId

if TYPE_CHECKING:
    from service.db import Connection, Database

OPERATOR = Principal(str(uuid4()), permissions=frozenset({"users.set_password"}))
DAY = timedelta(days=1)
NEW = "an utterly different phrase"


class RefusingAt:
    """A guard that refuses when it is asked for the so-manieth time."""

    def __init__(self, time: int) -> None:
        self.time = time
        self.asked: list[UserId] = []

    async def may_act_on(self, conn: Connection, by: Principal, user_id: UserId) -> None:
        del conn
        assert by == OPERATOR
        self.asked.append(user_id)
        if len(self.asked) == self.time:
            raise PermissionMissing("users.set_password")

    async def keep_an_administrator(self, conn: Connection, user_id: UserId) -> None:
        del conn, user_id


def setting(database: Database, hasher: Hasher, guard: RefusingAt) -> PasswordSetting:
    journal = Journal(new_id=uuid7)
    terms = SessionTerms(lifetime=DAY, idle=DAY, grace=DAY, most=10)
    return PasswordSetting(
        database=database,
        directory=Directory(database=database, new_id=uuid7),
        hasher=hasher,
        policy=PasswordPolicy(15, Blocklist.load(names=())),
        ending=Ending(journal=journal, clock=lambda: datetime.now(UTC), terms=terms),
        journal=journal,
        guard=guard,
    )


async def test_the_guard_is_asked_before_and_again_while_the_row_is_held(db: Database, conn: Connection) -> None:
    user_id = UserId(UUID(int=1))
    await conn.execute("INSERT INTO users (id, email, email_canonical) VALUES (%s, 'a@b.c', 'a@b.c')", (user_id.value,))
    async with Hasher(
        Argon2Parameters(64, 1, 1), threads=1, queue=10, background=False, pepper=None, took=lambda _: None
    ) as hasher:
        for time in (1, 2):
            guard = RefusingAt(time)
            with pytest.raises(PermissionMissing):
                await setting(db, hasher, guard)(user_id, NEW, must_change=False, by=OPERATOR)
            assert guard.asked == [user_id] * time
            cursor = await conn.execute("SELECT (SELECT count(*) FROM passwords), (SELECT count(*) FROM events)")
            assert await cursor.fetchone() == (0, 0)
        await setting(db, hasher, RefusingAt(3))(user_id, NEW, must_change=False, by=OPERATOR)
    cursor = await conn.execute("SELECT count(*) FROM passwords")
    assert await cursor.fetchone() == (1,)
