"""The users of the benchmarks: made through the service, multiplied in the database, with as many tokens as needed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import grpc.aio
import psycopg
from gatelodge.auth.v1 import auth_pb2, auth_pb2_grpc
from uuid_utils.compat import uuid7

if TYPE_CHECKING:
    from bench.rig.house import House

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Person:
    """A user with a session."""

    email: str
    user_id: str
    access_token: str
    refresh_token: str


async def people(house: House, port: int, count: int) -> list[Person]:
    """Make `count` users with the same password, and log each in once."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        auth = auth_pb2_grpc.AuthServiceStub(channel)
        email = "person0@example.com"
        await auth.Register(auth_pb2.RegisterRequest(email=email, password=PASSWORD))
        with psycopg.connect(house.database_url, autocommit=True) as conn:
            for number in range(1, count):
                conn.execute(
                    """
                    WITH one AS (
                        INSERT INTO users (id, email, email_canonical)
                        VALUES (%(id)s, %(email)s, %(email)s) RETURNING id
                    )
                    INSERT INTO passwords (user_id, hash)
                    SELECT one.id, passwords.hash FROM one, passwords
                    JOIN users ON users.id = passwords.user_id WHERE users.email = 'person0@example.com'
                    """,
                    {"id": uuid7(), "email": f"person{number}@example.com"},
                )
        return [await _log_in(auth, f"person{number}@example.com") for number in range(count)]


async def _log_in(auth: auth_pb2_grpc.AuthServiceAsyncStub, email: str) -> Person:
    answer = await auth.Login(auth_pb2.LoginRequest(email=email, password=PASSWORD))
    return Person(email, answer.user_id, answer.access_token, answer.refresh_token)


async def fresh_tokens(port: int, persons: list[Person], count: int) -> list[tuple[Person, str]]:
    """Return `count` access tokens, no two alike: what Refresh gives when it is asked again and again."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        auth = auth_pb2_grpc.AuthServiceStub(channel)

        async def some(person: Person, wanted: int) -> list[tuple[Person, str]]:
            refresh_token, got = person.refresh_token, []
            for _ in range(wanted):
                answer = await auth.Refresh(auth_pb2.RefreshRequest(refresh_token=refresh_token))
                refresh_token = answer.refresh_token
                got.append((person, answer.access_token))
            return got

        each = -(-count // len(persons))
        return [one for many in await asyncio.gather(*(some(person, each) for person in persons)) for one in many]


def make_administrator(house: House, person: Person) -> None:
    """Give the person every permission; their next token has it."""
    with psycopg.connect(house.database_url, autocommit=True) as conn:
        conn.execute("UPDATE users SET roles = '{admin}' WHERE id = %s", (UUID(person.user_id),))


def crowd(house: House, count: int) -> None:
    """Add `count` users without passwords, for lists to have something to list."""
    with psycopg.connect(house.database_url, autocommit=True) as conn:
        conn.execute(
            """
            INSERT INTO users (id, email, email_canonical, display_name)
            SELECT uuidv7(), address, address, 'Somebody'
            FROM (SELECT format('crowd%%s@example.com', n) AS address FROM generate_series(1, %s) AS n)
            """,
            (count,),
        )
        conn.execute("ANALYZE")
