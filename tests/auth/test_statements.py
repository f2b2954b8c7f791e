"""What the auth feature's SQL promises that its callers cannot see."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from service.auth.keys import KeysUnreadable, load_or_create
from service.auth.sealing import Seal
from service.auth.statements import INSERT_PASSWORD, REPLACE_HASH
from service.db import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.db import Connection

SEAL = Seal(b"m" * 32)


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


async def test_replicas_that_start_together_agree_on_one_key(url: str) -> None:
    async with Database(url) as database:
        rings = await asyncio.gather(*(load_or_create(database, SEAL) for _ in range(8)))
    assert len({ring.active.public.kid for ring in rings}) == 1
    assert {len(ring.verifying) for ring in rings} == {1}


async def test_keys_do_not_open_under_another_master_secret(url: str) -> None:
    async with Database(url) as database:
        await load_or_create(database, SEAL)
        with pytest.raises(KeysUnreadable):
            await load_or_create(database, Seal(b"n" * 32))


async def test_the_private_key_is_not_in_the_database_in_clear(url: str, conn: Connection) -> None:
    async with Database(url) as database:
        ring = await load_or_create(database, SEAL)
    cursor = await conn.execute("SELECT private_key, public_jwk FROM signing_keys")
    row = await cursor.fetchone()
    assert row is not None
    secret = ring.active.private.private_numbers().private_value.to_bytes(32, "big")
    assert secret not in bytes(row[0])
    assert "d" not in row[1]
