"""What the auth feature's SQL promises that its callers cannot see."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from service.auth.statements import INSERT_PASSWORD, REPLACE_HASH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.db import Connection


@pytest.fixture
async def conn(url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


async def user(conn: Connection) -> UUID:
    user_id = uuid4()
    await conn.execute("INSERT INTO users (id, email, email_canonical) VALUES (%s, 'a@b', 'a@b')", (user_id,))
    return user_id


async def test_a_rehash_never_undoes_a_password_changed_meanwhile(conn: Connection) -> None:
    user_id = await user(conn)
    await INSERT_PASSWORD.execute(conn, user_id=user_id, hash="changed meanwhile")
    assert await REPLACE_HASH.execute(conn, user_id=user_id, old_hash="verified", new_hash="rehashed") == 0
    assert await REPLACE_HASH.execute(conn, user_id=user_id, old_hash="changed meanwhile", new_hash="rehashed") == 1
