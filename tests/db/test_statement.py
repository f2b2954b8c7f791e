"""Statements: typed rows, exact parameters, constraint and driver faults as domain errors, spans."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from psycopg.conninfo import conninfo_to_dict

from service.db import Command, Database, PoolOptions, Statement
from service.errors import Conflict, DeadlineExceeded, DependencyUnavailable, EmailTaken, UserNotFound
from service.spans import trace_with

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from service.db import Connection

pytestmark = pytest.mark.asyncio


class User(NamedTuple):
    id: UUID
    email: str


class Number(NamedTuple):
    n: int


class Document(NamedTuple):
    document: dict[str, Any]


FIND = Statement(
    "users.find",
    "SELECT id, email FROM users WHERE id = %(user_id)s",
    row=User,
    params={"user_id": UUID},
    missing=UserNotFound,
)
INSERT = Command(
    "users.insert",
    "INSERT INTO users (id, email, email_canonical) VALUES (%(user_id)s, %(email)s, %(email)s)",
    params={"user_id": UUID, "email": str},
    raises={"users_email_canonical_key": EmailTaken},
)
NUMBERS = Statement(
    "numbers.list", "SELECT n FROM generate_series(1, %(count)s) AS n", row=Number, params={"count": int}
)
SLEEP = Command("sleep", "SELECT pg_sleep(%(seconds)s)", params={"seconds": float})


async def test_rows_come_back_as_their_type(conn: Connection) -> None:
    user_id = uuid4()
    assert await INSERT.execute(conn, user_id=user_id, email="a@example.com") == 1
    row = await FIND.one(conn, user_id=user_id)
    assert row == User(user_id, "a@example.com")
    assert isinstance(row, User)
    assert await FIND.optional(conn, user_id=user_id) == row
    assert await FIND.all(conn, user_id=user_id) == [row]


async def test_a_row_that_is_not_there_is_none_or_the_declared_error(conn: Connection) -> None:
    assert await FIND.optional(conn, user_id=uuid4()) is None
    with pytest.raises(UserNotFound):
        await FIND.one(conn, user_id=uuid4())


async def test_more_rows_than_one_are_a_fault_of_the_statement(conn: Connection) -> None:
    with pytest.raises(RuntimeError, match=r"numbers\.list gave 2 rows"):
        await NUMBERS.optional(conn, count=2)


@pytest.mark.parametrize("values", [{}, {"user": 1}, {"user_id": 1, "more": 2}])
async def test_parameters_are_exactly_the_declared_ones(conn: Connection, values: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"users\.find takes exactly \['user_id'\]"):
        await FIND.one(conn, **values)


async def test_a_constraint_becomes_its_domain_error_with_the_drivers_as_cause(conn: Connection) -> None:
    await INSERT.execute(conn, user_id=uuid4(), email="a@example.com")
    with pytest.raises(EmailTaken) as caught:
        await INSERT.execute(conn, user_id=uuid4(), email="a@example.com")
    assert isinstance(caught.value.__cause__, psycopg.errors.UniqueViolation)


async def test_a_constraint_nobody_declared_is_left_a_programming_fault(conn: Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        await INSERT.execute(conn, user_id=uuid4(), email="")


async def test_a_dictionary_goes_into_jsonb_and_comes_out(conn: Connection) -> None:
    echo = Statement("echo", "SELECT %(d)s::jsonb AS document", row=Document, params={"d": dict[str, Any]})
    assert (await echo.one(conn, d={"a": [1]})).document == {"a": [1]}


async def test_a_statement_timeout_is_deadline_exceeded(url: str) -> None:
    async with Database(url, PoolOptions(statement_timeout=0.05)) as db:
        with pytest.raises(DeadlineExceeded):
            await db.read(lambda conn: SLEEP.execute(conn, seconds=5.0))


async def test_a_lock_not_to_be_had_is_a_conflict(conn: Connection, url: str) -> None:
    lock = Command("users.lock", "LOCK TABLE users IN ACCESS EXCLUSIVE MODE NOWAIT")
    async with await psycopg.AsyncConnection.connect(url) as other:
        await lock.execute(other)
        async with conn.transaction():
            with pytest.raises(Conflict):
                await lock.execute(conn)


async def test_a_lost_connection_is_an_unavailable_database(conn: Connection, admin: Connection) -> None:
    await admin.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
    with pytest.raises(DependencyUnavailable):
        await NUMBERS.all(conn, count=1)


async def test_a_large_result_streams_from_a_server_side_cursor(db: Database, admin: Connection, url: str) -> None:
    seen = 0
    async with aclosing(db.stream(lambda conn: NUMBERS.stream(conn, batch=10, count=100_000))) as rows:
        async for row in rows:
            seen = row.n
            if seen == 25:
                break
    assert seen == 25
    open_ones = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%%' AND datname = %s"
    cursor = await admin.execute(open_ones, (conninfo_to_dict(url)["dbname"],))
    assert await cursor.fetchone() == (0,)
    assert [row.n async for row in db.stream(lambda conn: NUMBERS.stream(conn, count=3))] == [1, 2, 3]


async def test_a_stream_fetches_no_more_than_a_batch_at_a_time(conn: Connection) -> None:
    batches = Statement("q", "SELECT nextval('s')::int AS n FROM generate_series(1, 1000)", row=Number)
    await conn.execute("CREATE SEQUENCE s")
    async with conn.transaction():
        rows: AsyncGenerator[Number, None] = batches.stream(conn, batch=10)
        assert (await anext(rows)).n == 1
        assert (await (await conn.execute("SELECT last_value FROM s")).fetchone()) == (10,)
        await rows.aclose()


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> Tracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider.get_tracer("test")


async def test_a_traced_statement_has_a_span_without_parameters(
    conn: Connection, spans: InMemorySpanExporter, tracer: Tracer
) -> None:
    async def traced_call() -> None:
        trace_with(tracer)
        await INSERT.execute(conn, user_id=uuid4(), email="secret@example.com")
        with pytest.raises(EmailTaken):
            await INSERT.execute(conn, user_id=uuid4(), email="secret@example.com")

    await asyncio.create_task(traced_call())
    good, bad = spans.get_finished_spans()
    assert good.kind is SpanKind.CLIENT
    assert good.attributes == {
        "db.system.name": "postgresql",
        "db.operation.name": "INSERT",
        "db.query.summary": "users.insert",
        "db.query.text": INSERT.sql,
    }
    assert bad.status.status_code is StatusCode.ERROR
    assert bad.attributes is not None
    assert bad.attributes["error.type"] == "UniqueViolation"
    assert bad.attributes["db.response.status_code"] == "23505"
    assert not bad.events
    assert "secret" not in good.to_json() + bad.to_json()


async def test_a_statement_outside_of_a_traced_call_has_no_span(
    conn: Connection, spans: InMemorySpanExporter, tracer: Tracer
) -> None:
    await asyncio.create_task(_traced_nothing(tracer))
    await NUMBERS.all(conn, count=1)
    assert spans.get_finished_spans() == ()


async def _traced_nothing(tracer: Tracer) -> None:
    trace_with(tracer)


async def test_statements_are_prepared_at_once_unless_told_not_to(url: str) -> None:
    count = Statement("p", "SELECT count(*)::int AS n FROM pg_prepared_statements", row=Number)
    for threshold, expected in ((0, 1), (None, 0)):
        async with Database(url, PoolOptions(min_size=1, max_size=1, prepare_threshold=threshold)) as db:
            await db.read(lambda conn: NUMBERS.all(conn, count=1))
            assert (await db.read(count.one)).n >= expected
            assert bool((await db.read(count.one)).n) is bool(expected)
    await asyncio.sleep(0)
